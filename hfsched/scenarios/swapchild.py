"""A process besides main in the scenario `swap`: production code over a model of the kernel."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from hfsched.explore.thing import Thing
from hfsched.scenarios.swapmemory import CHILD, PROCESSES, Memory
from hfsched.swap.child.child import Child
from hfsched.swap.client.childmember import ChildMember, Part
from hfsched.swap.client.errors import SwapError
from hfsched.swap.client.memberset import MemberSet
from hfsched.swap.client.suspension import suspended
from hfsched.swap.protocol.childmessages import ChildAnswer, ChildRequest, Map, Mapped, Zap
from hfsched.swap.protocol.messages import Done, Refused, Region

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.runtime.base import End
    from hfsched.swap.client.client import MonitorClient
    from hfsched.swap.client.suspension import Suspendable

__all__ = ["ChildModel", "ModelChild"]


class ModelChild(Child):
    """A process's side, over a model of the kernel."""

    def __init__(
        self,
        runtime: ExploreRuntime,
        end: End,
        memory: Memory,
        process: str = CHILD,
        *,
        fails: bool = False,
    ) -> None:
        super().__init__(runtime, end)
        self._memory = memory
        self._process = process
        self._fails = fails  # it may be unable to zap

    def _answer(self, request: ChildRequest, fds: list[int]) -> tuple[ChildAnswer, Sequence[int]]:
        if isinstance(request, Zap):
            assert self.gate.key() == (False, 0), "it zaps while it is not paused"
            if self._fails and self._runtime.choose("it cannot zap", 2):
                return Refused(text="it cannot"), ()
            self._memory.zap(self._process)
            return Done(), ()
        if isinstance(request, Map):
            return Mapped(bases=()), ()
        return super()._answer(request, fds)


class _Member(ChildMember):
    def __init__(
        self,
        runtime: ExploreRuntime,
        end: End,
        memory: Memory,
        *,
        dynamic: bool,
        within: int | None,
    ) -> None:
        self._memory = memory
        super().__init__(
            runtime, CHILD, end, [], None, pagemap=None, dynamic=dynamic, within=within
        )
        self.number = 1

    def _set_up(
        self, parts: Sequence[Part], deadline: int | None, undo: ExitStack
    ) -> tuple[Region, ...]:
        del parts, deadline, undo
        return (Region(PROCESSES.index(CHILD), 0, 1),)

    def descriptors(self) -> Sequence[int]:
        return ()

    def _ended(self, deadline: int | None) -> bool:
        del deadline  # its channel is closed when it dies, not earlier
        return CHILD in self._memory.dead


class ChildModel(Thing):
    """The process, whose `workers` access memory `touches` times each, and main's side of it."""

    def __init__(
        self,
        runtime: ExploreRuntime,
        memory: Memory,
        touches: int,
        workers: int = 1,
        *,
        dynamic: bool,
        within: int | None = None,
    ) -> None:
        super().__init__(runtime, CHILD)
        self._memory = memory
        self._touches = touches
        here, theirs = runtime.channel(CHILD)
        self._handle = runtime.process(CHILD, self._program, [theirs])
        self._member = _Member(runtime, here, memory, dynamic=dynamic, within=within)
        self._members = MemberSet(runtime)
        self._joined = self._dismissed = False
        self._started = False
        self._workers = workers
        self._done = 0  # touches, of all

    def key(self) -> Hashable:
        """See `Thing.key`."""
        joined = (self._joined, self._dismissed)
        return (self._member.key(), CHILD in self._memory.dead, joined, self._started, self._done)

    def _program(self, runtime: ExploreRuntime, end: End) -> None:
        child = ModelChild(runtime, end, self._memory)
        for number in range(self._workers):
            name = "child.work" if not number else f"child.work.{number}"
            runtime.spawn(name, partial(self._work, child, name))
        child.serve()

    def _work(self, child: Child, name: str) -> None:
        self.runtime.point("begin", self, condition=lambda: self._started)
        for count in range(self._touches):
            self.runtime.retain_only(count)
            with child.touching():
                self._memory.touch(name, self._memory.pages[0], CHILD)
                self._done += 1

    def join(self, client: MonitorClient) -> None:
        """Add it as a member, before anything else happens."""
        client.add(self._member)
        self._add()
        self._member.resume()
        for page in self._memory.pages:
            page.mapped.add(CHILD)  # it has accessed them

    def come(self, client: MonitorClient, hold: Suspendable) -> None:
        """Be the task that adds it at any time, as `MachineSwap` does one that another process has started."""
        try:
            with suspended(hold):
                client.add(self._member)
                self._add()
        except SwapError:
            self._dismissed = True
            self._member.close()

    def _add(self) -> None:
        self._members.add(self._member)
        self.runtime.point("joined", self, write=True)
        self._joined = True

    def begin(self, *, dies: bool) -> None:
        """Let it access memory; with `dies`, it may die at any point."""
        self._started = True
        if dies:
            self.runtime.event_of("death of the child", self._die)

    def _die(self) -> None:
        self._memory.die(CHILD)
        group = self._handle.group
        self.runtime.controller.touched += [(end.name, True) for end in group.ends]
        self.runtime.controller.kill(group)

    def stop(self, deadline: int | None) -> bool:
        """Pause it; see `Step`."""
        return self._members.suspend(deadline)

    def resume(self) -> None:
        """Undo `stop`."""
        self._members.resume()

    def check(self) -> None:
        """Check, when no task is enabled, that it is not still paused."""
        held = self._done < self._touches * self._workers and CHILD not in self._memory.dead
        assert not held or self._dismissed, "the child is never resumed"
