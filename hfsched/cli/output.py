"""Output for the user: guests' lines on standard output, hfsched's own on standard error."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Literal, TypeAlias

from hfsched.cli.lines import Lines, write_all
from hfsched.mailbox.ports import RAW
from hfsched.text import count, printable_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from hfsched.runtime.base import Event, Runtime

__all__ = ["Escape", "Output", "give_up_output", "notice"]

Escape: TypeAlias = Literal["always", "never", "auto"]

_COLOURS = (36, 32, 33, 35, 34, 31)


class Output:
    """Prints guests' logs and messages on a descriptor, as text or as JSON objects.

    In text, CR LF is one line end, as LF is.  Other control characters, and bytes that are not UTF-8,
    are shown escaped if `escape` is "always", and on a terminal if it is "auto"; else they are what
    the guest sent.

    `error` is the OSError that ended it, None while it works; `changed` is set with it.  `gate()` comes
    before each write.
    """

    def __init__(
        self,
        runtime: Runtime,
        fd: int,
        names: list[str],
        *,
        as_json: bool,
        changed: Event,
        gate: Callable[[], None] | None = None,
        escape: Escape = "auto",
    ) -> None:
        self._json = as_json
        self._colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
        terminal = os.isatty(fd)
        self._escape = escape == "always" or (escape == "auto" and terminal)
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self._colour = terminal and not plain
        self._lines = Lines(runtime, "output", fd, self._loss, changed, gate)

    @property
    def error(self) -> OSError | None:
        """The error that ended it."""
        return self._lines.error

    def log(self, vm: str, line: bytes) -> None:
        """Print a line of a guest's log; never blocks."""
        if self._json:
            self._lines.offer(_object({"event": "log", "vm": vm, **_payload("line", line)}))
        else:
            self._lines.offer(self._prefixed(vm, f"[{vm}]", line))

    def answer(self, vm: str, source: int, payload: bytes) -> None:
        """Print a message from a guest; waits for space."""
        if self._json:
            port = None if source == RAW else source
            event = {"event": "message", "vm": vm, "port": port, **_payload("text", payload)}
            self._lines.put(_object(event))
        else:
            text = payload.replace(b"\r\n", b"\n").rstrip(b"\n")
            self._lines.put(self._prefixed(vm, f"{vm}:", text))

    def offer(self, event: dict[str, object]) -> None:
        """Print a JSON object, nothing without --json; never blocks."""
        if self._json:
            self._lines.offer(_object(event))

    def event(self, event: dict[str, object]) -> None:
        """Print a JSON object, nothing without --json; waits for space."""
        if self._json:
            self._lines.put(_object(event))

    def close(self, deadline: int | None = None) -> bool:
        """Write what is left; return whether all of it was written before the deadline."""
        return self._lines.close(deadline)

    def _prefixed(self, vm: str, prefix: str, line: bytes) -> bytes:
        if self._colour:
            prefix = f"\x1b[{self._colours[vm]}m{prefix}\x1b[0m"
        text = printable_bytes(line).encode() if self._escape else line
        return prefix.encode() + b" " + text + b"\n"

    def _loss(self, lines: int) -> bytes:
        if self._json:
            return _object({"event": "log-lost", "lines": lines})
        lost = f"{count(lines, 'line')} of guests' logs"
        return f"hfsched: {lost} lost: not read in time\n".encode()


def _object(event: dict[str, object]) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _payload(name: str, data: bytes) -> dict[str, object]:
    """Return UTF-8 text as it is, other bytes in base64 under ``data``."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {"data": base64.b64encode(data).decode()}


def notice(text: str) -> None:
    """Print a line on standard error, which may be full, closed or missing."""
    with contextlib.suppress(OSError):
        write_all(2, f"hfsched: {text}\n".encode("utf-8", "backslashreplace"))


def give_up_output() -> None:
    """Lose what is left in the buffer of standard output, which cannot be written: it would be tried again at the end."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
