"""Work posted to vCPUs' threads: done by the thread, between RUNs, or without one where it sleeps."""

from __future__ import annotations

import pytest

from hfsched.explore.handles import TaskHandle
from hfsched.explore.stepwise import Stepwise
from hfsched.mailbox.ports import QUEUE_MAX
from hfsched.scheduler.owners import OwnerGoneError, PostedWork

from .guests import sink, sleeper, spinner, talker
from .harness import Guest, Harness, port_message


def post(world: Stepwise, harness: Harness, guest: Guest, vcpu: int = 0) -> PostedWork[str]:
    """Post work that returns the name of the task that does it."""

    def work() -> str:
        task = world.current
        assert not guest.vm.vcpus[vcpu].claimed, "it is in RUN"
        return "" if task is None else task.name

    return harness.driver.owners.post(guest.driven, vcpu, work)


@pytest.mark.parametrize("program", [sink, sleeper])
def test_a_parked_thread_does_it_without_a_run(program: object) -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", program)  # type: ignore[arg-type]
        harness.start()
        world.settle()
        runs = harness.runs(guest)
        posted = post(world, harness, guest)
        world.settle()
        assert posted.result(0) == "g.0"
        assert harness.runs(guest) == runs
        assert world.asleep() == ["g.0"]


def test_a_vcpu_that_is_off_has_an_owner_too() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink, vcpus=2)
        harness.start()
        world.settle()
        posted = post(world, harness, guest, vcpu=1)
        world.settle()
        assert posted.result(0) == "g.1"


def test_a_thread_in_run_is_kicked_for_it() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", spinner)
        harness.start()
        world.go("g.0", "get g.0.kick")
        posted = post(world, harness, guest)
        assert harness.interface.preempted == [(2, 0)]
        world.go("g.0", "ran 2.0 Preempted")
        world.go("g.0", "run 2.0")
        assert posted.result(0) == "g.0"


def test_a_thread_that_waits_for_room_in_a_port_does_it_and_keeps_its_message() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        texts = [b"%d" % number for number in range(QUEUE_MAX + 1)]
        guest = harness.vm("g", talker(2, 1, *[port_message(text, 1, 5) for text in texts]))
        harness.start()
        world.settle()
        runs = harness.runs(guest)
        posted = post(world, harness, guest)
        world.settle()
        assert posted.result(0) == "g.0"
        assert harness.runs(guest) == runs
        port = harness.ports.open(guest.id, 5)
        world.settle()
        got = []
        for _ in texts:
            message = port.get(world.now())
            assert message is not None
            got.append(message.payload)
            world.settle()
        assert got == texts


def test_a_thread_does_it_while_its_machine_is_suspended_and_does_not_run_on() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", spinner)
        harness.start()
        world.go("g.0", "get g.0.kick")
        assert not harness.driver.suspend(world.now())
        world.settle()
        assert harness.driver.wait_quiesced(world.now())
        runs = harness.runs(guest)
        posted = [post(world, harness, guest) for _ in range(2)]
        world.settle()
        assert [each.result(0) for each in posted] == ["g.0", "g.0"]
        assert harness.runs(guest) == runs
        assert world.asleep() == ["g.0"]
        assert guest.outbox.send(b"x", world.now()).name == "BUSY", "senders are held too"
        harness.driver.resume()
        world.go("g.0", "run 2.0")
        assert harness.runs(guest) == runs


def test_an_error_of_the_work_is_its_posters() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink)
        harness.start()

        def work() -> None:
            raise ValueError("bad")

        posted = harness.driver.owners.post(guest.driven, 0, work)
        world.settle()
        with pytest.raises(ValueError, match=r"^bad$"):
            posted.result(0)
        again = post(world, harness, guest)
        world.settle()
        assert again.result(0) == "g.0"


def test_work_that_is_not_done_in_time_is_a_time_out() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink)
        harness.start()
        posted = post(world, harness, guest)
        with pytest.raises(TimeoutError):
            posted.result(world.now())
        world.settle()
        assert posted.result(0) == "g.0"


@pytest.mark.parametrize("before", [True, False])
def test_after_a_stop_it_fails(before: bool) -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", spinner)
        harness.start()
        world.go("g.0", "get g.0.kick")
        if not before:
            harness.driver.stop()
        posted = post(world, harness, guest)
        if before:
            harness.driver.stop()
        with pytest.raises(OwnerGoneError):
            posted.result(0)


def test_processor_time_is_that_of_the_vcpus_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"g.0": 10, "g.1": 11, "h.0": 20}
    monkeypatch.setattr(TaskHandle, "processor_time", lambda task: times[task.name])
    world = Stepwise()
    with Harness(world) as harness:
        one, other = harness.vm("g", sink, vcpus=2), harness.vm("h", sink)
        owners = harness.driver.owners
        assert owners.processor_time(one.driven.id, 0) is None, "not started"
        harness.start()
        found = [owners.processor_time(one.driven.id, index) for index in range(3)]
        assert found == [10, 11, None]
        assert owners.processor_time(other.driven.id, 0) == 20
