"""Guest memory swapped out and in while guests access it, commands are given, and the monitor dies.

Production code are main's client and supervisor, the monitor's loop and state machine, and the changes
of the page table; the kernel and the copying of pages are a model (`swapmemory`, `swapstore`).  A guest
must read from each page what it wrote last, every fault is served, every request is answered, and every
accepted command is carried out although processes die.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.explore.thing import Thing
from hfsched.scenarios.swapmain import FailingRuntime, MainModel
from hfsched.scenarios.swaporacles import CheckedEnabling, UnderWay
from hfsched.scenarios.swapvariants import PARTS, VARIANTS, deadlock
from hfsched.scheduler.suspension import Holder, Step, Suspension
from hfsched.swap.client.client import MonitorClient
from hfsched.swap.client.errors import SwapError
from hfsched.swap.pages.entries import State
from hfsched.vmm.lazy import Damage

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["COMMANDS", "SwapScenario"]

COMMANDS: Mapping[str, Callable[[MonitorClient], object]] = {
    "enable": MonitorClient.enable,
    "status": MonitorClient.status,
    "trim": MonitorClient.trim,
    "out": MonitorClient.swap_out,
    "disable": MonitorClient.disable,
    "discard": lambda client: client.discard(0, 1),
    "close": MonitorClient.close,
}
# Commands that take a live snapshot, and of how many pages; None: all.
LIVE: Mapping[str, int | None] = {"live": None, "kept": 1}
COPIED = "copied"  # the command that takes one of all pages in a suspension
WORDS = (*COMMANDS, *LIVE, COPIED)
WITHIN = 1000  # ns
CHILDREN = ("lives", "dies", "static", "comes")


class _Gate(Thing):
    """The gate at which guests are stopped: between two accesses, never in a fault."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        super().__init__(runtime, "gate")
        self.stopped = False
        self.aborted = False
        self.inside: set[str] = set()

    def key(self) -> Hashable:
        return (self.stopped, self.aborted, tuple(sorted(self.inside)))

    def enter(self, guest: str) -> bool:
        """Begin to run; return False if the VM has aborted."""
        self.runtime.point("enter", self, write=True, condition=lambda: not self.stopped)
        self.runtime.observe(self.aborted)
        if not self.aborted:
            self.inside.add(guest)
        return not self.aborted

    def leave(self, guest: str) -> None:
        """Stop running."""
        self.runtime.point("leave", self, write=True)
        self.inside.discard(guest)

    def stop(self, _deadline: int | None) -> bool:
        """Stop all guests."""
        self.runtime.point("stop", self, write=True)
        self.stopped = True
        self.runtime.point("stopped", self, write=True, condition=lambda: not self.inside)
        return True

    def resume(self) -> None:
        """Undo `stop`."""
        self.runtime.point("resume", self, write=True)
        self.stopped = False


