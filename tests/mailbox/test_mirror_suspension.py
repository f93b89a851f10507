"""The mirror of a VM that is suspended: what may begin, what is kept, and who is waited for."""

from __future__ import annotations

import pytest
from scripted import GONE, RUN, WFM, Case, ParkedError, ScriptedRuntime

from hfsched.mailbox.mirror import Entry, Mirror, VcpuActivity


def test_no_run_begins_while_the_vm_is_suspended() -> None:
    case = Case(RUN, RUN)
    assert case.mirror.suspend() == [0, 1]
    assert not case.mirror.wait_quiesced(0), "both may be in RUN"
    for vcpu in (0, 1):
        with pytest.raises(ParkedError):
            case.mirror.before_run(vcpu)
    assert case.mirror.wait_quiesced(0)
    case.mirror.resume()
    assert case.mirror.before_run(0)


def test_threads_that_are_still_to_come_are_not_waited_for() -> None:
    mirror = Mirror(ScriptedRuntime(), "g", 2)
    mirror.suspend()
    assert mirror.wait_quiesced(0)
    with pytest.raises(ParkedError):
        mirror.before_run(0)
    mirror.resume()
    assert mirror.before_run(0)
    mirror.suspend()
    assert not mirror.wait_quiesced(0), "the first has come"


def test_what_comes_during_a_suspension_is_kept() -> None:
    case = Case(WFM, RUN)
    assert case.mirror.suspend() == [1]
    with pytest.raises(ParkedError):
        case.mirror.before_run(1)
    assert case.mirror.wait_quiesced(0)
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
        assert not case.mirror.wait_quiesced(0)
        with pytest.raises(ParkedError):
            case.mirror.before_run(0)
        assert case.mirror.wait_quiesced(0)
        case.mirror.resume()
        assert case.mirror.before_run(0)


def test_a_sender_waits_for_the_end_of_each_suspension() -> None:
    """Else it would ask again and again."""
    case = Case(RUN)
    for _ in range(2):
        case.mirror.suspend()
        assert case.mirror.begin_send() is Entry.SUSPENDED
        assert not case.mirror.wait_resumed(0)
        case.mirror.resume()
        assert case.mirror.wait_resumed(0)
        assert case.mirror.begin_send() is Entry.OPEN
        case.mirror.end_send()


def test_who_alone_runs_and_is_kept_out_is_not_waited_for() -> None:
    case = Case(RUN)
    case.mirror.suspend()
    assert not case.mirror.wait_quiesced(0)
    case.mirror.keep_out([0])
    assert case.mirror.wait_quiesced(0)


def test_who_is_kept_out_is_not_waited_for() -> None:
    case = Case(RUN, RUN, RUN)
    assert case.mirror.in_run(0)
    for _ in range(2):
        case.mirror.suspend()
        case.mirror.keep_out([0, 2])
        assert not case.mirror.wait_quiesced(0), "the other one may execute"
        with pytest.raises(ParkedError):
            case.mirror.before_run(1)
        assert case.mirror.wait_quiesced(0)
        assert not case.mirror.in_run(0)
        with pytest.raises(ParkedError):
            case.mirror.before_run(2)  # work was posted to it
        assert case.mirror.wait_quiesced(0)
        assert case.mirror.resume() == [0, 2], "they are to be let in"
        assert case.mirror.in_run(0)
        assert case.mirror.before_run(1)
        assert case.mirror.before_run(2)
    assert case.mirror.suspend() == [0, 1, 2]
    assert case.mirror.resume() == []


def test_a_stop_waits_for_who_was_kept_out() -> None:
    case = Case(RUN, RUN)
    case.mirror.suspend()
    case.mirror.keep_out([0])
    with pytest.raises(ParkedError):
        case.mirror.before_run(1)
    assert case.mirror.wait_quiesced(0)
    assert case.mirror.stop() == [0, 1], "both are to be kicked"
    case.mirror.keep_out([0])  # noted too late
    case.mirror.leave(1)
    assert not case.mirror.wait_quiesced(0)
    case.mirror.leave(0)
    assert case.mirror.wait_quiesced(0)


def test_who_leaves_during_a_suspension_is_waited_for_no_more() -> None:
    case = Case(RUN, WFM)
    case.mirror.suspend()
    assert not case.mirror.wait_quiesced(0)
    case.mirror.leave(0)
    assert case.mirror.wait_quiesced(0)


