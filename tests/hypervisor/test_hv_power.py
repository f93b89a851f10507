"""Power (PSCI), the start of a VM, and stage-2 faults as far as a script can show them.

For the Unicorn engine's tests: EC 0x25 and 0x21, ELR, SPSR and VBAR + 0x200 of an injected abort;
execute of no-execute; what the FDT names; floating-point registers; debug, performance-monitor,
ICC, LOR registers; the registers after a reset.
"""

from __future__ import annotations

import pytest
from hv_bench import BASE, PAGES, RX, TX, WAYS, Bench, Way, full, hf, ids, ok

from hfsched.abi.ffa import FfaId, PsciId
from hfsched.hypervisor.interface import (
    Aborted,
    Busy,
    Invalid,
    Preempted,
    WaitForInterrupt,
    WaitForMessage,
    WakeUp,
    Yield,
)
from hfsched.hypervisor.pages import OWN, Mode
from hfsched.vcpu.engine import Exit, Permissions
from hfsched.vcpu.script import Action, Cpu, Guest, Hvc, Load, Step, Store

END = BASE + PAGES * 4096
NOT_SUPPORTED, INVALID, DENIED, ALREADY_ON = -1, -2, -3, -4


# CPU_ON


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_cpu_on_names_the_target_to_the_scheduler_and_succeeds(way: Way) -> None:
    bench = Bench()
    vm = bench.vm(vcpus=3)
    vm.switch(PsciId.CPU_OFF, vcpu=2)
    call = (PsciId.CPU_ON | way[1], 2, vm.entry, 0x77)
    assert vm.switch(*call, by=way[0]) == WakeUp(vm.id, 2)
    assert vm.resume() == hf(0, *call[1:])
    assert vm.run(vcpu=2) == Preempted()


@pytest.mark.parametrize("context", [0, 0x77, 0xFFFF_FFFF_FFFF_FFFF])
def test_the_target_starts_anew_with_the_context_in_x0(context: int) -> None:
    bench = Bench()
    vm = bench.vm(vcpus=2)
    started: list[tuple[int, bool, object, object]] = []

    def entry(cpu: Cpu) -> Guest:
        started.append((cpu.arg, cpu.masked, cpu.handler, cpu.timer))
        cpu.kick()
        yield Step()

    cpu = vm.space.vcpu(1)
    cpu.arm(10)
    cpu.masked = False
    cpu.handler = entry
    vm.switch(PsciId.CPU_OFF, vcpu=1)
    call = (PsciId.CPU_ON, 1, vm.space.address_of(entry), context)
    assert vm.switch(*call) == WakeUp(vm.id, 1)
    assert vm.run(vcpu=1) == Preempted()
    assert started == [(context, True, None, None)]


def test_cpu_on_of_one_that_is_on_says_so_and_does_not_switch() -> None:
    vm = Bench().vm(vcpus=2)
    for target in (0, 1):  # oneself, and another that is ready
        assert vm.call(PsciId.CPU_ON, target, vm.entry, 0) == hf(ALREADY_ON, target, vm.entry, 0)
    vm.wait(1)  # blocked is on, too
    assert vm.call(PsciId.CPU_ON, 1, vm.entry, 0) == hf(ALREADY_ON, 1, vm.entry, 0)


def test_cpu_on_twice_before_the_first_run_is_refused_the_second_time() -> None:
    vm = Bench().vm(vcpus=2)
    vm.switch(PsciId.CPU_OFF, vcpu=1)
    assert vm.switch(PsciId.CPU_ON, 1, vm.entry, 1) == WakeUp(vm.id, 1)
    assert vm.resume()[0] == 0
    assert vm.call(PsciId.CPU_ON, 1, vm.entry, 2) == hf(ALREADY_ON, 1, vm.entry, 2)
    vm.run(vcpu=1)
    assert vm.space.vcpu(1).arg == 1


@pytest.mark.parametrize("target", [2, 0xFFFF, 1 << 63 | 3])
def test_cpu_on_of_a_vcpu_that_is_not_there_is_invalid(target: int) -> None:
    vm = Bench().vm(vcpus=2)
    assert vm.call(PsciId.CPU_ON, target, vm.entry, 0) == hf(INVALID, target, vm.entry, 0)


def test_cpu_on_at_an_address_without_code_kills_the_vm_not_the_hypervisor() -> None:
    bench = Bench()
    vm = bench.vm(vcpus=2)
    vm.switch(PsciId.CPU_OFF, vcpu=1)
    vm.switch(PsciId.CPU_ON, 1, 0xDEAD_0000, 0)
    assert isinstance(vm.run(vcpu=1), Aborted)


# CPU_OFF


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_cpu_off_looks_like_a_wait_for_an_interrupt_without_a_timer(way: Way) -> None:
    bench = Bench()
    vm = bench.vm()
    vm.space.vcpu(0).arm(1000)
    assert vm.switch(PsciId.CPU_OFF | way[1], by=way[0]) == WaitForInterrupt(None)
    assert vm.run() == Invalid()


