"""A mirror over a runtime in which nothing runs beside anything else, for tests of it row by row."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from hfsched.mailbox.mirror import Mirror, VcpuActivity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hfsched.runtime.base import (
        Cell,
        Connection,
        End,
        EventFd,
        Flag,
        Listener,
        Process,
        Shared,
        Task,
        Waitable,
    )

__all__ = ["GONE", "OFF", "PARK", "RUN", "WFI", "WFM", "Case", "ParkedError", "ScriptedRuntime"]

T = TypeVar("T")
RUN, WFM, WFI, OFF, GONE = VcpuActivity
PARK = {
    WFM: lambda mirror, vcpu: mirror.wait_for_message(vcpu, None),
    WFI: lambda mirror, vcpu: mirror.wait_for_interrupt(vcpu, None),
    OFF: lambda mirror, vcpu: mirror.switched_off(vcpu),
}


class ParkedError(Exception):
    """The vCPU's thread would sleep now."""


class ScriptedLock:
    """Not reentrant; whoever sleeps while it is held has a bug."""

    def __init__(self, state: Callable[[], object]) -> None:
        self.held = False
        self.state = state
        self.last: object = None
        self.used = False

    def __enter__(self) -> None:
        assert not self.held
        assert not self.used or self.state() == self.last, "changed while nobody held the lock"
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False
        self.last = self.state()
        self.used = True

    def acquire(self) -> None:
        self.__enter__()

    def release(self) -> None:
        self.__exit__()


class ScriptedEvent:
    """Sleeping on it runs the next planned step, and is `ParkedError` without one."""

    def __init__(self, runtime: ScriptedRuntime, name: str) -> None:
        self._runtime = runtime
        self.name = name
        self.flag = False
        self.closed = False

    def fileno(self) -> int:
        raise NotImplementedError

    def set(self) -> None:
        self.flag = True

    def clear(self) -> None:
        self.flag = False

    def is_set(self) -> bool:
        return self.flag

    def wait(self, deadline: int | None = None) -> bool:
        assert not any(lock.held for lock in self._runtime.locks), "sleeps with a lock held"
        while not self.flag:
            if deadline is not None and deadline <= self._runtime.time:
                return False
            if not self._runtime.steps:
                raise ParkedError(self.name)
            self._runtime.steps.popleft()()
        return True

    def close(self) -> None:
        self.closed = True


class ScriptedRuntime:
    """As much of a `Runtime` as a mirror needs; `steps` is what others do while a vCPU sleeps."""

    def __init__(self) -> None:
        self.time = 0
        self.steps: deque[Callable[[], object]] = deque()
        self.locks: list[ScriptedLock] = []
        self.everything: list[ScriptedEvent] = []
        self.events: list[ScriptedEvent] = []  # those that wake a vCPU's thread, in its order

    def lock(
        self, name: str, *, fair: bool = False, state: Callable[[], object] | None = None
    ) -> ScriptedLock:
        assert state is not None
        self.locks.append(ScriptedLock(state))
        return self.locks[-1]

    def event(self, name: str) -> ScriptedEvent:
        made = ScriptedEvent(self, name)
        self.everything.append(made)
        if name.endswith(".wake"):
            self.events.append(made)
        return made

    def adopt_end(self, name: str, fd: int) -> End:
        raise NotImplementedError

    def adopt_listener(self, name: str, fd: int) -> Listener:
        raise NotImplementedError

    def adopt_connection(self, name: str, fd: int) -> Connection:
        raise NotImplementedError

    def adopt_eventfd(self, name: str, fd: int) -> EventFd:
        raise NotImplementedError

    @property
    def spawner_lost(self) -> ScriptedEvent:
        raise NotImplementedError

    def now(self) -> int:
        return self.time

    def cell(self, name: str, value: T) -> Cell[T]:
        raise NotImplementedError

    def flag(self, name: str, *, value: bool) -> Flag:
        raise NotImplementedError

    def shared(self, name: str, value: T) -> Shared[T]:
        raise NotImplementedError

    def channel(self, name: str) -> tuple[End, End]:
        raise NotImplementedError

    def select(self, waitables: Sequence[Waitable], deadline: int | None = None) -> list[Waitable]:
        raise NotImplementedError

    def spawn(self, name: str, fn: Callable[[], None]) -> Task:
        raise NotImplementedError

    def process(
        self, name: str, main: Callable[..., None], ends: Sequence[End], *, outlives: bool = False
    ) -> Process:
        raise NotImplementedError

    def choose(self, name: str, n: int) -> int:
        raise NotImplementedError

    def sleep_until(self, deadline: int) -> None:
        raise NotImplementedError

    def checkpoint(self, label: str) -> None:
        raise NotImplementedError

    def retain_only(self, *live: Any, level: int = 0) -> None:
        pass


class Case:
    """A mirror whose vCPUs are in the states given."""

    def __init__(self, *rests: VcpuActivity) -> None:
        self.runtime = ScriptedRuntime()
        self.rested = 0
        self.mirror = Mirror(self.runtime, "g", len(rests), self._rest)
        for vcpu, rest in enumerate(rests):
            assert self.mirror.before_run(vcpu)
            if rest is GONE:
                self.mirror.leave(vcpu)
            elif rest is not RUN:
                with pytest.raises(ParkedError, match=rf"^g\.{vcpu}\.wake$"):
                    PARK[rest](self.mirror, vcpu)
        self.rested = 0

    def _rest(self) -> None:
        assert not any(lock.held for lock in self.runtime.locks), "told with the lock held"
        self.rested += 1

    def rests(self) -> list[VcpuActivity]:
        return [self.mirror.activity(vcpu) for vcpu in range(len(self.runtime.events))]

    def kicked(self, vcpu: int) -> bool:
        """Tell whether a wait of the running vCPU would end at once."""
        try:
            self.mirror.wait_for_interrupt(vcpu, None)
        except ParkedError:
            return False
        return True