def test_a_stop_ends_a_suspension() -> None:
    case = Case(RUN)
    case.mirror.suspend()
    with pytest.raises(ParkedError) as parked:
        case.mirror.before_run(0)
    case.mirror.stop()
    assert {event.name: event.is_set() for event in case.runtime.everything}[str(parked.value)]
    assert not case.mirror.before_run(0)


# Senders.


def test_a_suspension_waits_for_who_is_sending() -> None:
    """Each has its own end: a delivery, and a try that came to nothing."""
    case = Case(WFM)
    assert [case.mirror.begin_send() for _ in range(3)] == [Entry.OPEN] * 3
    case.mirror.suspend()
    assert not case.mirror.wait_quiesced(0)
    case.mirror.end_send()
    assert not case.mirror.wait_quiesced(0)
    assert case.mirror.deliver(ends_send=True), "it claims the vCPU"
    with pytest.raises(ParkedError):
        case.mirror.before_run(0)
    assert not case.mirror.wait_quiesced(0), "one is left"
    case.mirror.end_send()
    assert case.mirror.wait_quiesced(0)


def test_an_unread_message_can_be_the_last_that_is_waited_for() -> None:
    case = Case(RUN)
    assert case.mirror.begin_send() is Entry.OPEN
    case.mirror.suspend()
    with pytest.raises(ParkedError):
        case.mirror.before_run(0)
    assert not case.mirror.wait_quiesced(0)
    assert not case.mirror.deliver(ends_send=True)
    assert case.mirror.wait_quiesced(0)


def test_a_guests_delivery_ends_no_hosts_send() -> None:
    case = Case(RUN)
    assert case.mirror.begin_send() is Entry.OPEN
    case.mirror.deliver()
    case.mirror.suspend()
    with pytest.raises(ParkedError):
        case.mirror.before_run(0)
    assert not case.mirror.wait_quiesced(0), "the host has not come to its own"


def test_no_send_begins_while_the_vm_is_suspended() -> None:
    case = Case(WFM)
    case.mirror.suspend()
    assert case.mirror.begin_send() is Entry.SUSPENDED
    assert case.mirror.wait_quiesced(0), "who is held is not waited for"
    assert not case.mirror.wait_resumed(0)
    case.mirror.resume()
    assert case.mirror.wait_resumed(0)
    assert case.mirror.begin_send() is Entry.OPEN


@pytest.mark.parametrize("end", ["abort", "stop"])
def test_nothing_is_sent_to_a_vm_that_has_ended(end: str) -> None:
    case = Case(WFM)
    case.mirror.suspend()
    getattr(case.mirror, end)()
    assert case.mirror.begin_send() is Entry.ENDED


def test_a_stop_lets_held_senders_go() -> None:
    case = Case(WFM)
    case.mirror.suspend()
    case.mirror.stop()
    assert case.mirror.wait_resumed(0)


# Threads that wait for something else.


def test_a_thread_that_is_held_elsewhere_is_in_no_run() -> None:
    case = Case(RUN)
    case.mirror.suspend()
    case.mirror.block(0)
    assert case.mirror.wait_quiesced(0)
    with pytest.raises(ParkedError):
        case.mirror.unblock(0)
    case.mirror.resume()
    case.mirror.unblock(0)
    case.mirror.suspend()
    assert not case.mirror.wait_quiesced(0), "it is on its way to a RUN again"


def test_a_thread_that_was_held_before_is_waited_for_no_more() -> None:
    case = Case(RUN)
    case.mirror.block(0)
    case.mirror.suspend()
    assert case.mirror.wait_quiesced(0)


def test_a_held_thread_that_goes_on_waits_for_the_end_of_the_suspension() -> None:
    case = Case(RUN)
    case.mirror.block(0)
    case.mirror.suspend()
    case.runtime.steps.append(case.mirror.resume)
    case.mirror.unblock(0)
    assert not case.runtime.steps, "it has waited"
    case.mirror.suspend()
    assert not case.mirror.wait_quiesced(0)


def test_a_stop_lets_a_held_thread_go() -> None:
    case = Case(RUN)
    case.mirror.suspend()
    case.mirror.block(0)
    case.mirror.stop()
    case.mirror.unblock(0)
    assert not case.mirror.before_run(0)


