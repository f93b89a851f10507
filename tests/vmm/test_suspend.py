"""A suspended machine: nothing runs, no clock goes on, and nothing is lost by it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from progress import QUIET
from standins import MS, SCRIPT
from talks import Threads, counter, every_engine, picture, slept, talk

from hfsched.scheduler.outbox import Sent

if TYPE_CHECKING:
    from talk import Target

QUEUE = 16  # messages in a host port

# Standing still.


@every_engine
def test_nothing_runs_in_between(target: Target) -> None:
    with talk(target, "relay", "echo", "trusty", "hostile") as host:
        threads = Threads()
        texts = [f"message {number}".encode() for number in range(60)]
        under_way = threading.Event()
        got: list[bytes] = []

        def send() -> None:
            for text in texts:
                host.send(text)

        def receive() -> None:
            for number in range(len(texts)):
                got.append(host.receive())
                if number == 5:
                    under_way.set()

        host.ask("spin", 3)
        host.send(b"sleep 30", 2)
        host.end()  # one connection for both threads
        threads.start(send)
        threads.start(receive)
        assert under_way.wait(QUIET)
        with host.machine.suspension.held("test", host.deadline()):
            host.machine.hypervisor.primary.preempt(host.vm(3).id, 0)
            # It ends a RUN that only waits to execute; its thread does nothing else before this.
            driven = host.machine.driver.vm(host.vm(3).id)
            host.machine.driver.owners.post(driven, 0, lambda: None).result(host.deadline())
            before = picture(host)
            host.runtime.sleep_until(host.runtime.now() + 100 * MS)  # the timer's time passes
            assert [host.end(vm).try_send(b"no") for vm in range(4)] == [Sent.BUSY] * 4
            assert picture(host) == before
        threads.join()
        assert got == texts
        assert slept(host.receive(2)) >= 30


@every_engine
def test_a_guests_counter_does_not_count_the_time_suspended(target: Target) -> None:
    with talk(target, "trusty") as host:
        now = host.runtime.now
        asked = now()
        first = counter(host)
        suspended = 0
        for _ in range(3):
            host.machine.suspension.suspend("test", host.deadline())
            began = now()
            host.runtime.sleep_until(began + 100 * MS)
            suspended += now() - began
            host.machine.suspension.resume("test")
            last = counter(host)
            assert first < last <= first + now() - asked - suspended + MS
        assert suspended >= 300 * MS


@every_engine
def test_time_that_is_taken_out_was_none_for_the_guest(target: Target) -> None:
    with talk(target, "trusty") as host:
        now = host.runtime.now
        asked = now()
        first = counter(host)
        began = now()
        host.runtime.sleep_until(began + 300 * MS)  # as if the process had been stopped
        ended = now()
        with host.machine.suspension.held("test", host.deadline()):
            host.machine.take_out(began, ended)
        last = counter(host)
        assert first <= last <= first + now() - asked - (ended - began) + MS


@every_engine
def test_a_sleep_takes_its_time_though_it_was_suspended_for_longer(target: Target) -> None:
    with talk(target, "trusty") as host:
        first = counter(host)
        asked = host.runtime.now()
        host.send(b"sleep 200")
        assert host.ask("echo it has begun").endswith("it has begun")
        with host.machine.suspension.held("test", host.deadline()):
            began = host.runtime.now()
            host.runtime.sleep_until(began + 400 * MS)
            suspended = host.runtime.now() - began
        assert slept(host.receive()) >= 200
        assert counter(host) - first >= 200 * MS
        assert host.runtime.now() - asked - suspended >= 200 * MS
        assert host.end().recv(0) is None, "slept once"


@every_engine
def test_messages_in_flight_arrive_once_and_in_order(target: Target) -> None:
    with talk(target, "relay", "relay", "echo") as host:
        threads = Threads()
        texts = [b"%d " % number * (number * 7 % 300 + 1) for number in range(40)]
        host.end()

        def send() -> None:
            for text in texts:
                host.send(text)

        threads.start(send)
        got = []
        for _ in texts:
            got.append(host.receive())
            with host.machine.suspension.held("test", host.deadline()):
                pass
        threads.join()
        assert got == texts
        assert host.end().recv(0) is None
        host.until_quiet()


@every_engine
def test_senders_wait_and_go_on(target: Target) -> None:
    with talk(target, "echo") as host:
        threads = Threads()
        end = host.end()
        [outbox] = [vm.outbox for vm in host.machine.assembly.vms]
        with host.machine.suspension.held("test", host.deadline()):
            for number in range(3):
                threads.start(lambda text=b"%d" % number: host.send(text))  # type: ignore[misc]
                assert host.until(lambda count=number + 1: outbox.waiting() == count)  # type: ignore[misc]
            assert end.send(b"no time", host.runtime.now()) is Sent.BUSY
            assert end.try_send(b"no time") is Sent.BUSY
            assert outbox.accepted == 0
        assert [host.receive() for _ in range(3)] == [b"0", b"1", b"2"]
        threads.join()


@every_engine
def test_a_port_is_full(target: Target) -> None:
    with talk(target, "echo") as host:
        threads = Threads()
        texts = [b"%d" % number for number in range(QUEUE + 8)]
        end = host.end()

        def send() -> None:
            for text in texts:
                host.send(text)

        threads.start(send)
        # One answer is held by the vCPU's thread, one message lies in RX, one sender waits.
        assert host.until(lambda: host.machine.summary()[0].from_host == QUEUE + 2)
        with host.machine.suspension.held("test", host.deadline()):
            before = picture(host)
            got = [host.receive() for _ in range(QUEUE)]
            assert end.recv(host.runtime.now() + 50 * MS) is None
            assert picture(host) == before
        got += [host.receive() for _ in texts[QUEUE:]]
        threads.join()
        assert got == texts


@every_engine
def test_the_program_counter_of_a_vcpu_is_known_wherever_it_is(target: Target) -> None:
    with talk(target, "echo", "hostile") as host:
        host.ask("spin", 1)
        machine = host.machine
        vcpus = [f"{name}.0" for name in machine.vm_names()]
        memory = [vm.record.memory.regions[0] for vm in machine.assembly.vms]
        for _ in range(20):  # the one is parked in the mirror, the other in RUN
            for region, vcpu in zip(memory, vcpus, strict=True):
                counter = machine.program_counter(vcpu, host.deadline())
                assert counter is not None
                assert target == SCRIPT or region.ipa <= counter < region.end
        with machine.suspension.held("test", host.deadline()):
            first = machine.program_counter(vcpus[1], host.deadline())
            assert first == machine.program_counter(vcpus[1], host.deadline())
        assert host.ask("hello") == "hello"
        machine.stop()
        assert machine.program_counter(vcpus[0], host.deadline()) is None


@every_engine
def test_what_is_pending_at_a_bare_pause_is_not_lost(target: Target) -> None:
    """A timer that is due at the pause, and a message that interrupts its sleep, by a hold of the user."""
    with talk(target, "trusty", "echo") as host:
        hold = host.machine.user_hold
        for number in range(30):
            host.send(b"sleep %d" % (number % 3))
            host.send(b"%d" % number, 1)
            assert hold.suspend(host.deadline())
            assert not hold.suspend(host.deadline())
            assert not host.machine.quiet()
            host.runtime.sleep_until(host.runtime.now() + number % 4 * MS)
            assert hold.resume(host.deadline())
            assert not hold.resume(host.deadline())
            assert host.receive(1) == b"%d" % number
            assert slept(host.receive()) >= number % 3
        host.until_quiet()
