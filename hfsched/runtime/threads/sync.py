"""Locks, events and cells of threads."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from _thread import LockType

__all__ = ["AtomicCell", "FairLock", "FlagEvent", "PlainFlag", "PlainShared"]

T = TypeVar("T")

_NS = 1_000_000_000


class FairLock:
    """A lock that is handed over in the order of arrival.

    `_lock` is held by the owner.  A thread that finds it held appends a new lock to the queue and sleeps
    on it; the owner that releases hands `_lock` over to the first of the queue without unlocking it.
    Both sides check again after their own step, so that no hand-over is missed.
    """

    __slots__ = ("_lock", "_mutex", "_queue")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mutex = threading.Lock()
        self._queue: deque[LockType] = deque()

    def __enter__(self) -> None:
        if not self._queue and self._lock.acquire(blocking=False):
            return
        turn = threading.Lock()
        turn.acquire()
        with self._mutex:
            self._queue.append(turn)
            self._hand_over()
        try:
            turn.acquire()
        except BaseException:  # interrupted: leave the queue, or release the lock if handed over
            with self._mutex:
                waiting = turn in self._queue
                if waiting:
                    self._queue.remove(turn)
            if not waiting:
                self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        self._lock.release()
        if self._queue:
            with self._mutex:
                self._hand_over()

    acquire = __enter__
    release = __exit__

    def _hand_over(self) -> None:
        """Give the lock to the first of the queue if it is free; under the mutex."""
        if self._queue and self._lock.acquire(blocking=False):
            self._queue.popleft().release()


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
