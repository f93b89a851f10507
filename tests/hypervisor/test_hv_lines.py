"""Level-triggered lines: high means pending, until low; what a device's thread must do to wake."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import product

import pytest
from hv_bench import Bench, Machine, hf

from hfsched.abi.ffa import HfId
from hfsched.errors import InternalError
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.testing import test as explored
from hfsched.hypervisor.interface import Injection, Preempted, WaitForInterrupt
from hfsched.hypervisor.interrupts import Interrupts
from hfsched.hypervisor.lines import InterruptLine
from hfsched.hypervisor.vm import Vcpu
from hfsched.memory.ram import PAGE_SIZE
from hfsched.scenarios.guests import GuestLog
from hfsched.scenarios.machine import ScenarioMachine
from hfsched.scenarios.variants import PARTS
from hfsched.vcpu.script import Cpu, Guest, Hvc, Program, Store, Wfi

GET, ENABLE, NONE = 0xFF04, 0xFF03, 0xFFFF_FFFF
DEVICE = 40
WINDOW = 0x0A00_0000


def engine_line(vm: Machine) -> bool:
    """Return the level of the vCPU's line at the engine."""
    return vm.space.vcpu(0)._line.get()


def lines(vm: Machine, *intids: int) -> list[InterruptLine]:
    return [InterruptLine(vm.record.vcpus[0], f"d{n}", intid) for n, intid in enumerate(intids)]


def test_a_high_line_stays_pending_when_it_is_taken_and_a_low_one_is_withdrawn() -> None:
    vm = Bench().vm()
    vm.enable(DEVICE)
    (line,) = lines(vm, DEVICE)
    assert line.set_level(True) is Injection.WAKE
    assert engine_line(vm)
    assert [vm.call(GET) for _ in range(2)] == [hf(DEVICE)] * 2
    assert engine_line(vm)
    line.set_level(False)
    assert not engine_line(vm)
    assert vm.call(GET) == hf(NONE)


def test_an_injection_under_the_same_id_outlives_the_level() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(DEVICE)
    (line,) = lines(vm, DEVICE)
    assert bench.hv.inject(vm.id, 0, DEVICE) is Injection.WAKE
    assert line.set_level(True) is Injection.PENDING
    line.set_level(False)
    assert engine_line(vm)
    assert [vm.call(GET) for _ in range(2)] == [hf(DEVICE), hf(NONE)]


def test_sources_of_one_id_are_or_ed() -> None:
    vm = Bench().vm()
    vm.enable(DEVICE)
    one, two = lines(vm, DEVICE, DEVICE)
    assert one.set_level(True) is Injection.WAKE
    assert two.set_level(True) is Injection.PENDING
    assert two.set_level(True) is Injection.PENDING, "it is high already"
    one.set_level(False)
    assert vm.call(GET) == hf(DEVICE)
    two.set_level(False)
    two.set_level(False)
    assert vm.call(GET) == hf(NONE)


def test_ids_are_taken_lowest_first_whether_edge_or_level() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5, 6, DEVICE)
    low, high = lines(vm, 5, DEVICE)
    high.set_level(True)
    bench.hv.inject(vm.id, 0, 6)
    assert vm.call(GET) == hf(6)
    low.set_level(True)
    assert vm.call(GET) == hf(5)
    low.set_level(False)
    assert vm.call(GET) == hf(DEVICE)


def test_enabling_an_id_that_is_high_delivers_it() -> None:
    vm = Bench().vm()
    (line,) = lines(vm, DEVICE)
    assert line.set_level(True) is Injection.DISABLED
    assert not engine_line(vm)
    vm.enable(DEVICE)
    assert engine_line(vm)
    vm.call(ENABLE, DEVICE, 0)
    assert not engine_line(vm)


def test_a_waiting_vcpu_is_entered_again_while_a_line_is_high() -> None:
    vm = Bench().vm()
    vm.enable(DEVICE)
    (line,) = lines(vm, DEVICE)
    assert vm.run(Wfi()) == WaitForInterrupt(None)
    assert line.set_level(True) is Injection.WAKE
    assert vm.run() == Preempted()
    line.set_level(False)
    assert vm.run(Wfi()) == WaitForInterrupt(None)
    assert vm.run() == WaitForInterrupt(None)


def test_another_id_than_64_is_refused() -> None:
    vm = Bench().vm()
    for intid in (-1, 64):
        with pytest.raises(InternalError, match=f"d0: no interrupt id {intid}"):
            lines(vm, intid)


# The state of an exploration.


def test_equal_levels_have_equal_keys_in_any_order_and_others_do_not() -> None:
    settings = [("a", 1), ("b", 1), ("c", 2)]

    def key(levels: tuple[bool, ...], order: Iterable[int]) -> Hashable:
        interrupts = Interrupts()
        for at in order:
            source, intid = settings[at]
            interrupts.set_level(source, intid, True)
        for at, level in enumerate(levels):
            if not level:
                interrupts.set_level(*settings[at], False)
        return interrupts.key()

    every = list(product((False, True), repeat=3))
    keys = [key(levels, (0, 1, 2)) for levels in every]
    assert keys == [key(levels, (2, 0, 1)) for levels in every]
    assert len(set(keys)) == 8


def test_the_key_of_a_vm_has_its_lines() -> None:
    vm = Bench().vm()
    (line,) = lines(vm, DEVICE)
    before = vm.record.key()
    line.set_level(True)
    assert vm.record.key() != before
    line.set_level(False)
    assert vm.record.key() == before


class Doorbell:
    """Raises its line when its thread rings, lowers it when the guest writes to it."""

    name = "doorbell"

    def __init__(self, runtime: ExploreRuntime, machine: ScenarioMachine, rings: int) -> None:
        self._rings = rings
        self._guest = machine.vm("g", 1, self._programs)
        self._guest.vm.mmio.claim(self, WINDOW, PAGE_SIZE)
        self._line = machine.assembly.vms[0].interrupt_line(self.name, DEVICE)
        self._answered = runtime.event("answered")
        self._runtime = runtime
        self.heard = 0

    def _programs(self, _log: GuestLog, _id: int) -> Sequence[Program]:
        return [listener]

    def ring(self) -> None:
        for number in range(self._rings):
            self._runtime.retain_only(number)
            self._answered.clear()
            self._line(True)
            self._answered.wait()

    def read(self, vcpu: Vcpu, offset: int, size: int) -> int:
        raise AssertionError

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int) -> None:
        self._line(False)
        self.heard += 1
        self._answered.set()


def listener(_: Cpu) -> Guest:
    """Wait for the doorbell, and answer it."""
    yield Hvc(HfId.INTERRUPT_ENABLE, DEVICE, 1)
    while True:
        if (yield Hvc(HfId.INTERRUPT_GET))[0] == DEVICE:
            yield Store(WINDOW, 1, 4)
        else:
            yield Wfi()


@explored(strategy="exhaustive")
def test_no_ring_of_a_device_s_thread_is_lost(runtime: ExploreRuntime) -> World:
    machine = ScenarioMachine(runtime, PARTS[""])
    bell = Doorbell(runtime, machine, 2)
    machine.start(boot=False)
    runtime.spawn("doorbell", bell.ring)

    def check() -> None:
        assert bell.heard == 2, f"{bell.heard} of 2 rings heard"

    return World(check, final=lambda: bell.heard, timers=False)
