"""Processes that map guest memory in the scenario `members`: production code on both sides, over a model of the kernel.

The first ones main starts, and adds by `MachineSwap.add_process`; these start others, and say so to `Newcomers`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from hfsched.explore.thing import Thing
from hfsched.runtime.base import ChannelClosedError
from hfsched.scenarios.swapchild import ModelChild
from hfsched.scenarios.swapmemory import PROCESSES
from hfsched.swap.client.arrivals import Arrival, Candidate, JoiningEnd
from hfsched.swap.client.childmember import ChildMember, Part
from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.childmessages import Map, Welcome, decode_request
from hfsched.swap.protocol.messages import Region
from hfsched.swap.protocol.newcomers import Newcomer, decode_newcomer, encode_newcomer

if TYPE_CHECKING:
    from hfsched.explore.foreign import XConnection
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.runtime.base import End, Event
    from hfsched.scenarios.swapmemory import Memory

__all__ = ["ModelMember", "Process", "announcing", "candidate_of"]

_SIZE = 1 << 16


class _Handed:
    """Main's copy of what a process has: nothing changes when it is closed."""

    def __init__(self, number: int = -1) -> None:
        self._number = number

    def fileno(self) -> int:
        """Return what stands for it."""
        return self._number

    def close(self) -> None:
        """Close this copy."""


class _Hearing:
    """Main's end of what a process says on: when it is closed, so are the ends that nobody has received."""

    def __init__(self, connection: XConnection, processes: Sequence[Process]) -> None:
        self.owner = self.thing = self._connection = connection
        self.ready = connection.ready
        self.recv_fds = connection.recv_fds
        self._processes = processes

    def close(self) -> None:
        """See `Connection`."""
        self._connection.close()
        for owner in self._processes:
            if owner.says is self._connection.peer:
                for child in owner.children:
                    if child.told and not child.heard:
                        child.mains.close()


class _Pair:
    """A runtime whose next channel is one that a process has the other end of from its start."""

    def __init__(self, runtime: ExploreRuntime, end: End) -> None:
        self._runtime = runtime
        self._end = end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def channel(self, _name: str) -> tuple[End, Any]:
        """See `Runtime.channel`."""
        return self._end, _Handed()


class ModelMember(ChildMember):
    """Main's side of a process: no requests but one set it up."""

    def __init__(self, process: Process, *args: Any, **kwargs: Any) -> None:
        self.process = process
        self.closed = False
        self._says: int = kwargs["announces"]
        super().__init__(*args, **kwargs)

    def _set_up(
        self, parts: Sequence[Part], deadline: int | None, undo: ExitStack
    ) -> tuple[Region, ...]:
        del parts, undo
        says: Any = self._runtime.adopt_connection("newcomers", self._says)
        self.process.says = says
        self._ask(Map(vms=()), deadline)
        return (Region(self.process.index, 0, 1),)

    def descriptors(self) -> Sequence[int]:
        """See `Member`: they must be open."""
        assert not self.closed, (
            f"{self.process.name} is to be served, and its descriptors are closed"
        )
        return ()

    def close(self) -> None:
        """See `ChildMember`."""
        self.closed = True
        super().close()

    def _ended(self, deadline: int | None) -> bool:
        del deadline  # its channel is closed when it dies, not earlier
        return self.process.is_dead()


class ModelCandidate(Candidate):
    """A child that has come; it has no descriptors."""

    def __init__(self, process: Process, message: Newcomer) -> None:
        super().__init__(message, process.mains, -1, -1)
        self._process = process

    def welcome(self, runtime: Any, closed: Event) -> JoiningEnd:
        """See `Candidate`."""
        return super().welcome(_Pair(runtime, self._process.end), closed)

    def arrival(self, name: str, end: End, vms: Sequence[str]) -> Arrival:
        """See `Candidate`."""
        return Arrival(name, end, None, None, vms, self.message.dynamic)


