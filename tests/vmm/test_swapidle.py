"""The policy `--swap-idle`: when it moves memory out, and when it leaves it alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest
from talk import UNICORN, Talk

import hfsched.explore
from hfsched.explore import World
from hfsched.hypervisor.interface import Preempted
from hfsched.scheduler.suspension import SuspendError
from hfsched.swap.client.errors import LostError, SwapError
from hfsched.swap.protocol.messages import State, Status
from hfsched.vmm.swapidle import SwapIdle

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.runtime.base import Runtime

AFTER = 30


class VirtualTime:
    """A runtime of one task, with time that passes only while it waits; `at` schedules events."""

    def __init__(self) -> None:
        self.time = 0
        self.plans: list[tuple[int, Callable[[], None]]] = []
        self.value = 0
        self.ended = False
        self.looks: list[int] = []
        self.body: Callable[[], None] = lambda: None

    def at(self, time: int, act: Callable[[], None]) -> None:
        self.plans.append((time, act))
        self.plans.sort(key=lambda plan: plan[0])

    # The runtime, and its only cell, event and task.

    def now(self) -> int:
        return self.time

    def cell(self, _name: str, _value: int = 0) -> VirtualTime:
        return self

    event = cell

    def spawn(self, _name: str, body: Callable[[], None]) -> VirtualTime:
        self.body = body
        return self

    def get(self) -> int:
        return self.value

    def set(self, value: int | None = None) -> None:
        if value is None:
            self.ended = True
        else:
            self.value = value

    def wait(self, deadline: int) -> bool:
        assert self.time < deadline, "it never sleeps"
        assert self.time < 100_000, "it never ends"
        while self.plans and self.plans[0][0] <= deadline and not self.ended:
            self.time, act = self.plans.pop(0)
            act()
        if not self.ended:
            self.time = deadline
            self.looks.append(deadline)
        return self.ended

    def join(self) -> bool:
        return True

    def close(self) -> None:
        pass


class Swap:
    """Swap that does at once what it is asked for."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self.state = State.READY
        self.error = ""
        self.refusal: Exception | None = None
        self.moved: list[int] = []

    def enable(self, deadline: int | None = None) -> int:
        if self.refusal is not None:
            raise self.refusal
        self.state = State.PENDING
        return 0

    def swap_out(self, deadline: int | None = None) -> None:
        assert self.state is State.PENDING
        self.state = State.ACTIVE
        self.moved.append(self.now())

    def status(self, deadline: int | None = None) -> Status:
        return Status(state=self.state, error=self.error)


