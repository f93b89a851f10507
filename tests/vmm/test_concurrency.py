"""Machines of several vCPUs: memory that changes, kicks and power beside running guests.

The guest `cpus` counts what goes wrong inside; its totals say that nothing was lost.
"""

from __future__ import annotations

import random
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from standins import SCRIPT
from talk import KVM_X86, WITHIN, Talk, Target
from talks import Threads, every_engine, talk

from hfsched.hypervisor.interface import Preempted
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.engine import Permissions

if TYPE_CHECKING:
    from hfsched.vcpu.engine import Space

VCPUS = 4
HOLE = 0x1000_0000  # where no VM has memory


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Let the interpreter go from thread to thread at almost every step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def ask(host: Talk, command: str, vm: int = 0) -> dict[str, int]:
    """Give `cpus` a command; return its totals."""
    answer = host.ask(command, vm)
    return {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", answer)}


def beside(
    host: Talk,
    work: Callable[[], object],
    disturb: Callable[[int], object],
) -> int:
    """Do `disturb` again and again, and `work` meanwhile; return how often."""
    threads = Threads()
    over = threading.Event()
    begun = threading.Event()
    times = 0

    def again() -> None:
        nonlocal times
        while not over.is_set():
            disturb(times)
            times += 1
            begun.set()

    threads.start(again)
    try:
        assert begun.wait(WITHIN)
        work()
    finally:
        over.set()
        threads.join()
    return times


# Memory.


@every_engine
def test_a_guest_remaps_its_mailbox_while_its_other_vcpus_use_it(target: Target) -> None:
    with talk(target, "cpus", vcpus=VCPUS) as host:
        before = ask(host, "count")
        during = ask(host, "map 20")
        after = ask(host, "halt")
        assert before["rounds"] < during["rounds"], "they ran meanwhile"
        assert after["wrong"] == 0
        assert host.machine.aborts == {}


class Changes:
    """Changes of a VM's memory that its guest must not notice; `host.vm()` has the VM."""

    def __init__(self, host: Talk, space: Space, ram: Ram) -> None:
        vm = host.vm()
        self._engine = host.target.engine
        self._space, self._ram = space, ram
        self._last = (
            vm.memory.regions[0].ipa + vm.memory.regions[0].ram.size - PAGE_SIZE
        )  # no guest uses its last page

    def __call__(self, number: int) -> None:
        if self._engine != "script":  # which maps one RAM
            self._space.map(HOLE, self._ram, 0, self._ram.size, Permissions.RWX)
            self._space.protect(HOLE + PAGE_SIZE, PAGE_SIZE, Permissions.READ)
        self._space.protect(self._last, PAGE_SIZE, Permissions(number % 8))
        self._space.unmap(HOLE, self._ram.size)


@every_engine
def test_the_host_changes_memory_while_vcpus_run(target: Target) -> None:
    with ExitStack() as stack:
        ram = Ram("beside", 4 * PAGE_SIZE)
        stack.callback(ram.close)
        host = stack.enter_context(talk(target, "cpus", vcpus=VCPUS))
        changes = Changes(host, host.vm().space, ram)

        def work() -> None:
            ask(host, "count")
            ask(host, "map 10")
            ask(host, "halt")
            ask(host, "ring 2 20")

        assert beside(host, work, changes) > 0
        totals = ask(host, "totals")
        assert (totals["wrong"], totals["starts"]) == (0, 40)
        assert host.machine.aborts == {}


@every_engine
def test_several_hosts_change_the_memory_of_one_machine(target: Target) -> None:
    with ExitStack() as stack:
        rams = [Ram(f"{number}", 4 * PAGE_SIZE) for number in range(2)]
        for ram in rams:
            stack.callback(ram.close)
        host = stack.enter_context(talk(target, "cpus", vcpus=VCPUS))
        every = [Changes(host, host.vm().space, ram) for ram in rams]
        ask(host, "count")
        threads = Threads()
        for changes in every:
            threads.start(lambda each=changes: [each(number) for number in range(30)])  # type: ignore[misc]
        threads.join()
        assert ask(host, "halt")["wrong"] == 0


# Kicks.


@every_engine
@pytest.mark.usefixtures("many_switches")
def test_each_kick_ends_one_run(target: Target) -> None:
    """A vCPU that spins, run by hand: the next kick comes as soon as the last was seen."""
    host = talk(target, "hostile")
    kicks = 300
    with host:
        host.ask("spin")
        with host.machine.suspension.held("test", host.deadline()):
            vm = host.vm().id
            hypervisor = host.machine.hypervisor
            seen = threading.Semaphore(0)
            results: list[object] = []
            over = threading.Event()

            def run() -> None:
                for _ in range(kicks):
                    results.append(hypervisor.primary.run(vm, 0))
                    seen.release()
                over.set()

            threads = Threads()
            try:
                # The suspension's own kick may have come between two RUNs; with the first it is one.
                for number in range(kicks):
                    assert len(results) == number, "a kick came twice"
                    hypervisor.primary.preempt(vm, 0)
                    if number == 0:
                        threads.start(run)
                    assert seen.acquire(timeout=WITHIN), "a kick was lost"
            finally:
                while not over.wait(0.01):  # after a failure: nobody may be in RUN at the end
                    hypervisor.primary.preempt(vm, 0)
            threads.join()
            assert results == [Preempted()] * kicks


@every_engine
@pytest.mark.usefixtures("many_switches")
def test_kicks_change_nothing_that_a_guest_sees(target: Target) -> None:
    with talk(target, "cpus", "trusty", vcpus=VCPUS) as host:
        vms = [vm.id for vm in host.machine.driver.vms]
        hypervisor = host.machine.hypervisor

        def kick(number: int) -> None:
            hypervisor.primary.preempt(vms[number % 2], number // 2 % VCPUS)

        def work() -> None:
            ask(host, "count")
            for number in range(20):
                assert host.ask(f"echo {number}", 1).endswith(str(number))
            ask(host, "halt")
            ask(host, "ring 2 20")

        assert beside(host, work, kick) > 0
        totals = ask(host, "totals")
        assert (totals["wrong"], totals["starts"]) == (0, 40)


# Power.


@every_engine
@pytest.mark.usefixtures("many_switches")
def test_vcpus_turn_each_other_on_and_off(target: Target) -> None:
    with talk(target, "cpus", vcpus=VCPUS) as host:
        # Where CPUs are emulated a turn costs milliseconds, and on arm64 KVM it may be one of those.
        hops = {SCRIPT: 400, KVM_X86: 1000}.get(target, 50)
        ask(host, f"ring 2 {hops}")
        totals = ask(host, "ring 1 50")
        assert totals["starts"] == 2 * hops + 50
        assert (totals["ended"], totals["wrong"]) == (3, 0)
        host.until_quiet()


# The end.


@every_engine
def test_machines_are_stopped_at_any_moment(target: Target) -> None:
    """While vCPUs count, hop or remap, messages go along a chain, and host programs send."""
    rng = random.Random(7)
    for _ in range(6):
        with talk(target, "relay", "echo", "cpus", "echo", vcpus=VCPUS) as host:
            endless = rng.choice(["count", "ring 2 1000000", "map 1000000"])
            if endless.startswith("map"):
                ask(host, "count", 2)
            host.send(endless.encode(), 2)
            threads = Threads()
            host.end(3)

            def send(vm: int, host: Talk = host) -> None:
                while (sent := host.end(vm).send(b"again", host.deadline())) is Sent.SENT:
                    pass
                assert sent is Sent.DEAD

            threads.start(lambda send=send: send(2))  # type: ignore[misc]
            threads.start(lambda send=send: send(3))  # type: ignore[misc]
            for number in range(8):
                host.send(b"%d" % number)
            for number in range(rng.randrange(8)):
                assert host.receive() == b"%d" % number
            assert host.machine.stop() == []
            threads.join()
