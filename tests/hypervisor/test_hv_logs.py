"""The debug log, the PL011's data register, and calls that nobody knows."""

from __future__ import annotations

import pytest
from hv_bench import Bench, Machine, full, hf

from hfsched.hypervisor.interface import Preempted
from hfsched.hypervisor.pl011 import PL011_BASE
from hfsched.vcpu.script import Hvc, Load, Smc, Store

LOG = 0xBD00_0000


def say(vm: Machine, text: bytes, by: type[Hvc] = Hvc) -> None:
    assert vm.run(*(by(*full(LOG, character)) for character in text)) == Preempted()


@pytest.mark.parametrize("by", [Hvc, Smc])
def test_a_character_is_taken_by_hvc_and_smc_and_x0_alone_changes(by: type[Hvc]) -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(LOG, ord("a"), by=by) == hf(0, ord("a"))
    assert vm.call(LOG, 0, by=by) == hf(0, 0)


@pytest.mark.parametrize("end", [b"\n", b"\0"])
@pytest.mark.parametrize("by", [Hvc, Smc])
def test_a_newline_or_a_nul_ends_the_line(by: type[Hvc], end: bytes) -> None:
    bench = Bench()
    vm = bench.vm(mapped=False)
    say(vm, b"hello", by)
    assert bench.lines == []
    say(vm, end, by)
    assert bench.lines == [("vm2", b"hello")]
    say(vm, end, by)
    assert bench.lines[1:] == [("vm2", b"")]


def test_a_carriage_return_before_a_newline_belongs_to_the_end_of_the_line() -> None:
    bench = Bench()
    vm = bench.vm(mapped=False)
    say(vm, b"one\r\n\r\ntwo\rhalf\r\r\nthree\r\0")
    by_uart = [Store(PL011_BASE, character, 1) for character in b"four\r\n"]
    vm.run(*by_uart)
    lines = [b"one", b"", b"two\rhalf\r", b"three\r", b"four"]
    assert bench.lines == [("vm2", line) for line in lines]


def test_a_line_is_cut_at_256_bytes() -> None:
    bench = Bench()
    vm = bench.vm(mapped=False)
    say(vm, b"x" * 255)
    assert bench.lines == []
    say(vm, b"y")
    assert bench.lines == [("vm2", b"x" * 255 + b"y")]
    say(vm, b"z\n")
    assert bench.lines[1:] == [("vm2", b"z")]


def test_a_character_is_the_low_8_bits() -> None:
    bench = Bench()
    vm = bench.vm(mapped=False)
    vm.call(LOG, 0x41)
    vm.call(LOG, 0xFFFF_FF00_0000_0142)
    vm.call(LOG, 0xFF)
    vm.call(LOG, 0x100)  # a NUL
    assert bench.lines == [("vm2", b"AB\xff")]


def test_each_vm_has_its_own_line_and_its_cpus_share_it() -> None:
    bench = Bench()
    one, two = bench.vm(vcpus=2, mapped=False), bench.vm(mapped=False)
    one.call(LOG, ord("a"))
    two.call(LOG, ord("b"))
    one.call(LOG, ord("c"), vcpu=1)
    two.call(LOG, 10)
    one.call(LOG, 10)
    assert bench.lines == [("vm3", b"b"), ("vm2", b"ac")]


def test_a_line_without_an_end_can_be_flushed_once() -> None:
    bench = Bench()
    vm = bench.vm(mapped=False)
    say(vm, b"half")
    bench.assembly.hypervisor.console.flush(vm.record.vcpus[0])
    bench.assembly.hypervisor.console.flush(vm.record.vcpus[0])
    assert bench.lines == [("vm2", b"half")]


def test_the_pl011_data_register_prints_and_its_flags_are_idle() -> None:
    bench = Bench()
    vm = bench.vm()
    flags = Load(PL011_BASE + 0x18, 4)
    vm.run(flags, Store(PL011_BASE, 0x141, 4), Store(PL011_BASE, 10, 1), Load(PL011_BASE, 4))
    assert vm.seen[0][-4:] == [(0x90,), (), (), (0,)]
    assert bench.lines == [("vm2", b"A")]


