"""Who suspends a machine, what ends a suspension, and one that fails."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from progress import QUIET
from standins import MS, SCRIPT
from talk import Talk, Target
from talks import Threads, counter, every_engine, picture, slept, talk

from hfsched.mailbox.quiescence import Entry
from hfsched.scheduler.outbox import Sent
from hfsched.scheduler.suspension import Step, SuspendError, Suspension
from hfsched.vcpu.script import Cpu, Guest
from hfsched.vcpu.script import Step as Instructions

# Who suspends.


@every_engine
def test_two_threads_suspend(target: Target) -> None:
    with talk(target, "echo", "hostile") as host:
        threads = Threads()
        inside: list[int] = []
        host.ask("spin", 1)

        def suspend(me: int) -> None:
            for _ in range(20):
                with host.machine.suspension.held("test", host.deadline()):
                    inside.append(me)
                    before = picture(host)
                    assert inside == [me]
                    assert picture(host) == before
                    inside.clear()

        threads.start(lambda: suspend(1))
        threads.start(lambda: suspend(2))
        for number in range(40):
            assert host.ask(str(number)) == str(number)
        threads.join()
        assert host.ask("after") == "after"


@every_engine
def test_who_suspends_a_suspended_machine_gives_up_at_the_deadline(target: Target) -> None:
    with talk(target, "trusty") as host:
        with host.machine.suspension.held("test", host.deadline()):
            before = picture(host)
            with pytest.raises(SuspendError, match="the suspension by test did not end in time"):
                host.machine.suspension.suspend("test", host.runtime.now())
            assert picture(host) == before
        assert counter(host) < counter(host)


@every_engine
def test_the_machine_is_stopped_during_a_suspension(target: Target) -> None:
    with talk(target, "echo", "trusty", "hostile") as host:
        threads = Threads()
        host.ask("spin", 2)
        host.send(b"sleep 1", 1)
        host.machine.suspension.suspend("test", host.deadline())
        sent: list[Sent] = []
        end = host.end()
        threads.start(lambda: sent.append(end.send(b"late", host.deadline())))
        threads.start(lambda: sent.append(end.send(b"later", host.deadline())))
        # A RUN that was kept out ends now, and is counted then.
        claimed = [vm.record.vcpus[0].claimed for vm in host.machine.assembly.vms]
        before = [
            sum(each.counters[0].runs.values()) + kept_out
            for each, kept_out in zip(host.machine.driver.vms, claimed, strict=True)
        ]
        assert host.machine.stop() == []
        threads.join()
        assert sent == [Sent.DEAD, Sent.DEAD]
        after = [sum(each.counters[0].runs.values()) for each in host.machine.driver.vms]
        assert after == before
        host.machine.suspension.resume("test")


@every_engine
def test_the_machine_is_closed_during_a_suspension(target: Target) -> None:
    with talk(target, "trusty") as host:
        host.ask("time")
        host.machine.suspension.suspend("test", host.deadline())
        host.machine.close()
        host.machine.suspension.resume("test")


def test_a_machine_that_was_not_started_can_be_suspended() -> None:
    host = Talk(SCRIPT, "echo")
    with host.machine.suspension.held("test", host.deadline()):
        pass
    with host:
        assert host.ask("hello") == "hello"


# A suspension that fails.


class Gates:
    """What keeps the guest `stuck` inside an instruction; set by the test, one at a time."""

    inside = threading.Event()
    open = threading.Event()


def stuck(cpu: Cpu) -> Guest:
    """Stay in one step until the gate is open, for ever after in many."""
    yield Instructions()
    Gates.inside.set()
    Gates.open.wait(QUIET)
    while True:
        cpu.write(
            cpu.base, (int.from_bytes(cpu.read(cpu.base, 8), "little") + 1).to_bytes(8, "little")
        )
        yield Instructions()


def test_a_vcpu_that_does_not_stop_in_time_leaves_the_machine_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import standins  # noqa: PLC0415 - it names the guests of a machine

    Gates.inside.clear()
    Gates.open.clear()
    monkeypatch.setattr(standins, "stuck", stuck, raising=False)
    with Talk(SCRIPT, "echo", "stuck") as host:
        assert Gates.inside.wait(QUIET)
        for _ in range(2):
            with pytest.raises(SuspendError, match="vCPUs and senders did not stop in time"):
                host.machine.suspension.suspend("test", host.runtime.now() + 20 * MS)
            assert host.ask("still there?") == "still there?"
        Gates.open.set()
        with host.machine.suspension.held("test", host.deadline()):
            before = host.vm(1).memory.regions[0].ram.read(0, 8)
            assert host.vm(1).memory.regions[0].ram.read(0, 8) == before
        assert host.until(lambda: host.vm(1).memory.regions[0].ram.read(0, 8) != before)


@pytest.mark.parametrize("raises", [False, True])
@every_engine
def test_a_step_that_fails_leaves_the_machine_running(target: Target, raises: bool) -> None:
    with talk(target, "trusty") as host:
        suspended_as_undone: list[bool] = []

        def fail(_deadline: int | None) -> bool:
            if raises:
                raise OSError("no room for it")
            return False

        machine: Any = host.machine
        mirror = machine.driver.vms[0].mirror
        last = Step(
            "disk", fail, lambda: suspended_as_undone.append(mirror.begin_send() is Entry.SUSPENDED)
        )
        suspension = Suspension(host.runtime, [*machine.suspension._steps, last])
        first = counter(host)
        host.send(b"sleep 20")
        with pytest.raises(OSError if raises else SuspendError):
            suspension.suspend("test", host.deadline())
        assert suspended_as_undone == [True], "the last step first"
        assert mirror.begin_send() is Entry.OPEN
        mirror.end_send()
        assert slept(host.receive()) >= 20
        assert counter(host) - first >= 20 * MS
        with host.machine.suspension.held("test", host.deadline()):
            pass
