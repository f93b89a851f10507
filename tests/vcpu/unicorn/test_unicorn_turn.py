"""Who waits for the turn on Unicorn: it leaves without it when it is kicked, and a suspension wakes nobody for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import a64
import pytest
from progress import QUIET_NS
from unicorn_guest import BASE, DATA, Guest

from hfsched.explore.execution import search
from hfsched.explore.replay import failure_text
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.explore.testing import Settings, check
from hfsched.hypervisor.interface import Preempted, VmInfo, WaitForInterrupt
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.ports import Ports
from hfsched.scheduler.driver import Driver
from hfsched.vcpu.engine import Hypercall, Kicked, Permissions
from hfsched.vcpu.turn import Place, Turn
from hfsched.vcpu.unicorn.cpu import UnicornVcpu


class Waiting:
    """A guest whose CPU 1 waits for the turn, which the test has."""

    def __init__(self, guest: Guest) -> None:
        guest.load(a64.hvc())
        self.guest = guest
        cpu = guest.space.vcpu(1)
        assert isinstance(cpu, UnicornVcpu)
        self.cpu = cpu
        self.turn = cpu._turn
        self.ends: list[object] = []
        self.has = True
        assert self.turn.take(self.turn.place("test"), lambda: False)
        self.enter()

    def enter(self) -> None:
        self.cpu.reset(BASE, 0)
        self._task = self.guest.runtime.spawn("cpu", lambda: self.ends.append(self.cpu.enter()))
        self.until(lambda: self.cpu._place.waits)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = self.guest.runtime.now() + QUIET_NS
        while not holds():
            assert self.guest.runtime.now() < deadline
            self.guest.runtime.checkpoint("not yet")

    def left(self) -> object:
        """Return what `enter` returned."""
        assert self._task.join(self.guest.runtime.now() + QUIET_NS)
        return self.ends.pop()

    def give(self) -> None:
        self.has = False
        self.turn.give()


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    with Guest(vcpus=2) as guest:
        made = Waiting(guest)
        yield made
        made.cpu.kick()
        made._task.join()
        if made.has:
            made.give()


def test_who_is_kicked_leaves_without_the_turn(waiting: Waiting) -> None:
    for _ in range(3):
        waiting.cpu.kick()
        assert waiting.left() == Kicked()
        waiting.enter()
    waiting.give()
    assert isinstance(waiting.left(), Hypercall)


def test_who_is_kept_out_executes_when_it_is_let_in(waiting: Waiting) -> None:
    assert waiting.cpu.keep_out()
    waiting.give()
    assert not waiting.ends
    assert waiting.cpu._place.waits
    waiting.guest.space.protect(DATA, 0x1000, Permissions.READ)  # by the turn, which is free
    waiting.cpu.let_in()
    assert isinstance(waiting.left(), Hypercall)
    waiting.cpu.let_in()  # it is no more: nothing


def test_who_is_kept_out_can_be_kicked(waiting: Waiting) -> None:
    assert waiting.cpu.keep_out()
    waiting.cpu.kick()
    assert waiting.left() == Kicked()
    waiting.cpu.let_in()
    waiting.enter()
    waiting.give()
    assert isinstance(waiting.left(), Hypercall), "it is kept out no more"


def test_who_does_not_wait_is_kicked_instead(waiting: Waiting) -> None:
    other = waiting.guest.space.vcpu(0)
    other.reset(BASE, 0)
    assert not other.keep_out()
    assert other.enter() == Kicked()


# Every interleaving, with the scheduler's driver and mirror.

SLICES = 2


class Vcpus:
    """The primary's interface to one VM, whose vCPUs execute slices by turns and then wait for an interrupt."""

    def __init__(self, runtime: ExploreRuntime, turn: Turn, vcpus: int) -> None:
        self._runtime = runtime
        self._turn = turn
        self._places = [turn.place(f"{index}") for index in range(vcpus)]
        self._kicked = [runtime.cell(f"{index}.kick", value=False) for index in range(vcpus)]
        self.executed = [0] * vcpus
        self.suspended = False
        self.executing = 0
        runtime.declare_records(self.executed, reason="what the oracles compare")

    def info(self, vm: int) -> VmInfo:
        return VmInfo(vm, "g", len(self._places), RxState.EMPTY, 0, None, ())

    def run(self, _vm: int, vcpu: int) -> Preempted | WaitForInterrupt:
        """As `UnicornVcpu.enter` does it."""
        kicked = self._kicked[vcpu]
        while self.executed[vcpu] < SLICES:
            if not self._turn.take(self._places[vcpu], kicked.get):
                if kicked.exchange(False):
                    return Preempted()
                continue
            try:
                if kicked.get() and kicked.exchange(False):
                    return Preempted()
                self._execute(vcpu)
            finally:
                self._turn.give()
        return WaitForInterrupt(None)

    def _execute(self, vcpu: int) -> None:
        self.executing += 1
        assert self.executing == 1, "two execute"
        assert not self.suspended, "it executes in a suspension"
        self._runtime.checkpoint("executes")
        assert not self.suspended, "it executes in a suspension"
        self.executed[vcpu] += 1
        self.executing -= 1

    def preempt(self, _vm: int, vcpu: int) -> None:
        self._kicked[vcpu].set(True)
        self._turn.dismiss(self._places[vcpu])

    def keep_out(self, vm: int, vcpu: int) -> bool:
        if self._turn.keep_out(self._places[vcpu]):
            return True
        self.preempt(vm, vcpu)
        return False

    def let_in(self, _vm: int, vcpu: int) -> None:
        self._turn.let_in(self._places[vcpu])


