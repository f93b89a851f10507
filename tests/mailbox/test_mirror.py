"""The mirror's table of states, row by row; nothing here runs beside anything else.

The stories in which two parties meet (and the mistakes that lose a wake-up) are the scheduler's
tests.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from scripted import GONE, OFF, PARK, RUN, WFI, WFM, Case, ParkedError

from hfsched.mailbox.mirror import Mirror, Quiet, VcpuActivity

if TYPE_CHECKING:
    from collections.abc import Callable


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
    rests: tuple[VcpuActivity, ...], claimed: int
) -> None:
    case = Case(*rests)
    assert case.mirror.deliver()
    assert case.rests() == [RUN if i == claimed else rest for i, rest in enumerate(rests)]
    assert [event.flag for event in case.runtime.events] == [
        i == claimed for i in range(len(rests))
    ]
    assert not case.mirror.unread


@pytest.mark.parametrize("rests", [(RUN,), (WFI,), (OFF,), (GONE,), (RUN, WFI, OFF, GONE)])
def test_a_delivery_that_nobody_waits_for_is_believed_unread(
    rests: tuple[VcpuActivity, ...],
) -> None:
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


@pytest.mark.parametrize("activity", [WFM, WFI, OFF])
def test_waking_a_parked_vcpu_claims_it(activity: VcpuActivity) -> None:
    case = Case(activity, WFI)
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


@pytest.mark.parametrize("activity", [WFM, WFI, OFF])
def test_a_kick_keeps_a_vcpu_from_any_sleep(activity: VcpuActivity) -> None:
    case = Case(RUN)
    case.mirror.wake(0)
    PARK[activity](case.mirror, 0)
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
    case.mirror._park(0, None)
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


@pytest.mark.parametrize("activity", [WFM, WFI])
@pytest.mark.parametrize("end", ["abort", "stop"])
def test_nobody_sleeps_in_a_vm_that_has_ended(activity: VcpuActivity, end: str) -> None:
    case = Case(RUN)
    getattr(case.mirror, end)()
    assert case.mirror.ended()
    case.mirror._slots[0].kick = False
    case.runtime.locks[0].used = False
    PARK[activity](case.mirror, 0)
    assert case.rests() == [RUN]


# park ends


@pytest.mark.parametrize("activity", [WFM, WFI, OFF])
def test_a_claim_ends_the_sleep_and_is_used_up(activity: VcpuActivity) -> None:
    case = Case(RUN)
    case.runtime.steps.append(lambda: case.mirror.wake(0))
    PARK[activity](case.mirror, 0)
    assert case.rests() == [RUN]
    assert not case.runtime.events[0].flag
    with pytest.raises(ParkedError):
        PARK[activity](case.mirror, 0)


def test_an_event_without_a_claim_does_not_end_the_sleep() -> None:
    case = Case(RUN)
    case.runtime.steps.append(case.runtime.events[0].set)
    with pytest.raises(ParkedError):
        case.mirror.wait_for_message(0, None)
    assert case.rests() == [WFM]
    assert not case.runtime.events[0].flag, "it would spin"


@pytest.mark.parametrize("activity", [WFM, WFI])
def test_the_timer_claims(activity: VcpuActivity) -> None:
    case = Case(RUN)
    wait = case.mirror.wait_for_message if activity is WFM else case.mirror.wait_for_interrupt

    def time_passes() -> None:
        assert case.rests() == [activity]
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
    ("activity", "claimed"), [(WFM, True), (WFI, False), (OFF, False), (RUN, False), (GONE, False)]
)
def test_a_direct_request_claims_only_who_waits_for_a_message(
    activity: VcpuActivity, claimed: bool
) -> None:
    case = Case(activity, WFM)
    assert case.mirror.claim_waiting(0) is claimed
    assert case.rests() == [RUN if claimed else activity, WFM]
    assert case.runtime.events[0].flag is claimed
    assert not case.kicked(0) if activity is RUN else True


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
    assert [case.mirror.has_timer(index) for index in range(5)] == [False] * 4 + [True]
    case.mirror.wake(4)
    assert not case.mirror.has_timer(4)
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
