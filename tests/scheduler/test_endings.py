"""How it ends: a VM that aborts, and the stop of all."""

from __future__ import annotations

import pytest

from hfsched.abi.ffa import FfaId, Intid
from hfsched.explore.stepwise import Stepwise
from hfsched.mailbox.mirror import VcpuActivity
from hfsched.mailbox.ports import QUEUE_MAX
from hfsched.scheduler.driver import Driver
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.script import Cpu, Hvc, Program, Step

from .guests import (
    Run,
    echo,
    enable,
    reader,
    sink,
    sleeper,
    spinner,
    talker,
    waiter,
    with_second,
    yielder,
)
from .harness import Harness, port_message


def returns(cpu: Cpu) -> Run:
    yield Hvc(FfaId.YIELD)


def test_an_abort_is_told_and_ends_its_vm_alone() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        bad = harness.vm("bad", returns)
        good = harness.vm("good", echo)
        end = harness.connect(good)
        harness.start()
        world.settle()
        assert harness.aborts == [("bad", "the guest function returned")]
        assert world.task("bad.0").done
        assert bad.mirror.ended()
        assert not good.mirror.ended()
        assert end.send(b"x") is Sent.SENT
        world.settle()
        got = end.recv(0)
        assert got is not None
        assert got.payload == b"x"


@pytest.mark.parametrize("second", [sleeper, waiter, spinner, yielder])
def test_an_abort_takes_a_sibling_along_in_every_state(second: Program) -> None:
    world = Stepwise()

    def first(cpu: Cpu) -> Run:
        yield from with_second(returns, second)(cpu)

    with Harness(world) as harness:
        harness.vm("g", first, vcpus=2)
        harness.start()
        world.go("g.0", "ran 2.0 Yield")
        if second is spinner:
            world.go("g.1", "run 2.1")
            world.go("g.1", "get g.1.kick")
        elif second is yielder:
            world.go("g.1", "ran 2.1 Yield")
        else:
            world.go("g.1")
        world.go("g.0")
        world.settle()
        assert all(task.done for task in world.tasks if task.act is None)
        assert len(harness.aborts) == 1


def test_an_abort_between_a_siblings_run_and_its_sleep() -> None:
    for exit_ in ("WaitForMessage", "WaitForInterrupt"):
        world = Stepwise()
        second = waiter if exit_ == "WaitForMessage" else sleeper
        with Harness(world) as harness:
            harness.vm("g", with_second(returns, second), vcpus=2)
            harness.start()
            world.go("g.0", "ran 2.0 Yield")
            world.go("g.1", f"ran 2.1 {exit_}")
            world.go("g.0")
            world.settle()
            assert world.asleep() == []


def test_a_sibling_that_hears_invalid_before_the_abort_is_known() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        harness.vm("g", with_second(returns, yielder), vcpus=2)
        harness.start()
        world.go("g.0", "ran 2.0 Yield")
        world.go("g.1", "ran 2.1 Yield")
        world.go("g.0", "ran 2.0 Aborted")
        world.go("g.1")
        assert world.asleep() == ["g.1"]
        world.settle()
        assert world.asleep() == []


def test_a_death_is_told_once_when_two_vcpus_die_together() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        harness.vm("g", with_second(returns, returns), vcpus=2)
        harness.start()
        world.go("g.0", "ran 2.0 Yield")
        world.go("g.1", "ran 2.1 Yield")
        world.go("g.1", "get g.1.kick")
        world.go("g.1", "lock g.hv")  # the guest function has returned, and nobody knows yet
        world.go("g.0")
        world.settle()
        assert harness.aborts == [("g", "the guest function returned")]


# Stop.


def held(cpu: Cpu) -> Run:
    """Fill a port that nobody reads."""
    flood = [port_message(b"x", 1, 5) for _ in range(QUEUE_MAX + 1)]
    yield from talker(2, 1, *flood)(cpu)


def timed(cpu: Cpu) -> Run:
    yield from enable(Intid.VIRTUAL_TIMER)
    cpu.arm(1 << 50)
    yield from sleeper(cpu)


STATES = [sink, sleeper, spinner, yielder, held, timed, reader, returns]


@pytest.mark.parametrize("program", STATES)
def test_a_stop_ends_every_thread_in_every_state(program: Program) -> None:
    world = Stepwise()
    with Harness(world) as harness:
        harness.vm("g", program, vcpus=2)
        harness.start()
        world.go("g.1")
        for _ in range(100):
            world.go("g.0", "get g.0.kick")
        assert harness.driver.stop() == []
        assert [task.done for task in world.tasks if task.act is None] == [True, True]


@pytest.mark.parametrize("program", STATES)
def test_a_stop_at_any_moment(program: Program) -> None:
    for moment in range(1, 40):
        world = Stepwise()
        with Harness(world) as harness:
            harness.vm("g", program)
            harness.start()
            for _ in range(moment):
                world.go("g.0", "")
            assert harness.driver.stop() == []


def test_a_stop_before_the_first_run() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink)
        harness.start()
        assert harness.driver.stop() == []
        assert harness.runs(guest) == 0


def test_a_held_message_is_counted_as_lost_at_a_stop() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", held)
        harness.start()
        world.settle()
        harness.driver.stop()
        assert (guest.driven.counters[0].to_host, guest.driven.counters[0].lost) == (QUEUE_MAX, 1)


def test_stop_names_who_did_not_stop() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        harness.vm("g", sink)
        harness.start()
        world.settle()
        (task,) = harness.driver.owners._tasks
        task.join = lambda deadline=None: False  # type: ignore[method-assign]
        assert harness.driver.stop(world.now()) == ["g.0"]


def test_stop_lets_a_waiting_sender_go() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", spinner)
        harness.start()
        outcome: list[Sent] = []
        for name in ("a", "b"):
            world.spawn(name, lambda: outcome.append(guest.outbox.send(b"x")))
            world.go(name)
        assert world.asleep() == ["a", "b"]
        harness.driver.stop()
        assert outcome == [Sent.DEAD, Sent.DEAD]


def test_a_driver_needs_no_callbacks() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", returns)
        plain = Driver(world, harness.interface, harness.ports)
        plain.add(guest.id, raw=False)
        plain.start()
        world.settle()
        assert world.task("g.0").done


def steps(cpu: Cpu) -> Run:
    while True:
        yield Step()


def test_a_kick_before_run_ends_the_run() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", steps)
        harness.start()
        world.go("g.0", "run 2.0")
        harness.interface.preempt(2, 0)
        assert world.go("g.0", "ran 2.0") == "ran 2.0 Preempted"
        assert guest.mirror.activity(0) is VcpuActivity.RUNNING