class Machine:
    """A machine of one vCPU, and its policy, until time 1000."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        self.swap = Swap(self.time.now)
        self.busy = False
        self.count = 0
        self.policy = SwapIdle(cast("Runtime", self.time), self.swap, self.runs, AFTER)

    def runs(self) -> int | None:
        return None if self.busy else self.count

    def message(self, begin: int, end: int, *, noted: bool = True) -> None:
        """Have the vCPU run from `begin` to `end`; `noted`: it records that it goes to sleep."""

        def work() -> None:
            self.busy = True

        def rest() -> None:
            self.busy = False
            self.count += 1
            if noted:
                self.policy.note_rest()

        self.time.at(begin, work)
        self.time.at(end, rest)

    def by_hand(self, time: int, state: State, error: str = "") -> None:
        def change() -> None:
            self.swap.state, self.swap.error = state, error

        self.time.at(time, change)

    def moved(self, until: int = 1000) -> list[int]:
        """Let time pass; return when memory was moved out."""
        self.time.at(until, self.policy.close)
        self.policy.start()
        self.time.body()
        return self.swap.moved


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_machine_that_only_waits_goes_out_once(machine: Machine) -> None:
    assert machine.moved(10_000) == [2 * AFTER]  # how long it had rested before is not known


def test_the_time_counts_from_the_end_of_the_last_run(machine: Machine) -> None:
    for begin in range(0, 100, 10):
        machine.message(begin, begin + 3)
    assert machine.moved() == [93 + AFTER]


def test_a_message_brings_back_and_it_goes_out_again(machine: Machine) -> None:
    machine.message(1, 2)
    machine.message(200, 205)
    machine.message(300, 400)
    assert machine.moved() == [2 + AFTER, 205 + AFTER, 400 + AFTER]


def test_a_guest_that_runs_is_left_alone(machine: Machine) -> None:
    machine.message(1, 900)
    assert machine.moved() == [900 + AFTER]


def test_messages_cost_no_looks(machine: Machine) -> None:
    for begin in range(0, 900, 2):
        machine.message(begin, begin + 1)
    machine.moved()
    assert len(machine.time.looks) <= 1000 / AFTER + 1


def test_a_vcpu_that_waits_inside_a_run_is_found_idle(machine: Machine) -> None:
    machine.message(1, 100, noted=False)
    (moved,) = machine.moved()
    assert 100 + AFTER <= moved <= 100 + 2 * AFTER


def test_what_is_brought_back_by_hand_stays_until_a_guest_has_run(machine: Machine) -> None:
    machine.message(1, 2)
    machine.by_hand(100, State.READY)
    machine.message(500, 501)
    assert machine.moved() == [2 + AFTER, 501 + AFTER]


def test_what_is_staged_by_hand_stays_until_a_guest_has_run(machine: Machine) -> None:
    machine.message(1, 2)
    machine.by_hand(10, State.PENDING)
    machine.message(500, 501)
    machine.by_hand(700, State.PENDING)
    machine.message(800, 801)
    assert machine.moved() == [501 + AFTER]


@pytest.mark.parametrize(
    "state", [State.ENABLING, State.TRIMMING, State.SWAPPING_OUT, State.SWAPPING_IN]
)
def test_a_move_that_is_under_way_is_waited_for(machine: Machine, state: State) -> None:
    machine.message(1, 2)
    machine.by_hand(10, state)
    machine.by_hand(300, State.READY)
    (moved,) = machine.moved()
    assert 300 <= moved <= 300 + AFTER


def test_a_move_that_failed_is_tried_again_after_the_next_run(machine: Machine) -> None:
    machine.message(1, 2)
    machine.by_hand(100, State.PENDING, "swap file: No space left on device")
    machine.message(500, 501)
    assert machine.moved() == [2 + AFTER, 501 + AFTER]


@pytest.mark.parametrize("error", [SwapError("enable: no"), SuspendError("suspend: no")])
def test_a_refusal_is_no_error(machine: Machine, error: Exception) -> None:
    machine.message(1, 2)
    machine.swap.refusal = error
    machine.time.at(300, lambda: setattr(machine.swap, "refusal", None))
    machine.message(500, 501)
    assert machine.moved() == [501 + AFTER]


def test_without_a_monitor_it_ends(machine: Machine) -> None:
    machine.message(1, 2)
    machine.swap.refusal = LostError("swap: the monitor does not start")
    assert machine.moved() == []
    assert machine.time.looks[-1] == 2 + AFTER


def test_the_run_count_of_a_machine() -> None:
    why_not = UNICORN.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    with Talk(UNICORN, "echo", "hostile") as host:

        def at_rest() -> int:
            deadline = host.deadline()
            while (runs := host.machine._runs_ended()) is None:
                assert host.runtime.now() < deadline
            return runs

        before = at_rest()
        (counters,) = host.machine.assembly.vms[0].driven.counters
        counters.runs[Preempted] += 5  # it was stopped for a swap: no RUN has ended
        assert at_rest() == before
        host.ask("hello")
        assert at_rest() > before
        host.ask("spin", 1)
        assert host.machine._runs_ended() is None


# With everything else, in every order.


@hfsched.explore.test(strategy="exhaustive")
@pytest.mark.parametrize("messages", [0, 1])
def test_no_order_of_things_breaks_it(runtime: ExploreRuntime, messages: int) -> World:
    swap = Swap(lambda: runtime.time)
    state = runtime.cell("state", (0, False))  # RUNs ended, and whether there is one
    looks = 0
    ended: list[bool] = []

    def look() -> int | None:
        nonlocal looks
        looks += 1
        if looks == 4:  # else time could pass for ever before another task runs
            policy.end()
        runs, busy = state.get()
        return None if busy else runs

    policy = SwapIdle(runtime, swap, look, AFTER)

    def guest() -> None:
        for number in range(messages):
            state.set((number, True))
            state.set((number + 1, False))
            policy.note_rest()

    def stop() -> None:
        policy.close()
        ended.append(True)

    policy.start()
    runtime.spawn("guest", guest)
    runtime.spawn("stop", stop)

    def check() -> None:
        assert ended == [True]
        assert len(swap.moved) <= 1 + messages
        assert all(later - earlier >= AFTER for earlier, later in pairwise([0, *swap.moved]))

    return World(check)