def test_the_other_registers_of_the_pl011_are_swallowed() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.run(Store(PL011_BASE + 0x24, 10, 4), Load(PL011_BASE + 0xFFC, 4))
    assert vm.last() == (0,)
    assert bench.lines == []


@pytest.mark.parametrize("by", [Hvc, Smc])
@pytest.mark.parametrize(
    "function",
    [
        0,
        0x8400_0015,  # past PSCI
        0x8400_005F,
        0x8400_0060,  # FFA_ERROR, SUCCESS, INTERRUPT are answers, and no calls
        0x8400_0061,
        0x8400_0062,
        0xC400_0062,
        0x8400_0075,  # FFA_MEM_RETRIEVE_RESP
        0x8400_0078,
        0x8400_007C,
        0x8400_007D,
        0xFF00,
        0xFF06,
        0xFF07,
        0x0400_0069,  # a yielding call
        0xBD00_0001,
        0xFFFF_FFFF,
        0xFFFF_FFFF_FFFF_FFFF,
    ],
)
def test_a_call_on_no_list_returns_minus_1_and_keeps_the_rest(function: int, by: type[Hvc]) -> None:
    vm = Bench().vm()
    assert vm.call(function, by=by) == hf(-1)


@pytest.mark.parametrize("function", [0xFF01, 0xFF02, 0xFF03, 0xFF04, 0xFF05])
def test_hafniums_own_calls_by_smc_are_on_no_list(function: int) -> None:
    vm = Bench().vm()
    assert vm.call(function, 2, 0, 5, by=Smc) == hf(-1, 2, 0, 5)


UPPER = [1 << 32, 0xDEAD_BEEF << 32]


@pytest.mark.parametrize("upper", UPPER)
@pytest.mark.parametrize("by", [Hvc, Smc])
@pytest.mark.parametrize("function", [0xFF01, 0xFF02, 0xFF03, 0xFF04, 0xFF05, LOG, 0xFD00_0000])
def test_hafniums_own_ids_are_64_bits_wide(function: int, by: type[Hvc], upper: int) -> None:
    vm = Bench().vm()
    assert vm.call(upper | function, 2, 0, 5, by=by) == hf(-1, 2, 0, 5)


def test_the_convention_bit_of_the_log_is_dropped_for_an_smc_alone() -> None:
    bench = Bench()
    vm = bench.vm(mapped=False)
    assert vm.call(LOG | 1 << 30, ord("a"), by=Smc) == hf(0, ord("a"))
    assert vm.call(LOG | 1 << 30, ord("b"), by=Hvc) == hf(-1, ord("b"))
    vm.call(LOG, 0)
    assert bench.lines == [("vm2", b"a")]


@pytest.mark.parametrize("by", [Hvc, Smc])
def test_the_upper_half_of_x0_does_not_matter_to_an_ff_a_id(by: type[Hvc]) -> None:
    vm = Bench().vm()
    assert vm.call(0xDEAD_BEEF_8400_0069, by=by) == (0x8400_0061, 0, vm.id, 0, 0, 0, 0, 0)
    assert vm.call(0xDEAD_BEEF_8400_0000, by=by) == hf(0x1_0001)


def test_the_first_unknown_function_of_each_vm_is_noticed_once() -> None:
    bench = Bench()
    one, two = bench.vm(vcpus=2), bench.vm()
    assert bench.notices == [], "what the dialect has is no matter"
    for number in (0xC400_008A, 0xC400_008A, 0xFF07):
        for vcpu in (0, 1):
            assert one.call(number, vcpu=vcpu) == hf(-1)
    assert [vm for vm, _ in bench.notices] == ["vm2"]
    assert bench.notices[0][1].startswith("unknown function 0xc400008a: FFA_CONSOLE_LOG, 64-bit, ")
    assert two.call(0xFF04, by=Smc) == hf(-1)
    assert bench.notices[1:] == [
        ("vm3", "unknown function 0xff04: HF_INTERRUPT_GET, not by SMC; this VM speaks ffa-1.0")
    ]


@pytest.mark.parametrize("function", [0x8400_0071, 0x8400_0005, 0x8400_0064])
def test_what_is_known_and_refused_is_not_noticed(function: int) -> None:
    bench = Bench()
    bench.vm().call(function)
    assert bench.notices == []