@dataclass(frozen=True)
class Suspended:
    """vCPUs that execute by turns are suspended; what is `posted` meanwhile is done, and all come to their end.

    Or they are stopped during the suspension, if it `stops`.
    """

    turn: type[Turn] = Turn
    vcpus: int = 2
    posts: bool = False
    stops: bool = False
    name: str = "suspended"

    def build(self, runtime: ExploreRuntime) -> World:
        vcpus = Vcpus(runtime, self.turn(runtime, "unicorn"), self.vcpus)
        driver = Driver(runtime, vcpus, Ports(runtime))  # type: ignore[arg-type]
        vm = driver.add(2, raw=False)
        ends: list[str] = []
        runtime.declare_records(ends, reason="what the oracles compare")

        def main() -> None:
            assert driver.suspend(None)
            vcpus.suspended = True
            runtime.checkpoint("suspended")
            if self.posts:
                read = partial(vcpus.executed.__getitem__, 0)
                assert driver.owners.post(vm, 0, read).result() == vcpus.executed[0]
            vcpus.suspended = False
            if self.stops:
                assert driver.stop(None) == []
            driver.resume()
            ends.append("main")

        driver.start()
        runtime.spawn("main", main)

        def check() -> None:
            assert ends == ["main"], "it does not come to its end"
            if not self.stops:
                assert vcpus.executed == [SLICES] * self.vcpus, "one does not execute any more"

        return World(check, final=lambda: tuple(vcpus.executed), timers=False)


@pytest.mark.parametrize("kind", ["", "posts", "stops"])
def test_a_suspension_holds_and_ends(kind: str) -> None:
    scenario = Suspended(posts=kind == "posts", stops=kind == "stops")
    report = check(scenario, Settings(strategy="bounded", bound=2, races=kind == ""))
    assert report.complete, str(report)


class Forgets(Turn):
    """It keeps nobody out."""

    def keep_out(self, place: Place) -> bool:
        with self._lock:
            return place.waits


class Leaves(Turn):
    """It lets nobody in."""

    def let_in(self, place: Place) -> None:
        pass


class Deaf(Turn):
    """It dismisses nobody who is kept out."""

    def dismiss(self, place: Place) -> None:
        if not place.kept_out:
            super().dismiss(place)


class Careless(Turn):
    """It lets one in although another one executes."""

    def let_in(self, place: Place) -> None:
        with self._lock:
            if place.kept_out:
                self._taken = True
                self._leave(place, has=True)


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        (Suspended(Forgets), "it executes in a suspension"),
        (Suspended(Leaves), "one does not execute any more"),
        (Suspended(Deaf, posts=True), "it does not come to its end"),
        (Suspended(Careless, vcpus=3), "two execute"),
    ],
    ids=["forgets", "leaves", "deaf", "careless"],
)
def test_what_would_be_wrong_is_found(scenario: Suspended, reason: str) -> None:
    result = search(scenario, RandomWalk(0), until=lambda r: r.executions >= 3000)
    assert result.failure is not None
    assert result.failure.failure is not None
    assert reason in failure_text(result.failure.failure)