def test_one_that_is_off_is_not_woken_by_anything() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5)
    vm.switch(PsciId.CPU_OFF)
    bench.hv.inject(vm.id, 0, 5)
    bench.hv.send(vm.id, b"x", notify=False)
    assert vm.run() == Invalid()
    assert bench.hv.direct_request(vm.id, 0, ()) == Busy()


def test_a_stopped_cpu_can_start_again_and_again() -> None:
    vm = Bench().vm(vcpus=2)
    for _ in range(3):
        assert vm.switch(PsciId.CPU_OFF, vcpu=1) == WaitForInterrupt(None)
        assert vm.run(vcpu=1) == Invalid()
        vm.turn_on(1)


def test_the_boot_cpu_can_be_stopped_and_started_by_another() -> None:
    vm = Bench().vm(vcpus=2)
    assert vm.switch(PsciId.CPU_OFF, vcpu=0) == WaitForInterrupt(None)
    assert vm.switch(PsciId.CPU_ON, 0, vm.entry, 0, vcpu=1) == WakeUp(vm.id, 0)
    assert vm.run(vcpu=0) == Preempted()


# AFFINITY_INFO


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_affinity_info_is_0_on_and_1_off(way: Way) -> None:
    vm = Bench().vm(vcpus=3)
    vm.switch(PsciId.CPU_OFF, vcpu=1)
    vm.wait(2)
    function = PsciId.AFFINITY_INFO | way[1]
    for target, expected in ((0, 0), (1, 1), (2, 0)):
        assert vm.call(function, target, 0, by=way[0]) == hf(expected, target, 0)


@pytest.mark.parametrize(("target", "level"), [(2, 0), (1 << 40 | 2, 0), (0, 1), (1, 3)])
def test_affinity_info_of_a_wrong_index_or_level_is_invalid(target: int, level: int) -> None:
    vm = Bench().vm(vcpus=2)
    assert vm.call(PsciId.AFFINITY_INFO, target, level) == hf(INVALID, target, level)


def test_a_target_is_16_bits_wide_so_that_a_raw_mpidr_will_do() -> None:
    vm = Bench().vm(vcpus=2)
    vm.switch(PsciId.CPU_OFF, vcpu=1)
    for target, expected in ((0x8000_0000, 0), (0x8000_0001, 1)):
        assert vm.call(PsciId.AFFINITY_INFO, target, 0) == hf(expected, target, 0)


def test_affinity_info_sees_a_cpu_on_as_soon_as_it_was_asked_for() -> None:
    vm = Bench().vm(vcpus=2)
    vm.switch(PsciId.CPU_OFF, vcpu=1)
    vm.switch(PsciId.CPU_ON, 1, vm.entry, 0)
    assert vm.resume()[0] == 0
    assert vm.call(PsciId.AFFINITY_INFO, 1, 0) == hf(0, 1, 0)


# The rest of PSCI


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_psci_is_1_1(way: Way) -> None:
    vm = Bench().vm()
    assert vm.call(PsciId.VERSION | way[1], by=way[0]) == hf(0x1_0001)


SUPPORTED = {0: 0, 1: 2, 2: 0, 3: 0, 4: 0, 0xA: 0}  # CPU_SUSPEND: the extended StateID format


@pytest.mark.parametrize("number", [*range(0x16), 0x60, 0x1F])
@pytest.mark.parametrize("bit", [0, 1 << 30])
def test_psci_features(number: int, bit: int) -> None:
    vm = Bench().vm()
    asked = 0x8400_0000 | number | bit
    expected = SUPPORTED.get(number, NOT_SUPPORTED)
    assert vm.call(PsciId.FEATURES, asked) == hf(expected, asked)
    assert vm.call(0x84000000 | 0xA | bit, 0) == hf(NOT_SUPPORTED, 0)


@pytest.mark.parametrize("bit", [0, 1 << 30])
def test_psci_features_compares_64_bits(bit: int) -> None:
    vm = Bench().vm()
    asked = 0x1_8400_0003 | bit
    assert vm.call(PsciId.FEATURES, asked) == hf(NOT_SUPPORTED, asked)


@pytest.mark.parametrize("number", [5, 6, 7, 8, 9, 0xB, 0xC, 0xD, 0xE, 0xF, *range(0x10, 0x15)])
@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_system_off_reset_and_the_rest_are_not_a_secondarys(number: int, way: Way) -> None:
    vm = Bench().vm()
    assert vm.call(0x8400_0000 | number | way[1], 1, 2, by=way[0]) == hf(NOT_SUPPORTED, 1, 2)
    assert vm.call(FfaId.ID_GET) == ok(vm.id)


# The start