def test_a_stop_is_still_when_nobody_is_in_run_or_sending_any_more() -> None:
    case = Case(RUN)
    mirror = case.mirror
    assert mirror.begin_send() is Entry.OPEN
    mirror.stop()
    mirror.leave(0)
    assert not mirror.wait_quiesced(0), "a sender is half-way"
    mirror.end_send()
    assert mirror.wait_quiesced(0)
    mirror.suspend()
    mirror.resume()
    assert mirror.wait_quiesced(0), "nobody can be in RUN or sending ever again"


def test_a_stop_is_not_still_while_a_vcpu_is_in_run() -> None:
    case = Case(RUN)
    case.mirror.stop()
    assert not case.mirror.wait_quiesced(0)
    case.mirror.leave(0)
    assert case.mirror.wait_quiesced(0)


def test_a_stop_of_which_everybody_has_left_is_still_at_once() -> None:
    case = Case(GONE)
    case.mirror.stop()
    assert case.mirror.wait_quiesced(0)


def test_a_suspension_beside_a_stop_takes_nothing_from_who_waits_for_a_sender() -> None:
    case = Case(GONE)
    assert case.mirror.begin_send() is Entry.OPEN
    case.mirror.stop()
    case.mirror.suspend()
    case.mirror.resume()
    assert not case.mirror.wait_quiesced(0)
    case.mirror.end_send()
    assert case.mirror.wait_quiesced(0)


def test_posted_work_does_not_end_the_wait_of_a_held_thread() -> None:
    case = Case(RUN)
    case.mirror.suspend()
    case.mirror.block(0)
    case.runtime.steps.append(lambda: case.mirror.post(0))
    with pytest.raises(ParkedError, match=r"^g\.0\.wake$"):
        case.mirror.unblock(0)
    assert not case.runtime.steps, "it has waited, done the work, and waits again"


def test_a_thread_does_no_work_that_was_not_posted() -> None:
    done: list[int] = []
    mirror = Mirror(ScriptedRuntime(), "g", 1, on_work=done.append)
    assert mirror.before_run(0)
    assert done == []
    mirror.post(0)
    assert mirror.before_run(0)
    assert done == [0]


def test_work_posted_before_a_thread_is_held_is_done_once() -> None:
    done: list[int] = []
    mirror = Mirror(ScriptedRuntime(), "g", 1, on_work=done.append)
    assert mirror.before_run(0)
    mirror.post(0)  # the thread is in no wait yet that this could end
    mirror.block(0)
    assert done == [0]
    mirror.unblock(0)
    assert done == [0]


def test_a_held_thread_waits_on_after_work_for_another() -> None:
    mirror = Mirror(ScriptedRuntime(), "g", 2)
    mirror.suspend()
    mirror.block(0)
    mirror.post(1)
    with pytest.raises(ParkedError, match=r"^g\.0\.wake$"):
        mirror.unblock(0)


def test_a_host_sender_does_not_end_a_held_threads_wait_for_work() -> None:
    done: list[int] = []
    runtime = ScriptedRuntime()
    mirror = Mirror(runtime, "g", 1, on_work=done.append)
    mirror.suspend()
    mirror.block(0)

    def post() -> None:
        mirror.post(0)
        assert mirror.begin_send() is Entry.SUSPENDED

    runtime.steps.append(post)
    with pytest.raises(ParkedError):
        mirror.unblock(0)
    assert done == [0]


def test_what_is_shown_of_a_mirror() -> None:
    mirror = Mirror(ScriptedRuntime(), "g", 2)
    mirror.wake(1)
    assert mirror.peek() == ((VcpuActivity.RUNNING, False), (VcpuActivity.RUNNING, True))
    assert mirror.in_run(0) is False, "its thread has not begun"
    assert mirror.before_run(0)
    assert mirror.in_run(0)
    mirror.block(0)
    assert not mirror.in_run(0)


def test_work_posted_to_a_sleeping_thread_is_done_once() -> None:
    done: list[int] = []
    runtime = ScriptedRuntime()
    mirror = Mirror(runtime, "g", 1, on_work=done.append)
    assert mirror.before_run(0)
    runtime.steps += [lambda: mirror.post(0), lambda: mirror.wake(0)]
    mirror.wait_for_message(0, None)
    assert done == [0]
    assert mirror.before_run(0)
    assert done == [0]
