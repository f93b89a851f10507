"""Work that other tasks post to a task, and may wait for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["Inbox"]


class _Work:
    """`do` returns whether it went well, and `done` is set afterwards, if somebody still waits."""

    def __init__(self, do: Callable[[], bool], done: Event | None) -> None:
        self.do = do
        self.done = done
        self.result = False


class Inbox:
    """`ready` is set when something was posted."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
        self._name = name
        self.ready = runtime.event(f"{name}.posted")
        self._lock = runtime.lock(f"{name}.posted", state=self.key)
        self._posted: deque[_Work] = deque()
        self._ended = False

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        return (len(self._posted), self._ended)

    def post(self, do: Callable[[], bool]) -> None:
        """Have something done, soon."""
        self._post(_Work(do, None))

    def call(self, do: Callable[[], bool], deadline: int | None) -> bool:
        """Have something done, and return what it returns; False if it is not done by the deadline (ns)."""
        work = _Work(do, self._runtime.event(f"{self._name}.done"))
        assert work.done is not None
        done = work.done
        if self._post(work):
            done.wait(deadline)
        with self._lock:
            work.done = None
            result = work.result
        done.close()
        return result

    def _post(self, work: _Work) -> bool:
        with self._lock:
            if self._ended:
                return False
            self._posted.append(work)
        self.ready.set()
        return True

    def serve(self) -> None:
        """Do what was posted, on the task."""
        self.ready.clear()
        while True:
            with self._lock:
                work = self._posted.popleft() if self._posted else None
            if work is None:
                return
            result = work.do()
            self._finish(work, result=result)

    def _finish(self, work: _Work, *, result: bool) -> None:
        with self._lock:
            work.result = result
            if work.done is not None:
                work.done.set()

    def end(self) -> None:
        """Take nothing more, and let who waits go: it is not done."""
        with self._lock:
            self._ended = True
            left = list(self._posted)
            self._posted.clear()
        for work in left:
            self._finish(work, result=False)

    def close(self) -> None:
        """Free it, once its task has ended and nobody posts any more."""
        self.end()
        self.ready.close()
