"""Locks, events and cells of threads."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from _thread import LockType

__all__ = ["AtomicCell", "FlagEvent", "PlainFlag", "PlainShared"]

T = TypeVar("T")

_NS = 1_000_000_000


class FlagEvent:
    """A flag; each sleeping thread waits for its own lock, which is one futex.

    Setting it makes no system call unless a thread sleeps: a system call drops the interpreter lock,
    and the thread just woken takes it first.  The eventfd is created only for `select`.
    """

    __slots__ = ("_fd", "_flag", "_mutex", "_sleepers", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._mutex = threading.Lock()
        self._flag = False
        self._sleepers: list[LockType] = []
        self._fd = -1

    def fileno(self) -> int:
        with self._mutex:
            if self._fd < 0:
                self._fd = os.eventfd(int(self._flag), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._fd

    def set(self) -> None:
        with self._mutex:
            was_set, self._flag = self._flag, True  # first: `select` may return at once
            if self._fd >= 0 and not was_set:
                os.eventfd_write(self._fd, 1)
            for sleeper in self._sleepers:
                sleeper.release()
            self._sleepers.clear()

    def clear(self) -> None:
        with self._mutex:
            if self._fd >= 0 and self._flag:
                os.eventfd_read(self._fd)
            self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def wait(self, deadline: int | None = None) -> bool:
        with self._mutex:
            if self._flag:
                return True
            sleeper = threading.Lock()
            sleeper.acquire()
            self._sleepers.append(sleeper)
        try:
            if deadline is None:
                sleeper.acquire()
                return True
            left = max(0, deadline - time.monotonic_ns()) / _NS
            if sleeper.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
                return True
        except BaseException:
            self._stop_waiting(sleeper)
            raise
        return self._stop_waiting(sleeper)

    def _stop_waiting(self, sleeper: LockType) -> bool:
        """Stop waiting; return whether the event was set meanwhile."""
        with self._mutex:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
                return False
        return True

    def close(self) -> None:
        with self._mutex:  # it is set before who sets it has signalled the eventfd
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def __del__(self) -> None:
        self.close()


class AtomicCell(Generic[T]):
    """A `Cell`: writes take a lock, reads do not."""

    __slots__ = ("_mutex", "_value")

    def __init__(self, value: T) -> None:
        self._mutex = threading.Lock()
        self._value = value

    def get(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        with self._mutex:
            self._value = value

    def exchange(self, value: T) -> T:
        with self._mutex:
            old, self._value = self._value, value
        return old

    def compare_and_set(self, expected: T, value: T) -> bool:
        with self._mutex:
            if self._value != expected:
                return False
            self._value = value
        return True


class PlainFlag:
    """A `Flag`: a plain attribute."""

    __slots__ = ("_value",)

    def __init__(self, value: bool) -> None:  # noqa: FBT001
        self._value = value

    def get(self) -> bool:
        return self._value

    def set(self, value: bool) -> None:  # noqa: FBT001
        self._value = value


class PlainShared(Generic[T]):
    """A `Shared`: a plain attribute."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value
