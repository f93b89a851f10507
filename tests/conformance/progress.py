"""How long tests wait: until nothing has moved for `QUIET`, and never until a time from the start."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeVar

__all__ = ["QUIET", "QUIET_NS", "Quiet", "finish", "run", "until"]

T = TypeVar("T")

QUIET = 120.0  # seconds; a machine that others need too may be that slow at one step, but no slower
QUIET_NS = round(QUIET * 1e9)
_STEP = 0.001  # seconds between looks


class Quiet:
    """For how long nothing has moved."""

    def __init__(self, enough: float = QUIET) -> None:
        self._enough = enough  # seconds
        self.moved()

    def moved(self) -> None:
        """Note that something has."""
        self._since = time.monotonic()

    @property
    def left(self) -> float:
        """How long (s) to wait at most for the next thing; 0 when it is time to give up."""
        return max(0.0, self._since + self._enough - time.monotonic())


def until(look: Callable[[], T], wanted: Callable[[T], bool]) -> T:
    """Look until what is seen is as `wanted`, and return it; raises if it has stopped to change."""
    quiet, last = Quiet(), None
    while not wanted(seen := look()):
        if seen != last:
            quiet.moved()
            last = seen
        assert quiet.left > 0, f"for {QUIET:g} s it has been {seen}"
        time.sleep(_STEP)
    return seen


def finish(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Read what a process says on its pipes, to its end; it is killed when it falls silent."""
    quiet = Quiet()
    said: dict[IO[bytes], bytes] = {}
    try:
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                said[stream] = b""
                selector.register(stream, selectors.EVENT_READ, stream)
            while selector.get_map():
                ready = selector.select(quiet.left)
                assert ready, f"it has said nothing for {QUIET:g} s, after {[*said.values()]}"
                quiet.moved()
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    said[key.data] += data
                    if not data:
                        selector.unregister(key.data)
                        key.data.close()
        process.wait(quiet.left)
    finally:
        process.kill()  # nothing, if it has ended
        process.wait()
    out, err = said.values()
    return out, err


def run(
    command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command; return its exit status, and what it said."""
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = (text.decode(errors="replace") for text in finish(process))
    return subprocess.CompletedProcess(command, process.returncode, out, err)
