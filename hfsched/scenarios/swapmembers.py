"""Processes that map guest memory come and die while it is swapped, a snapshot tracks what they write, and swap closes.

Production code are `MachineSwap`, `Newcomers`, `MemberSet`, both sides of each process, and what the scenario `swap` has; the
kernel is a model.  Each process that has been started is taken in or dismissed, reads what was written last, is paused no
longer than a suspension, and is tracked before it writes; swap closes nothing beneath a task of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from hfsched.explore.registry import check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.explore.thing import Thing
from hfsched.memory.ram import PAGE_SIZE
from hfsched.scenarios.swapmachine import COMMANDS, KernelModel
from hfsched.scenarios.swapmain import FailingRuntime
from hfsched.scenarios.swapmemory import Memory
from hfsched.scenarios.swaporacles import CheckedEnabling, UnderWay
from hfsched.scenarios.swapprocess import ModelMember, Process, announcing, candidate_of
from hfsched.scheduler.suspension import Step, SuspendError, Suspension
from hfsched.swap.client.errors import SwapError
from hfsched.swap.client.memberset import MemberSet
from hfsched.vmm.swapping import MachineSwap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.swap.client.arrivals import Arrival

__all__ = ["MembersScenario"]

PARENTS = 2


class _Tracked(Thing):
    """The processes whose dirty pages are tracked; see `hfsched.memory.dirty.DirtyTracker`."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        super().__init__(runtime, "tracked")
        self._names: set[str] = set()

    def key(self) -> Hashable:
        """See `Thing.key`."""
        return tuple(sorted(self._names))

    def add(self, name: str) -> None:
        """Track one more process."""
        self.runtime.point("track", self, write=True)
        self._names.add(name)

    def check(self, name: str) -> None:
        """Check that a process which writes is tracked; within a step."""
        self.runtime.touch(self.name, write=False)
        assert name in self._names, f"{name} writes guest memory, and is not tracked"

    def let_go(self) -> None:
        """See `DirtyTracker`."""


class _Adding(Thing):
    """How many newcomers are being added, and whether any was."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        super().__init__(runtime, "adding")
        self.count = 0
        self._begun = False

    def key(self) -> Hashable:
        """See `Thing.key`."""
        return (self.count, self._begun)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one more for a ``with``."""
        self.runtime.point("adds", self, write=True)
        self.count += 1
        self._begun = True
        try:
            yield
        finally:
            self.runtime.point("has added", self, write=True)
            self.count -= 1

    def wait(self) -> None:
        """Wait for the first one to come."""
        self.runtime.point("somebody comes", self, condition=lambda: self._begun)


class _Kernel(KernelModel):
    def __init__(self, memory: Memory, processes: Sequence[Process], adding: _Adding) -> None:
        super().__init__(memory)
        self._processes = processes
        self._adding = adding
        self._runtime = memory.runtime

    def announcing(self, _runtime: object) -> tuple[Any, Any]:
        """See `SwapKernel`."""
        return announcing(self._runtime, self._processes)

    def candidate(self, _runtime: object, data: bytes, _fds: list[int]) -> Any:
        """See `SwapKernel`."""
        return candidate_of(self._processes, data)

    def child(self, runtime: object, name: str, *args: Any, **kwargs: Any) -> ModelMember:
        """See `SwapKernel`."""
        own = name.rpartition("/")[2]
        (process,) = (each for each in self._processes if each.name == own)
        return ModelMember(process, runtime, name, *args, **kwargs)

    def members_max(self) -> int:
        """See `SwapKernel`."""
        return len(self._processes) + 1

    def tracked_process(self, member: ModelMember) -> str:
        """Return what `_Tracked` calls it."""
        return member.process.name

    def close(self) -> None:
        """See `SwapKernel`: no task of swap may use it."""
        self._runtime.point("close", self._adding)
        assert not self._adding.count, "swap is closed while a process is being added"
        super().close()
        for process in self._processes:
            for page in self._memory.pages:
                self._memory.at("close", page)
                self._memory.wake(page, process.name)


class _Swap(MachineSwap):
    def __init__(self, adding: _Adding, *args: Any, **kwargs: Any) -> None:
        self.adding = adding
        super().__init__(*args, **kwargs)

    def _add_newcomer(self, new: Arrival) -> None:
        with self.adding.one():
            super()._add_newcomer(new)


WORDS: Mapping[str, Callable[[_Swap], object]] = {
    **COMMANDS,
    "collect": MachineSwap.collect,
    "close": MachineSwap.close,
    "await": lambda swap: swap.adding.wait(),
}


