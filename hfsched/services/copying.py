"""A file's copy into a guest, step by step, and how a guest's refusal is told."""

from __future__ import annotations

import zlib
from typing import Protocol

from hfsched.errors import UserError
from hfsched.services.bodies import DATA_MAX, FileOp, FileRequest, Request
from hfsched.services.transaction import Answer, Status

__all__ = ["FileCopy", "ServiceError"]

_REASONS = {
    Status.BUSY: "busy: another one is under way",
    Status.HIBERNATED: "the guest has hibernated",
    Status.DAEMON_GONE: "the guest's daemon has ended",
    Status.RESTORED: "the machine has been restored",
    Status.CLOSED: "the VM has ended",
}


class ServiceError(UserError):
    """A guest did not do what it was asked for; `status` says why, the text is one line."""

    def __init__(self, vm: str, what: str, answer: Answer) -> None:
        self.status = answer.status
        said = answer.body.decode(errors="replace")
        reason = answer.status.name.lower().replace("_", " ")
        reason = _REASONS.get(answer.status, reason)
        super().__init__(f"vm {vm}: {what}: {reason}" + (f": {said!r}" if said else ""))


class _Ask(Protocol):
    def __call__(self, request: Request, deadline: int | None) -> bytes: ...


class _End(Protocol):
    def __call__(self, *, cancel: bool) -> None: ...


class FileCopy:
    """A copy under way: `write` all of it, in order, then `finish`; `cancel` unless it is finished.

    Each step raises ServiceError when the guest does not do it by the deadline (ns); then it is cancelled, and the
    guest removes its part.  Made by `GuestServices.begin_copy`; for one task at a time.
    """

    def __init__(self, ask: _Ask, end: _End, transfer: int) -> None:
        self._ask = ask
        self._end = end
        self._transfer = transfer
        self._open = True
        self._at = self._crc = 0

    def begin(self, name: str, size: int, mode: int, deadline: int | None) -> None:
        """Ask the guest to make the part; `begin_copy` does."""
        self._step(FileRequest(FileOp.BEGIN, self._transfer, size, mode, name), deadline)

    def write(self, data: bytes, deadline: int | None = None) -> None:
        """Send the bytes that come next."""
        for first in range(0, len(data), DATA_MAX):
            piece = data[first : first + DATA_MAX]
            self._step(FileRequest(FileOp.DATA, self._transfer, self._at, data=piece), deadline)
            self._at += len(piece)
            self._crc = zlib.crc32(piece, self._crc)

    def finish(self, deadline: int | None = None) -> None:
        """Have the guest check the whole, and give it its name."""
        self._step(FileRequest(FileOp.END, self._transfer, self._crc), deadline)
        self._open = False
        self._end(cancel=False)

    def cancel(self) -> None:
        """Have the guest remove its part, and wait for nothing; none is no error."""
        if self._open:
            self._open = False
            self._end(cancel=True)

    def _step(self, request: FileRequest, deadline: int | None) -> None:
        try:
            self._ask(request, deadline)
        except BaseException:
            self.cancel()
            raise