class _Accepted(Thing):
    """The last accepted command of those that determine the final place of pages."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        super().__init__(runtime, "accepted")
        self.last = ""

    def key(self) -> Hashable:
        return self.last

    def note(self, word: str) -> None:
        """Record a command, within the step that observes its acceptance."""
        if word in ("enable", "disable", "close"):
            self.last = word
            self.runtime.touch(self.name)


@dataclass(frozen=True)
class SwapScenario:
    """Main gives `commands`, another task those of `beside`, while `guests` access `pages`.

    Commands are joined by ``-``: ``enable-out-disable``; ``live`` takes a snapshot of all pages, which must be of the instant at
    which the guests were suspended, ``kept`` one of the first page alone, as an incremental snapshot, and ``copied`` one of all pages while they are suspended.  Each guest accesses pages `touches` times.
    The first `deaths` monitors die, each at any point.  With `abort` the VM aborts at any point, and
    main closes swap.  With `full` each write to the file may fail because it is full.  `child` is
    another process whose `workers` access the first page `touches` times each: it ``lives``, or ``dies`` at
    any point, as it may, or it is ``static``, and dies though it may not, or it ``comes`` at any point, as one that another
    process has started.  After the first monitor, the next
    `failing_starts` processes cannot be started.  With `deadlines` requests have them, which may pass, and
    so may those of the other process for its answers: then it answers late.  Monitors fail up to `bugs` times, each with an internal
    error in any piece of work.  With
    `stored` the memory is in a snapshot's layers at first, and with `damaged` the first page cannot be read there: its VM
    ends before anybody reads anything else from it.  With
    `spawner_dies` main may not exec, and the spawner dies at any point: no monitor can be
    started after that.
    """

    commands: str = "enable-out-disable"
    beside: str = ""
    guests: int = 1
    touches: int = 1
    pages: int = 1
    deaths: int = 0
    abort: bool = False
    full: bool = False
    bugs: int = 0
    child: str = ""
    workers: int = 1
    spawner_dies: bool = False
    failing_starts: int = 0
    deadlines: bool = False
    stored: bool = False
    damaged: bool = False
    variant: str = ""

    values: ClassVar[Mapping[str, Collection[str]]] = {
        "commands": WORDS,
        "beside": WORDS,
        "child": CHILDREN,
    }
    variants: ClassVar[Mapping[str, Variant]] = VARIANTS

    def __post_init__(self) -> None:
        for words in (self.commands, self.beside):
            for word in words.split("-") if words else ():
                if word not in WORDS:
                    raise ValueError(f"no command {word}: known: {', '.join(WORDS)}")
        check_ranges(
            self,
            ("guests", 0, 4),
            ("touches", 0, 20),
            ("pages", 1, 3),
            ("deaths", 0, 4),
            ("bugs", 0, 4),
            ("workers", 1, 3 if self.child else 1),
            ("failing_starts", 0, 3 if self.deaths else 0),
        )

        if self.damaged and not self.stored:
            raise ValueError("damaged=true needs stored=true")
        if self.damaged and "discard" in f"{self.commands}-{self.beside}":
            raise ValueError("damaged=true: a discard would make zero what cannot be read")
        if self.child and self.child not in CHILDREN:
            raise ValueError(f"child={self.child}: not {', '.join(CHILDREN)}")

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("swap", self)

    @property
    def enables_alone(self) -> bool:
        """Whether nothing brings pages in while an enable is under way."""
        moving = {*self.beside.split("-")} - {"", "status", *LIVE, COPIED}
        faults = (self.guests and self.touches) or self.child
        return not (moving or faults or self.abort or self.bugs or self.spawner_dies)

    def small(self) -> SwapScenario:
        """Return the size whose every interleaving a race pass runs."""
        return SwapScenario(
            commands=self.commands.partition("-")[0],
            stored=self.stored,
            damaged=self.damaged,
            variant=self.variant,
        )

    def build(self, runtime: ExploreRuntime) -> World:
        """Create main and its monitor, the guests, and the tasks that give commands."""
        if self.variant == "enable-deadlock":
            return deadlock(runtime, self.commands.split("-"))
        return _Machine(self, runtime).world()


class _Machine:
    """One execution's machine."""

    def __init__(self, scenario: SwapScenario, runtime: ExploreRuntime) -> None:
        self._scenario = scenario
        self._runtime = runtime
        parts = PARTS[scenario.variant]
        beside = scenario.beside.split("-")
        self.memory = parts.memory(
            runtime,
            scenario.pages,
            full=scenario.full,
            bugs=scenario.bugs,
            stored=scenario.stored,
            damaged=scenario.damaged,
            live=bool({*LIVE} & {*scenario.commands.split("-"), *beside}),
        )
        self.gate = _Gate(runtime)
        self._failing = FailingRuntime(
            runtime,
            scenario.deaths,
            spawner_dies=scenario.spawner_dies,
            failing_starts=scenario.failing_starts,
        )
        monitor = parts.monitor(self.memory)
        self.child_model = (
            parts.child(
                runtime,
                self.memory,
                scenario.touches,
                scenario.workers,
                dynamic=scenario.child != "static",
                within=WITHIN if scenario.deadlines else None,
            )
            if scenario.child
            else None
        )
        steps = [Step("guests", self.gate.stop, self.gate.resume)]
        if self.child_model is not None:
            steps.append(Step("child", self.child_model.stop, self.child_model.resume))
        suspension = Suspension(runtime, steps)
        self._hold = hold = Holder(suspension, "swap", frozen=True)
        self.client = parts.client(
            self._failing,
            monitor,
            hold,
            default_timeout=WITHIN if scenario.deadlines else None,
            on_lost=self._lost,
            needed=self.memory.needed,
            alarm=self._alarm() if scenario.damaged else None,
        )
        under_way = UnderWay(runtime)
        self.client.enabling = CheckedEnabling(
            self.client.enabling, self.memory, under_way, exact=scenario.enables_alone
        )
        self._live = parts.live(
            self.memory, self.client, Holder(suspension, "snapshot", frozen=True), under_way
        )
        self.lost: list[str] = []
        self.begun: dict[str, int] = {}  # task -> number of requests made
        self.ended: dict[str, list[str]] = {}  # task -> the requests' results
        runtime.declare_records(self.begun, reason="what the oracles compare")
        self._accepted = _Accepted(runtime)
        self._start()
        comes = scenario.child == "comes"
        if not (scenario.beside or scenario.abort or scenario.deadlines or comes):
            runtime.declare_private("swap.free")  # only main makes requests
        if not ({"enable", *LIVE, COPIED} & {*beside} or comes):
            runtime.declare_private("suspension*")  # only main suspends
        runtime.declare_retry("swap", "swap.free")

    def _alarm(self) -> Damage:
        memory = self.memory

        def condemn(_vm: str, _why: str) -> None:
            self._runtime.point("condemn", self.gate, write=True, also=(memory.pages[0],))
            self.gate.aborted = memory.pages[0].condemned = True

        return Damage(
            memory.alarm,
            memory.look_at_damage,
            lambda page: ("vm", page),
            lambda *_: "it is cut",
            condemn,
        )

    def _lost(self, why: str) -> None:
        self.lost.append(why)

    def _start(self) -> None:
        def start() -> None:
            self.client.start()
            self.client.add(MainModel(self.memory))
            if self.child_model is not None and self._scenario.child != "comes":
                self.child_model.join(self.client)

        self._runtime.spawn("start", start)
        self._runtime.settle()
        self._failing.begin()

    def world(self) -> World:
        scenario, runtime = self._scenario, self._runtime
        for number in range(scenario.guests):
            runtime.spawn(f"guest.{number}", partial(self._guest, f"guest.{number}", number))
        for name, words in (("main", scenario.commands), ("beside", scenario.beside)):
            if words:
                self.ended[name] = []
                runtime.spawn(name, partial(self._command, name, words.split("-")))
        if self.child_model is not None:
            self.child_model.begin(dies=scenario.child in ("dies", "static"))
            if scenario.child == "comes":
                runtime.spawn("join", partial(self.child_model.come, self.client, self._hold))
        if scenario.abort:
            runtime.event_of("abort", partial(setattr, self.gate, "aborted", True))
            self.ended["end"] = []
            runtime.spawn("end", self._close)
        return World(
            self._check,
            invariant=self.memory.look,
            remembers=False,
            final=self._final,
            timers=self._scenario.failing_starts > 0 or self._scenario.deadlines,
        )

    def _guest(self, name: str, first: int) -> None:
        pages = self.memory.pages
        for count in range(self._scenario.touches):
            self._runtime.retain_only(count)
            if not self.gate.enter(name):
                return
            self.memory.touch(name, pages[(first + count) % len(pages)])
            self._runtime.retain_only(count)
            self.gate.leave(name)
        self._runtime.retain_only("all")

    def _command(self, task: str, words: Sequence[str]) -> None:
        for index, word in enumerate(words):
            self._runtime.retain_only(index, tuple(self.ended[task]))
            self.begun[task] = index + 1
            self._do(task, word)
        self._runtime.retain_only(len(words), tuple(self.ended[task]))

    def _do(self, task: str, word: str) -> None:
        try:
            if word == COPIED:
                self._live.copy()
            elif word in LIVE:
                self._live.take(LIVE[word])
            else:
                COMMANDS[word](self.client)
        except SwapError as exc:
            self.ended[task].append(f"{word}: {exc}")
            if word == "enable" and self._undoes:
                self._accepted.note("disable")
        else:
            self.ended[task].append(word)
            self._accepted.note(word)

    @property
    def _undoes(self) -> bool:
        """Whether an Enable that fails leaves nothing staged: nobody else moves pages, and no second failure undoes that."""
        scenario = self._scenario
        return scenario.beside in ("", "status") and not scenario.bugs

    def _close(self) -> None:
        self._runtime.point("aborted", self.gate, condition=lambda: self.gate.aborted)
        self.begun["end"] = 1
        self._do("end", "close")

    # Oracles.

    def _check(self) -> None:
        orphaned = self._runtime.spawner_lost.peek()
        may_be_lost = orphaned and self._scenario.deaths
        assert may_be_lost or not self.lost, f"the monitor is lost: {self.lost[0]}"
        if self.lost and any(page.waiting for page in self.memory.pages):
            return  # the run ends with an error; a suspension may wait for a guest in a fault
        for task, begun in self.begun.items():
            assert len(self.ended[task]) == begun, f"a request of {task} has no answer"
            for outcome in self.ended[task]:
                in_the_way = "member 1" in outcome or "process child" in outcome
                if self._scenario.child == "static" and outcome.startswith("enable: "):
                    continue
                in_the_way &= not (self._scenario.deadlines and "in time" in outcome)
                assert not in_the_way, f"a process that may die makes a command fail: {outcome}"
                assert "unexpected answer" not in outcome, f"an answer to another one: {outcome}"
        if self.lost:
            return
        if not self._scenario.deaths:
            failed = self._scenario.bugs - self.memory.phase.bugs
            assert self.client.supervisor.failed == failed, "a monitor's failure is not told"
        self.memory.check()
        assert not self.memory.held(), "moves wait for ever, and no snapshot holds them"
        assert not self.gate.inside, "a guest is never resumed"
        if self.child_model is not None:
            self.child_model.check()
        last = "the spawner's death" if orphaned else self._accepted.last
        if self._scenario.bugs > 1:
            self._check_back_or_told()
        elif orphaned or last in ("disable", "close") or self._never_enabled:
            if self.memory.pages[0].layer is None:  # it does not come in, unless somebody needs it
                return
            for page in self.memory.pages:
                back = page.entry.state is State.RESIDENT and not page.registered
                assert back, f"after {last} {page.name} is not resident"

    @property
    def _never_enabled(self) -> bool:
        """Whether swap is as it was at first, snapshots or not."""
        scenario = self._scenario
        words = (*scenario.commands.split("-"), *scenario.beside.split("-"))
        return "enable" not in words and not scenario.deadlines

    def _check_back_or_told(self) -> None:
        """Check that pages are out after `disable` only where the last failure is told."""
        for page in self.memory.pages:
            back = page.entry.state is State.RESIDENT and not page.registered
            told = self.client.supervisor.failure
            assert back or told or self._accepted.last not in ("disable", "close"), (
                f"{page.name} is not resident, and no failure is told"
            )

    def _final(self) -> Hashable:
        ended = tuple((task, tuple(outcome)) for task, outcome in sorted(self.ended.items()))
        return (ended, tuple(page.key() for page in self.memory.pages))
