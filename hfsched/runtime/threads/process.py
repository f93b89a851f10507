"""Child processes of this one, by their pidfds."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from hfsched.runtime.threads.channel import poll_until

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ChildProcess", "reap"]


def reap(pidfd: int, *, block: bool = False) -> int | None:
    """Return a child's exit status, negative for a signal; None while it runs (without `block`).

    It is 0 if the status is not available, as where SIGCHLD is ignored.
    """
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | (0 if block else os.WNOHANG))
    except ChildProcessError:
        return 0
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


class ChildProcess:
    """See `hfsched.runtime.base.Process`; it takes ownership of `pidfd`.

    If it still runs when the last reference is dropped, `abandon` is called and takes the pidfd.
    """

    def __init__(self, name: str, pid: int, pidfd: int, abandon: Callable[[int], None]) -> None:
        self.name = name
        self._pid = pid
        self._pidfd = pidfd
        self._abandon = abandon
        self._lock = threading.Lock()
        self._joining = 0  # threads that wait for the pidfd
        self._status: int | None = (
            None  # once it is known, and no thread joins, the pidfd is closed
        )

    def kill(self) -> None:
        with self._lock, suppress(ProcessLookupError):
            if self._status is None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def join(self, deadline: int | None = None) -> bool:
        with self._lock:
            if self._status is not None:
                return True
            self._joining += 1
        ended = False
        try:
            if deadline is None:
                with suppress(ChildProcessError):  # as in `reap`
                    os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
                ended = True
            else:
                ended = bool(poll_until((self._pidfd,), deadline))
        finally:
            with self._lock:
                self._joining -= 1
                self._poll_status(block=ended)
        return ended

    @property
    def pid(self) -> int | None:
        return self._pid if self._status is None else None

    @property
    def exit_status(self) -> int | None:
        with self._lock:
            return self._poll_status()

    def _poll_status(self, *, block: bool = False) -> int | None:
        """Return the exit status; under the lock."""
        if self._status is None:
            self._status = reap(self._pidfd, block=block)
        if self._status is not None and not self._joining and self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        return self._status

    def __del__(self) -> None:
        if self._poll_status() is None:
            self._abandon(self._pidfd)
