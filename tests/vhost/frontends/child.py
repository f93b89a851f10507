"""A program that a test starts: its errors are kept, and shown when something is wrong."""

from __future__ import annotations

import resource
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress

from progress import QUIET

__all__ = ["Child", "FrontEndError"]

_MOST_OUTPUT = 1 << 30  # bytes of a file: QEMU may complain without end if its migration breaks
_SHOWN = 4000  # characters


class FrontEndError(Exception):
    """A front-end (or the back-end beside it) failed or fell silent; the message has its errors."""


class Child:
    """A started program; `descriptors` are inherited under their own numbers."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Sequence[int] = (),
    ) -> None:
        self.name = command[0].rpartition("/")[2]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with it
        try:
            self.process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=descriptors,
            )
        except BaseException:
            self._errors.close()
            raise
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (_MOST_OUTPUT, _MOST_OUTPUT))

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def errors(self) -> str:
        """Return the end of what it said so far."""
        size = self._errors.seek(0, 2)
        self._errors.seek(max(0, size - _SHOWN))
        return self._errors.read().decode(errors="replace")

    def failure(self, what: str) -> FrontEndError:
        """Return an error that says so and shows what the program said."""
        return self._failure(what, self.process.poll())

    def gone(self, what: str) -> FrontEndError:
        """Return such an error when one of its sockets has closed, which it does when it ends."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(QUIET)
        return self._failure(what, self.process.poll())

    def _failure(self, what: str, status: int | None) -> FrontEndError:
        state = "it runs" if status is None else f"it ended with status {status}"
        return FrontEndError(f"{self.name}: {what}; {state}, and has said: {self.errors()!r}")

    def wait(self) -> int:
        """Wait for its end, and return its exit status (-N: killed by signal N)."""
        try:
            return self.process.wait(QUIET)
        except subprocess.TimeoutExpired:
            raise self.failure(f"it has not ended in {QUIET:g} s") from None

    def kill(self) -> None:
        """Kill it, if it runs, by SIGKILL."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill it, and forget what it said."""
        self.kill()
        self._errors.close()
