"""Direct requests: served, busy, aborted, and what may come in between."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest

from hfsched.explore.stepwise import Stepwise
from hfsched.hypervisor.interface import (
    Aborted,
    Busy,
    DirectResponse,
    Invalid,
    Preempted,
    RunResult,
)
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.mirror import VcpuActivity
from hfsched.scheduler.outbox import Sent

from .guests import BELL, servant, sleeper, waiter, with_second
from .harness import Harness

if TYPE_CHECKING:
    from hfsched.vcpu.script import Program

Results = list[RunResult | None]
WORDS = (1, 2, 3, 4, 5)
SLOW, STEPS, FATAL = (99, 0, 0, 0, 0), (98, 0, 0, 0, 0), (97, 0, 0, 0, 0)


def ask(harness: Harness, name: str, words: tuple[int, ...], vcpu: int = 0) -> Results:
    """Let a task make a request; its result comes into the list returned."""
    out: Results = []
    driver = harness.driver
    harness.world.spawn(name, lambda: out.append(driver.direct_request(2, vcpu, words)))
    return out


def plus_one(words: tuple[int, ...]) -> DirectResponse:
    return DirectResponse(tuple(word + 1 for word in words))


@pytest.fixture
def world() -> Stepwise:
    return Stepwise()


def test_a_request_is_served(world: Stepwise) -> None:
    with Harness(world) as harness:
        harness.vm("g", servant)
        harness.start()
        world.settle()
        for number in range(3):
            got = ask(harness, f"host{number}", WORDS)
            world.settle()
            assert got == [plus_one(WORDS)]


def test_a_response_may_come_after_an_interruption(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", servant)
        harness.start()
        world.settle()
        got = ask(harness, "host", SLOW)
        world.settle()
        assert got == []
        assert world.asleep() == ["g.0", "host"]
        guest.mirror.wake(0)  # spurious: it goes on waiting
        world.settle()
        assert got == []
        harness.hypervisor.primary.inject(2, 0, BELL)
        guest.mirror.wake(0)
        world.settle()
        assert got == [plus_one(SLOW)]


def test_a_response_may_come_after_a_preemption(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", servant)
        harness.start()
        world.settle()
        got = ask(harness, "host", STEPS)
        world.go("host")
        world.go("g.0", "request 2.0")
        harness.interface.preempt(2, 0)
        world.settle()
        assert got == [plus_one(STEPS)]
        assert guest.driven.counters[0].runs[Preempted] == 1


@pytest.mark.parametrize("program", [sleeper, with_second(sleeper, waiter)])
def test_busy_when_the_vcpu_does_not_wait_for_a_message(world: Stepwise, program: Program) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", program, vcpus=2)
        harness.start()
        world.settle()
        runs = harness.runs(guest)
        assert harness.driver.direct_request(2, 0, WORDS) == Busy()
        world.settle()
        assert harness.runs(guest) == runs


def test_a_request_that_was_refused_leaves_no_trace(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", servant)
        harness.start()
        assert harness.driver.direct_request(2, 0, WORDS) == Busy(), "it has not begun"
        world.settle()
        assert guest.mirror.activity(0) is VcpuActivity.WFM
        got = ask(harness, "host", WORDS)
        world.settle()
        assert got == [plus_one(WORDS)]


def test_busy_while_another_request_waits_to_be_taken(world: Stepwise) -> None:
    with Harness(world) as harness:
        harness.vm("g", servant)
        harness.start()
        world.settle()
        got = ask(harness, "host", WORDS)
        world.go("host")
        assert harness.driver.direct_request(2, 0, WORDS) == Busy()
        world.settle()
        assert got == [plus_one(WORDS)]


def test_busy_while_another_request_is_served(world: Stepwise) -> None:
    with Harness(world) as harness:
        harness.vm("g", servant)
        harness.start()
        world.settle()
        ask(harness, "host", SLOW)
        world.settle()
        assert harness.driver.direct_request(2, 0, WORDS) == Busy()


@pytest.mark.parametrize(("vm", "vcpu"), [(9, 0), (1, 0), (2, 1), (2, -1)])
def test_a_request_to_nobody_is_invalid(world: Stepwise, vm: int, vcpu: int) -> None:
    with Harness(world) as harness:
        harness.vm("g", servant)
        harness.start()
        world.settle()
        assert harness.driver.direct_request(vm, vcpu, WORDS) == Invalid()


def test_a_guest_that_dies_of_a_request(world: Stepwise) -> None:
    with Harness(world) as harness:
        harness.vm("g", servant)
        harness.start()
        world.settle()
        got = ask(harness, "host", FATAL)
        world.settle()
        assert got == [Aborted("the guest function returned")]
        assert isinstance(harness.driver.direct_request(2, 0, WORDS), Aborted)
        assert len(harness.aborts) == 1


def test_a_deadline_leaves_the_request_running(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", servant)
        harness.start()
        world.settle()
        out: Results = []
        deadline = world.now() + 10
        world.spawn("host", lambda: out.append(harness.driver.direct_request(2, 0, SLOW, deadline)))
        world.settle()
        world.advance(10)
        world.settle()
        assert out == [None]
        harness.hypervisor.primary.inject(2, 0, BELL)
        guest.mirror.wake(0)
        world.settle()
        got = ask(harness, "next", WORDS)
        world.settle()
        assert got == [plus_one(WORDS)]


def test_a_stop_ends_a_request_in_any_state(world: Stepwise) -> None:
    for words, moment in ((SLOW, 10_000), (WORDS, 1), (WORDS, 2), (STEPS, 3)):
        world = Stepwise()
        with Harness(world) as harness:
            harness.vm("g", servant)
            harness.start()
            world.settle()
            got = ask(harness, "host", words)
            world.go("host")
            for _ in range(moment):
                world.go("g.0", "")
            harness.driver.stop()
            assert len(got) == 1
            assert got[0] in (Invalid(), plus_one(words))


def test_the_vcpu_may_take_a_request_before_the_caller_looks(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", servant)
        harness.start()
        world.settle()
        got = ask(harness, "host", WORDS)
        world.go("host", "lock g.mirror")  # mirror.ended
        world.go("host", "lock g.mirror")  # claim_waiting: the request lies there already
        guest.mirror.wake(0)
        world.go("g.0", "requested 2.0 DirectResponse")
        world.settle()
        assert got == [plus_one(WORDS)]


def test_the_vcpu_may_take_a_request_that_it_must_refuse(world: Stepwise) -> None:
    """It does not wait for a message, and takes what the caller was about to withdraw."""
    with Harness(world) as harness:
        guest = harness.vm("g", sleeper)
        harness.start()
        world.settle()
        got = ask(harness, "host", WORDS)
        world.go("host", "lock g.mirror")
        world.go("host", "lock g.mirror")
        guest.mirror.wake(0)
        world.settle()
        assert got == [Busy()]


def test_a_message_during_a_request_is_read_after_it(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", servant, raw=True)
        harness.start()
        world.settle()
        got = ask(harness, "host", WORDS)
        world.go("host")
        world.go("g.0", "request 2.0")
        assert guest.outbox.send(b"one") is Sent.SENT
        world.settle()
        assert got == [plus_one(WORDS)]
        assert guest.notes == [b"one"]


def test_a_request_beside_the_one_being_served_harms_nobody(world: Stepwise) -> None:
    """Preempted while it serves the first, the vCPU finds the second, which has claimed nothing yet."""
    with Harness(world) as harness:
        harness.vm("g", servant)
        harness.start()
        world.settle()
        first = ask(harness, "first", STEPS)
        world.go("first")
        world.go("g.0", "request 2.0")
        harness.interface.preempt(2, 0)
        world.go("g.0", "requested 2.0 Preempted")
        second = ask(harness, "second", WORDS)
        world.go("second", "lock g.mirror")
        world.go("second", "lock g.mirror")  # before claim_waiting: the request lies there
        world.settle()
        assert first == [plus_one(STEPS)]
        assert second == [plus_one(WORDS)]  # its claim came when the first was done


def test_a_run_owed_to_a_message_is_not_spent_on_a_request(world: Stepwise) -> None:
    """A delivery has claimed vCPU 0, whose RUN it is owed; vCPU 1 waits for a message too.

    A request that came a moment before makes vCPU 0 serve it first, in which it sleeps: the message
    lies unread, and vCPU 1 sleeps beside it.
    """
    with Harness(world) as harness:
        guest = harness.vm("g", with_second(servant, waiter), vcpus=2, raw=True)
        harness.start()
        world.settle()
        ask(harness, "host", SLOW)
        world.go("host", "lock g.mirror")
        world.go("host", "lock g.mirror")
        guest.outbox.send(b"one")
        world.settle()
        assert guest.rx is RxState.EMPTY
        assert guest.notes == [b"one"]


def test_a_request_to_a_dying_vm_does_not_tell_its_death_again(world: Stepwise) -> None:
    with Harness(world) as harness:
        harness.vm("g", with_second(servant, waiter), vcpus=2)
        harness.start()
        world.settle()
        got = ask(harness, "fatal", FATAL)
        world.go("fatal")
        world.go("g.0", "requested 2.0 Aborted")
        other = ask(harness, "other", WORDS, vcpu=1)
        world.go("other")  # vCPU 1 waits for a message, and the VM is not known to be dead
        world.settle()
        assert got == other == [Aborted("the guest function returned")]
        assert harness.aborts == [("g", "the guest function returned")]


def test_a_busy_run_does_not_end_the_request_being_served(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", servant)
        harness.start()
        world.settle()
        got = ask(harness, "host", SLOW)
        world.settle()
        harness.interface.answers[2, 0] = deque([Busy()])
        harness.hypervisor.primary.inject(2, 0, BELL)
        guest.mirror.wake(0)
        world.settle()
        assert got == [plus_one(SLOW)]