@dataclass(frozen=True)
class MembersScenario:
    """Two tasks give `commands` and those of `beside`, joined by ``-``, to a machine whose memory `parents` have mapped.

    The command ``await`` waits until a process comes that one of these has started.  Each of these starts `children` at any point, which access memory `touches` times, as they do.  The last `dies` of all may die
    at any point.  The first `deaths` monitors die, each at any point, and then `failing_starts` of them cannot be started.
    With `fails` a process may be unable to zap.  With `deadlines` those of requests may pass.  With `tracked` what is written is tracked, as for an incremental snapshot.
    """

    commands: str = "enable-out"
    beside: str = ""
    parents: int = 1
    children: int = 1
    touches: int = 1
    dies: int = 0
    deaths: int = 0
    failing_starts: int = 0
    fails: bool = False
    deadlines: bool = False
    tracked: bool = False

    values: ClassVar[Mapping[str, Collection[str]]] = {"commands": WORDS, "beside": WORDS}

    def __post_init__(self) -> None:
        for words in (self.commands, self.beside):
            for word in words.split("-") if words else ():
                if word not in WORDS:
                    raise ValueError(f"no command {word}: known: {', '.join(WORDS)}")
            if "await" in words and (self.dies or not self.children):
                raise ValueError("await: nobody may come")
        check_ranges(
            self,
            ("parents", 1, PARENTS),
            ("children", 0, 2),
            ("touches", 0, 20),
            ("dies", 0, self.parents * (1 + self.children)),
            ("deaths", 0, 4),
            ("failing_starts", 0, 3 if self.deaths else 0),
        )

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("members", self)

    def small(self) -> MembersScenario:
        """Return the size whose every interleaving a race pass runs."""
        return MembersScenario(commands="status", children=0, tracked=self.tracked)

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the machine and its first processes, and the tasks that give commands."""
        return _Machine(self, runtime).world()


class _Machine:
    def __init__(self, scenario: MembersScenario, runtime: ExploreRuntime) -> None:
        self._scenario = scenario
        self._runtime = runtime
        self._memory = Memory(runtime, 1)
        self._failing = FailingRuntime(
            runtime, scenario.deaths, failing_starts=scenario.failing_starts
        )
        self._tracked = _Tracked(runtime) if scenario.tracked else None
        self._processes = self._make_processes()
        self._begun: dict[str, int] = {}
        self._ended: dict[str, list[str]] = {}
        runtime.declare_records(self._begun, reason="what the oracles compare")
        runtime.spawn("start", self._start)
        runtime.settle()
        self._failing.begin()
        for process in self._processes:
            process.begin()
        for process in reversed(self._processes[len(self._processes) - scenario.dies :]):
            runtime.event_of(f"death of {process.name}", process.die)

    def _make_processes(self) -> list[Process]:
        """Return all, parents first."""
        scenario = self._scenario
        writes = (lambda _: None) if self._tracked is None else self._tracked.check
        make = partial(
            Process, self._runtime, self._memory, writes, scenario.touches, fails=scenario.fails
        )
        first = scenario.parents + 1
        parents, newcomers = [], []
        for number in range(scenario.parents):
            indices = range(first, first + scenario.children)
            first += scenario.children
            own = [make(index, newcomer=True) for index in indices]
            parents.append(make(number + 1, own, newcomer=False))
            newcomers += own
        return [*parents, *newcomers]

    def _start(self) -> None:
        members = MemberSet(self._runtime)
        suspension = Suspension(self._runtime, [Step("members", members.suspend, members.resume)])
        adding = _Adding(self._runtime)
        kernel = _Kernel(self._memory, self._processes, adding)
        rams: Any = {"vm": SimpleNamespace(fd=-1, size=PAGE_SIZE)}
        swap = self._swap = _Swap(
            adding,
            self._failing,
            None,
            rams,
            suspension,
            members,
            kernel=False,
            backing=lambda *_, **__: kernel,
        )
        under_way = UnderWay(self._runtime)
        swap.client.enabling = CheckedEnabling(
            swap.client.enabling, self._memory, under_way, exact=False
        )
        swap.dirty = self._tracked  # type: ignore[assignment]
        for process in self._processes[: self._scenario.parents]:
            swap.add_process(process.name, process.end, None)

    def world(self) -> World:
        """Return the world, with the tasks that give commands."""
        scenario = self._scenario
        for name, words in (("main", scenario.commands), ("beside", scenario.beside)):
            if words:
                self._ended[name] = []
                self._runtime.spawn(name, partial(self._command, name, words.split("-")))
        return World(
            self._check,
            invariant=self._memory.look,
            remembers=False,
            final=self._final,
            timers=scenario.deadlines or scenario.failing_starts > 0,
        )

    def _command(self, task: str, words: Sequence[str]) -> None:
        ended = self._ended[task]
        for index, word in enumerate(words):
            self._runtime.retain_only(index, tuple(ended))
            self._begun[task] = index + 1
            try:
                WORDS[word](self._swap)
            except (SwapError, SuspendError) as exc:
                ended.append(f"{word}: {exc}")
            else:
                ended.append(word)
        self._runtime.retain_only(len(words), tuple(ended))

    def _check(self) -> None:
        for task, begun in self._begun.items():
            ended = self._ended[task]
            assert len(ended) == begun, f"a request of {task} has no answer"
            for outcome in ended:
                assert "unexpected answer" not in outcome, f"an answer to another one: {outcome}"
                in_the_way = "member " in outcome or "process child" in outcome
                in_the_way &= not (self._scenario.deadlines and "in time" in outcome)
                in_the_way &= not outcome.endswith("it cannot")
                assert not in_the_way, f"a process that may die makes a command fail: {outcome}"
        closed = any("close" in ended for ended in self._ended.values())
        for process in self._processes if not (closed and self._scenario.deadlines) else ():
            process.check(closed=closed)
        if not closed:
            self._memory.check()
            assert not self._memory.held(), "moves wait for ever, and no snapshot holds them"

    def _final(self) -> Hashable:
        ended = tuple((task, tuple(outcome)) for task, outcome in sorted(self._ended.items()))
        return (ended, tuple(page.key() for page in self._memory.pages))