def test_a_vm_starts_at_its_entry_with_its_argument() -> None:
    seen: list[tuple[int, int, int, bool]] = []

    def guest(cpu: Cpu) -> Guest:
        seen.append((cpu.arg, cpu.base, cpu.size, cpu.masked))
        yield Hvc(FfaId.YIELD)

    bench = Bench()
    vm = bench.vm(program=guest)
    bench.assembly.hypervisor.start(vm.id, vm.entry, 1 << 20)
    assert vm.run() == Yield()
    assert seen == [(1 << 20, BASE, PAGES * 4096, True)]


# Faults


@pytest.mark.parametrize(
    "address",
    [BASE - 1, BASE - 8, END, END + 4096, 0, 0x7FFF_FFFF_F000, 0x0900_1000, 0x08FF_FFF8],
)
@pytest.mark.parametrize("write", [False, True])
def test_an_access_outside_the_vms_memory_is_an_abort_and_the_vm_lives_on(
    address: int, *, write: bool
) -> None:
    vm = Bench().vm()
    access: Action = Store(address, 1, 1) if write else Load(address, 1)
    assert vm.run(access, access) == Preempted()
    assert vm.abort() == address
    assert vm.call(FfaId.ID_GET) == ok(vm.id)


def test_the_first_and_the_last_byte_are_the_vms() -> None:
    vm = Bench().vm()
    vm.run(Store(BASE, 0x11, 1), Store(END - 1, 0x22, 1), Load(BASE, 1), Load(END - 1, 1))
    assert vm.seen[0][-2:] == [(0x11,), (0x22,)]


def test_a_write_to_read_only_memory_is_an_abort_and_writes_nothing() -> None:
    vm = Bench().vm()
    assert vm.run(Store(RX + 8, 0xFF), Load(RX + 8)) == Preempted()
    assert vm.last() == (0,)
    assert vm.run(Store(RX, 0xFF)) == Preempted()
    assert vm.abort() == RX


@pytest.mark.parametrize(
    ("access", "address"),
    [
        pytest.param(Load(END - 4), END - 4, id="out of the end"),
        pytest.param(Store(END - 4, 1), END - 4, id="write out of the end"),
        pytest.param(Load(BASE - 4), BASE - 4, id="into the beginning"),
        pytest.param(Store(TX + 4096 - 4, 1), TX + 4096 - 4, id="from TX into RX"),
        pytest.param(Store(RX + 4096 - 4, 1), RX + 4096 - 4, id="out of RX"),
    ],
)
def test_an_access_that_straddles_allowed_and_forbidden_memory_is_an_abort(
    access: Action, address: int
) -> None:
    vm = Bench().vm()
    before = vm.ram.read(0, vm.ram.size)
    assert vm.run(access) == Preempted()
    assert address <= vm.abort() < address + 8  # either part may be named
    assert vm.ram.read(0, vm.ram.size) == before
    assert vm.call(FfaId.ID_GET) == ok(vm.id)


def test_no_access_of_a_guest_raises_an_exception_out_of_the_hypervisor() -> None:
    vm = Bench().vm()
    assert vm.run(Load(END - 4), Load(END - 4)) == Preempted()
    assert vm.abort() >= END - 4


def test_the_other_cpus_of_a_vm_do_not_see_its_faults() -> None:
    vm = Bench().vm(vcpus=2)
    assert vm.wait(1) == WaitForMessage(None)
    assert vm.run(Load(0)) == Preempted()
    assert vm.run(vcpu=1) == WaitForMessage(None)


def test_an_unmapped_page_of_ones_own_is_a_bug_of_ours_and_no_guests() -> None:
    from hfsched.errors import InternalError  # noqa: PLC0415

    vm = Bench().vm()
    vm.space.unmap(BASE, 4096)
    with pytest.raises(InternalError, match=f"{BASE:#x} faults"):
        vm.run(Load(BASE), Load(BASE))


@pytest.mark.parametrize("between", [Hvc(FfaId.ID_GET), Load(0)])
def test_a_fault_on_a_page_that_is_back_by_then_is_tried_again_each_time(
    between: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = Bench().vm()
    cpu = vm.space.vcpu(0)
    enter = cpu.enter

    def mended() -> Exit:
        event = enter()
        vm.record.pages.set(BASE, OWN)  # as another CPU's call would, meanwhile
        vm.space.protect(BASE, 4096, Permissions.RWX)
        return event

    def absent(cpu: Cpu) -> Action:
        vm.record.pages.set(BASE, Mode(Permissions(0)))
        vm.space.unmap(BASE, 4096)
        return Load(BASE)

    monkeypatch.setattr(cpu, "enter", mended)
    assert vm.run(absent, between, absent) == Preempted()


def test_what_a_pending_call_returns_survives_a_fault_before_it() -> None:
    vm = Bench().vm()
    assert vm.run(Load(0), Hvc(*full(FfaId.YIELD))) == Yield()
    assert vm.resume() == ok()
