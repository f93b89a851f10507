"""The mirror's table of states, row by row; nothing here runs beside anything else.

The stories in which two parties meet (and the mistakes that lose a wake-up) are the scheduler's
tests.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from hfsched.mailbox.mirror import Mirror, Quiet, Resting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hfsched.runtime.base import Cell, End, Process, Shared, Task, Waitable

T = TypeVar("T")
RUN, WFM, WFI, OFF, GONE = Resting
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

    def now(self) -> int:
        return self.time

    def cell(self, name: str, value: T) -> Cell[T]:
        raise NotImplementedError

    def shared(self, name: str, value: T) -> Shared[T]:
        raise NotImplementedError

    def channel(self, name: str) -> tuple[End, End]:
        raise NotImplementedError

    def select(self, waitables: Sequence[Waitable], deadline: int | None = None) -> list[Waitable]:
        raise NotImplementedError

    def spawn(self, name: str, fn: Callable[[], None]) -> Task:
        raise NotImplementedError

    def process(self, name: str, main: Callable[..., None], ends: Sequence[End]) -> Process:
        raise NotImplementedError

    def choose(self, name: str, n: int) -> int:
        raise NotImplementedError

    def sleep_until(self, deadline: int) -> None:
        raise NotImplementedError

    def checkpoint(self, label: str) -> None:
        raise NotImplementedError

    def forget(self, *live: Any, level: int = 0) -> None:
        pass


class Case:
    """A mirror whose vCPUs are in the states given."""

    def __init__(self, *rests: Resting) -> None:
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

    def rests(self) -> list[Resting]:
        return [self.mirror.resting(vcpu) for vcpu in range(len(self.runtime.events))]

    def kicked(self, vcpu: int) -> bool:
        """Tell whether a wait of the running vCPU would end at once."""
        try:
            self.mirror.wait_for_interrupt(vcpu, None)
        except ParkedError:
            return False
        return True


# deliver


@pytest.mark.parametrize(
    ("rests", "claimed"),
    [
        ((WFM,), 0),
        ((RUN, WFM), 1),
        ((WFI, WFM), 1),
        ((OFF, GONE, WFM, WFM), 2),
        ((WFM, WFM), 0),
    ],
)
def test_a_delivery_claims_the_first_vcpu_that_waits(
    rests: tuple[Resting, ...], claimed: int
) -> None:
    case = Case(*rests)
    assert case.mirror.deliver()
    assert case.rests() == [RUN if i == claimed else rest for i, rest in enumerate(rests)]
    assert [event.flag for event in case.runtime.events] == [
        i == claimed for i in range(len(rests))
    ]
    assert not case.mirror.unread


@pytest.mark.parametrize("rests", [(RUN,), (WFI,), (OFF,), (GONE,), (RUN, WFI, OFF, GONE)])
def test_a_delivery_that_nobody_waits_for_is_believed_unread(rests: tuple[Resting, ...]) -> None:
    case = Case(*rests)
    assert not case.mirror.deliver()
    assert case.mirror.unread
    assert case.rests() == list(rests)
    assert not any(event.flag for event in case.runtime.events)
    assert case.mirror.wake_ups == 0


def test_the_belief_moves_on_to_the_next_message() -> None:
    case = Case(RUN)
    assert not case.mirror.deliver()
    assert not case.mirror.deliver()
    case.mirror.wait_for_message(0, None)
    assert case.kicked(0) is False


def test_two_deliveries_claim_two_vcpus_and_the_third_is_unread() -> None:
    case = Case(WFM, WFM)
    assert [case.mirror.deliver() for _ in range(3)] == [True, True, False]
    assert case.rests() == [RUN, RUN]


# wake


@pytest.mark.parametrize("rest", [WFM, WFI, OFF])
def test_waking_a_parked_vcpu_claims_it(rest: Resting) -> None:
    case = Case(rest, WFI)
    case.mirror.wake(0)
    assert case.rests() == [RUN, WFI]
    assert [event.flag for event in case.runtime.events] == [True, False]
    assert case.mirror.wake_ups == 1


def test_waking_a_running_vcpu_kicks_it_until_its_next_run() -> None:
    case = Case(RUN, RUN)
    case.mirror.wake(0)
    assert case.mirror.wake_ups == 1
    assert case.kicked(0)
    assert case.kicked(0), "a kick is sticky"
    assert not case.kicked(1)
    assert case.mirror.before_run(0)
    assert not case.kicked(0)


@pytest.mark.parametrize("rest", [WFM, WFI, OFF])
def test_a_kick_keeps_a_vcpu_from_any_sleep(rest: Resting) -> None:
    case = Case(RUN)
    case.mirror.wake(0)
    PARK[rest](case.mirror, 0)
    assert case.rests() == [RUN]
    assert case.rested == 0


def test_waking_a_vcpu_whose_thread_has_left_does_nothing() -> None:
    case = Case(GONE)
    case.mirror.wake(0)
    assert case.rests() == [GONE]
    assert case.mirror.wake_ups == 0
    assert not case.runtime.events[0].flag


def test_a_claim_is_no_kick() -> None:
    case = Case(WFI)
    case.mirror.wake(0)
    case.mirror._park(case.mirror._slots[0], None)
    assert not case.kicked(0)


# exit MSG_WAIT, exit WFI


def test_an_unread_message_is_paid_for_once() -> None:
    case = Case(RUN)
    case.mirror.deliver()
    case.mirror.wait_for_message(0, None)
    assert not case.mirror.unread
    assert case.rests() == [RUN]
    assert case.rested == 0
    with pytest.raises(ParkedError):
        case.mirror.wait_for_message(0, None)
    assert case.rests() == [WFM]
    assert case.rested == 1


def test_of_two_vcpus_only_one_is_paid_for() -> None:
    case = Case(RUN, RUN)
    case.mirror.deliver()
    case.mirror.wait_for_message(1, None)
    with pytest.raises(ParkedError):
        case.mirror.wait_for_message(0, None)
    assert case.rests() == [WFM, RUN]


def test_a_kick_stays_beside_an_unread_message() -> None:
    case = Case(RUN)
    case.mirror.deliver()
    case.mirror.wake(0)
    case.mirror.wait_for_message(0, None)
    assert case.kicked(0)


def test_waiting_for_an_interrupt_leaves_the_message_unread() -> None:
    case = Case(RUN)
    case.mirror.deliver()
    with pytest.raises(ParkedError):
        case.mirror.wait_for_interrupt(0, None)
    assert case.mirror.unread
    assert case.rests() == [WFI]
    assert case.rested == 1


def test_a_run_alone_does_not_clear_the_belief() -> None:
    case = Case(RUN)
    case.mirror.deliver()
    assert case.mirror.before_run(0)
    assert case.mirror.unread


@pytest.mark.parametrize("rest", [WFM, WFI])
@pytest.mark.parametrize("end", ["abort", "stop"])
def test_nobody_sleeps_in_a_vm_that_has_ended(rest: Resting, end: str) -> None:
    case = Case(RUN)
    getattr(case.mirror, end)()
    assert case.mirror.ended()
    case.mirror._slots[0].kick = False
    case.runtime.locks[0].used = False
    PARK[rest](case.mirror, 0)
    assert case.rests() == [RUN]


# park ends


@pytest.mark.parametrize("rest", [WFM, WFI, OFF])
def test_a_claim_ends_the_sleep_and_is_used_up(rest: Resting) -> None:
    case = Case(RUN)
    case.runtime.steps.append(lambda: case.mirror.wake(0))
    PARK[rest](case.mirror, 0)
    assert case.rests() == [RUN]
    assert not case.runtime.events[0].flag
    with pytest.raises(ParkedError):
        PARK[rest](case.mirror, 0)


def test_an_event_without_a_claim_does_not_end_the_sleep() -> None:
    case = Case(RUN)
    case.runtime.steps.append(case.runtime.events[0].set)
    with pytest.raises(ParkedError):
        case.mirror.wait_for_message(0, None)
    assert case.rests() == [WFM]
    assert not case.runtime.events[0].flag, "it would spin"


@pytest.mark.parametrize("rest", [WFM, WFI])
def test_the_timer_claims(rest: Resting) -> None:
    case = Case(RUN)
    wait = case.mirror.wait_for_message if rest is WFM else case.mirror.wait_for_interrupt

    def time_passes() -> None:
        assert case.rests() == [rest]
        case.runtime.time = 500

    case.runtime.steps.append(time_passes)
    wait(0, 500)
    assert case.rests() == [RUN]
    assert not case.mirror.deliver(), "nobody waits any more"
    assert case.mirror.wake_ups == 0


def test_a_claim_at_the_moment_of_the_timer_leaves_nothing_behind() -> None:
    case = Case(RUN)

    def both() -> None:
        case.runtime.time = 500
        assert case.mirror.deliver()
        case.runtime.events[0].flag = False  # the wait had ended before the event was set
        case.runtime.steps.append(lambda: None)

    case.runtime.steps.append(both)
    case.mirror.wait_for_message(0, 500)
    assert case.rests() == [RUN]
    assert not case.runtime.events[0].flag
    assert not case.mirror.unread


# direct requests


@pytest.mark.parametrize(
    ("rest", "claimed"), [(WFM, True), (WFI, False), (OFF, False), (RUN, False), (GONE, False)]
)
def test_a_direct_request_claims_only_who_waits_for_a_message(rest: Resting, claimed: bool) -> None:
    case = Case(rest, WFM)
    assert case.mirror.claim_waiting(0) is claimed
    assert case.rests() == [RUN if claimed else rest, WFM]
    assert case.runtime.events[0].flag is claimed
    assert not case.kicked(0) if rest is RUN else True


# aborted, invalid, stop


@pytest.mark.parametrize("end", ["abort", "stop"])
def test_the_end_rouses_all(end: str) -> None:
    case = Case(RUN, WFM, WFI, OFF, GONE, RUN)
    assert not case.mirror.ended()
    assert getattr(case.mirror, end)() == [0, 5]
    assert case.rests() == [RUN, RUN, RUN, RUN, GONE, RUN]
    assert [event.flag for event in case.runtime.events] == [False, True, True, True, False, False]
    assert case.kicked(0)
    assert case.mirror.ended()


def test_an_abort_makes_an_invalid_vcpu_leave() -> None:
    case = Case(RUN)
    case.mirror.abort()
    assert case.mirror.before_run(0), "a last RUN says that it is invalid"
    assert not case.mirror.switched_off(0)
    assert case.rests() == [GONE]


def test_an_off_vcpu_sleeps_until_it_is_turned_on() -> None:
    case = Case(RUN)
    case.runtime.steps.append(lambda: case.mirror.wake(0))
    assert case.mirror.switched_off(0)
    assert case.rests() == [RUN]


def test_a_stop_makes_every_vcpu_leave_at_its_next_run() -> None:
    case = Case(RUN)
    case.mirror.stop()
    assert case.mirror.switched_off(0), "not dead: the next RUN is what it leaves at"
    assert not case.mirror.before_run(0)
    assert case.rests() == [GONE]
    assert case.rested == 0


def test_who_leaves_is_gone_and_says_so() -> None:
    case = Case(RUN)
    case.mirror.leave(0)
    assert case.rests() == [GONE]
    assert case.rested == 1


# onlookers


def test_quiet_needs_all_at_rest_without_a_deadline() -> None:
    case = Case(WFM, WFI, OFF, GONE, RUN)
    assert case.mirror.quiet() == Quiet(resting=False, claims=0)
    with pytest.raises(ParkedError):
        case.mirror.wait_for_interrupt(4, 100)
    assert case.mirror.quiet() == Quiet(resting=False, claims=0)
    case.mirror.wake(4)
    assert case.mirror.quiet() == Quiet(resting=False, claims=1)
    case.runtime.events[4].clear()
    with pytest.raises(ParkedError):
        case.mirror.wait_for_interrupt(4, None)
    assert case.mirror.quiet() == Quiet(resting=True, claims=1)


def test_quiet_counts_what_came_and_went_in_between() -> None:
    case = Case(WFM, RUN)
    case.mirror.deliver()
    case.mirror.wake(1)
    assert case.mirror.quiet().claims == 1
    assert case.mirror.wake_ups == 2


def test_a_timer_that_fires_counts_as_a_claim_and_clears_its_deadline() -> None:
    case = Case(RUN)
    case.runtime.steps.append(lambda: setattr(case.runtime, "time", 10))
    case.mirror.wait_for_interrupt(0, 10)
    assert case.mirror.quiet().claims == 1
    assert case.mirror.wake_ups == 0
    with pytest.raises(ParkedError):
        case.mirror.wait_for_interrupt(0, None)
    assert case.mirror.quiet() == Quiet(resting=True, claims=1)


@pytest.mark.parametrize("fired", [False, True])
def test_a_sleep_that_is_over_leaves_no_deadline(fired: bool) -> None:
    case = Case(RUN)

    def end_it() -> None:
        if fired:
            case.runtime.time = 10
        else:
            case.mirror.wake(0)

    case.runtime.steps.append(end_it)
    case.mirror.wait_for_interrupt(0, 10)
    case.mirror.leave(0)
    assert case.mirror.quiet().resting


def test_the_key_tells_states_apart() -> None:
    keys = set()
    for rests in ((RUN,), (WFM,), (WFI,), (OFF,), (GONE,)):
        keys.add(Case(*rests).mirror.key())
    changes: list[Callable[[Mirror], object]] = [
        lambda mirror: mirror.deliver(),
        lambda mirror: mirror.wake(0),
        lambda mirror: mirror.abort(),
        lambda mirror: mirror.stop(),
    ]
    for change in changes:
        case = Case(RUN)
        change(case.mirror)
        keys.add(case.mirror.key())
    timed = Case(RUN)
    with suppress(ParkedError):
        timed.mirror.wait_for_interrupt(0, 100)
    keys.add(timed.mirror.key())
    assert len(keys) == 10


def test_close_closes_every_event() -> None:
    case = Case(GONE, GONE)
    case.mirror.close()
    assert all(event.closed for event in case.runtime.everything)


# Suspension.


def test_no_run_begins_while_the_vm_is_suspended() -> None:
    case = Case(RUN, RUN)
    assert case.mirror.suspend() == [0, 1]
    assert not case.mirror.wait_still(0), "both may be in RUN"
    for vcpu in (0, 1):
        with pytest.raises(ParkedError):
            case.mirror.before_run(vcpu)
    assert case.mirror.wait_still(0)
    case.mirror.resume()
    assert case.mirror.before_run(0)


def test_threads_that_are_still_to_come_are_not_waited_for() -> None:
    mirror = Mirror(ScriptedRuntime(), "g", 2)
    mirror.suspend()
    assert mirror.wait_still(0)
    with pytest.raises(ParkedError):
        mirror.before_run(0)
    mirror.resume()
    assert mirror.before_run(0)
    mirror.suspend()
    assert not mirror.wait_still(0), "the first has come"


def test_what_comes_during_a_suspension_is_kept() -> None:
    case = Case(WFM, RUN)
    assert case.mirror.suspend() == [1]
    with pytest.raises(ParkedError):
        case.mirror.before_run(1)
    assert case.mirror.wait_still(0)
    assert case.mirror.deliver(), "the vCPU that waits is claimed for the message"
    with pytest.raises(ParkedError):
        case.mirror.before_run(0)
    assert not case.mirror.deliver()
    assert case.mirror.unread
    case.mirror.wake(1)
    case.mirror.resume()
    assert case.mirror.before_run(0)
    case.mirror.wait_for_message(0, None)  # at once: one is unread


def test_a_second_suspension_is_like_the_first() -> None:
    case = Case(RUN)
    for _ in range(2):
        case.mirror.suspend()
        assert not case.mirror.wait_still(0)
        with pytest.raises(ParkedError):
            case.mirror.before_run(0)
        assert case.mirror.wait_still(0)
        case.mirror.resume()
        assert case.mirror.before_run(0)


def test_who_leaves_during_a_suspension_is_waited_for_no_more() -> None:
    case = Case(RUN, WFM)
    case.mirror.suspend()
    assert not case.mirror.wait_still(0)
    case.mirror.leave(0)
    assert case.mirror.wait_still(0)


def test_a_stop_ends_a_suspension() -> None:
    case = Case(RUN)
    case.mirror.suspend()
    with pytest.raises(ParkedError) as parked:
        case.mirror.before_run(0)
    case.mirror.stop()
    assert {event.name: event.is_set() for event in case.runtime.everything}[str(parked.value)]
    assert not case.mirror.before_run(0)