class Process(Thing):
    """A process, whose task accesses memory `touches` times, and which starts `children`.

    It waits to be started.  Main has the other ends of its channels: `end` for requests, `mains` on which it is told that
    it is taken in.  It has `says`, on which it tells main what it has started.
    """

    def __init__(
        self,
        runtime: ExploreRuntime,
        memory: Memory,
        writes: Callable[[str], None],
        touches: int,
        index: int,
        children: Sequence[Process] = (),
        *,
        newcomer: bool,
        fails: bool = False,
    ) -> None:
        super().__init__(runtime, PROCESSES[index])
        self.index = index
        self.children = children
        self._memory = memory
        self._writes = writes  # called with its name in the step in which it does
        self._touches = touches
        self._newcomer = newcomer
        self._fails = fails  # it may be unable to zap
        self.end, theirs = runtime.channel(self.name)
        self.mains, self._its = runtime.connection(f"{self.name}.first")
        self.says: XConnection | None = None
        self._handle = runtime.process(self.name, self._program, [theirs])
        self._begun = False  # what is explored has begun
        self._started = not newcomer
        self.told = self.heard = False  # its parent has told main of it, and main has received that
        self._answered = not newcomer  # it is taken in, or dismissed
        self._dismissed = ""
        self._over = False  # main is gone
        self._done = 0  # accesses

    def key(self) -> Hashable:
        """See `Thing.key`."""
        asked = (self._started, self.told, self.heard, self._answered, self._dismissed, self._over)
        return (*asked, self._begun, self.says is None, self._done, self.name in self._memory.dead)

    def is_dead(self) -> bool:
        """Return whether it has died, as main finds."""
        self.runtime.point("is it dead", self, also=(self._memory.phase,))
        dead = self.name in self._memory.dead
        self.runtime.observe(dead)
        return dead

    def _program(self, runtime: ExploreRuntime, end: End) -> None:
        if self._newcomer and not self._taken_in(end):
            return
        child = ModelChild(runtime, end, self._memory, self.name, fails=self._fails)
        runtime.spawn(f"{self.name}.work", partial(self._work, child))
        if self.children:
            runtime.spawn(f"{self.name}.starts", partial(self._start_children, child))
        child.serve()
        self.runtime.point("is over", self, write=True)
        self._over = True

    def _taken_in(self, end: End) -> bool:
        self.runtime.point("begin", self, write=True, condition=lambda: self._started)
        got = self._its.recv(_SIZE)
        message = decode_request(got)[1] if got else None
        self._its.close()
        self.runtime.point("is answered", self, write=True)
        self._answered = True
        if isinstance(message, Welcome):
            return True
        self._dismissed = message.text if message else "main is gone"  # type: ignore[union-attr]
        end.close()
        return False

    def _work(self, child: ModelChild) -> None:
        self.runtime.point("begin", self, condition=lambda: self._begun)
        for count in range(self._touches):
            self.runtime.retain_only(count)
            with child.touching():
                self._memory.touch(self.name, self._memory.pages[0], self.name)
                self._writes(self.name)
                self._done += 1

    def _start_children(self, child: ModelChild) -> None:
        self.runtime.point("begin", self, condition=lambda: self._begun)
        with child.touching():
            pass  # it is served itself
        assert self.says is not None
        for each in self.children:
            each.start()
            message = encode_newcomer(Newcomer(name=each.name, dynamic=True))
            with suppress(ChannelClosedError):
                each.told = bool(self.says.send(message))
            if not each.told:  # as `Child.start_child` does
                memory = self._memory
                ends = (memory.phase, memory.uffd, *memory.pages)
                self.runtime.point("kill", each, write=True, also=ends)
                each.die()

    def begin(self) -> None:
        """Let it do what it does, from now on; one that is there has accessed memory before."""
        self._begun = True
        if not self._newcomer:
            for page in self._memory.pages:
                page.mapped.add(self.name)

    def start(self) -> None:
        """Let it run."""
        self.runtime.point("start", self, write=True)
        self._started = True

    def die(self) -> None:
        """End it, within a step, with what it has open."""
        self._memory.die(self.name)
        group, touched = self._handle.group, self.runtime.controller.touched
        ours = [
            self._its,
            *(each.mains for each in self.children if each._started and not each.told),
        ]
        if self.says is not None:
            ours.append(self.says)
        for end in ours:
            touched += [(end.name, True), (end.peer.name, True)]
            end.cut()
        touched += [(self.name, True), *((end.name, True) for end in group.ends)]
        self.runtime.controller.kill(group)

    def check(self, *, closed: bool) -> None:
        """Check, when no task is enabled, that it has its answer, and is not still paused."""
        if self.name in self._memory.dead or not self._started:
            return
        assert self._answered, f"{self.name} is neither taken in nor dismissed"
        waits = self._done < self._touches and not self._dismissed and not self._over
        assert closed or not waits, f"{self.name} is never resumed"
        heard = self.says is not None and not self.says.peer.closed
        assert not (closed and heard), f"what {self.name} says on is never closed"
        assert not closed or self._dismissed or self._over, (
            f"{self.name} is not told that main is gone"
        )


def candidate_of(processes: Sequence[Process], data: bytes) -> ModelCandidate:
    """Return the child that a message is about, as `hfsched.swap.client.arrivals.candidate` does."""
    message = decode_newcomer(data)
    (process,) = (each for each in processes if each.name == message.name)
    dead = process.is_dead()
    process.heard = True
    if dead:
        process.mains.close()
        raise SwapError("it has ended")
    return ModelCandidate(process, message)


def announcing(runtime: ExploreRuntime, processes: Sequence[Process]) -> tuple[Any, Any]:
    """Return what `hfsched.swap.client.newcomers.announcing` does."""
    ours, its = runtime.connection("newcomers")
    return _Hearing(ours, processes), _Handed(runtime.descriptor(its))
