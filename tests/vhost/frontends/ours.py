"""`hfsched device` as the back-end: the one that is tried."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Self

from .child import Child

__all__ = ["OurDevice"]


class OurDevice:
    """A process that serves a device of `kind` at `path`; used in a ``with``.  It listens when this is constructed."""

    def __init__(self, path: Path, kind: str, *arguments: str) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen()
            number = listener.fileno()
            command = [sys.executable, "-m", "hfsched", "device", kind, "--fd", str(number)]
            # It listens already: who connects before the process is there waits for it.
            self._child = Child([*command, *arguments], os.environ, [number])

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.alive

    def errors(self) -> str:
        """Return what it has said."""
        return self._child.errors()

    def kill(self) -> None:
        """Kill it by SIGKILL."""
        self._child.kill()

    def stop(self) -> int:
        """End it by a signal, and return its exit status."""
        if self._child.alive:
            self._child.process.terminate()
        return self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._child.close()
        self.path.unlink(missing_ok=True)
