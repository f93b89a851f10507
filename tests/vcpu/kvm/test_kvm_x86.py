"""x86-64 under KVM: hypercalls, waiting, interrupts, ends, saved states."""

from __future__ import annotations

import pytest
import x64
from kvm_guest import BASE, HOLE, INTERRUPT, PAGE_FAULT, REPORT, REPORT_ALL, Guest, args, needs_kvm

from hfsched.errors import InternalError, UserError
from hfsched.vcpu.engine import Conduit, Exit, Failed, Fault, Hypercall, Kicked, Mmio, Timer, Wfi
from hfsched.vcpu.kvm.cpu import KvmVcpu

pytestmark = needs_kvm

MASK = (1 << 64) - 1
CALL = x64.out(x64.HVC)
OTHERS = ("rbx", "rbp", "r11", "r12", "r13", "r14", "r15")


def test_how_a_cpu_begins() -> None:
    with Guest(x64.forever(CALL)) as guest:
        assert guest.enter() == Hypercall(Conduit.HVC, (0, 0x1234, 0, 0, 0, 0, 0, 0))
        assert guest.cpu.program_counter() == BASE + len(CALL)


@pytest.mark.parametrize(
    ("port", "conduit"), [(x64.HVC, Conduit.HVC), (x64.SMC, Conduit.SMC)], ids=["hvc", "smc"]
)
def test_eight_registers_go_out_and_all_others_are_kept(port: int, conduit: Conduit) -> None:
    values = {name: 0xFEDC_BA98_7654_3210 + 17 * n for n, name in enumerate(x64.ARGUMENTS)}
    kept = {name: MASK - n for n, name in enumerate(OTHERS)}
    flags = 0x8D5 | 0x402  # OF SF ZF AF PF CF, DF and the bit that is always there
    code = x64.mov("rax", flags) + x64.push("rax") + x64.POPFQ
    for name, value in (values | kept).items():
        code += x64.mov(name, value)
    code += x64.out(port) + x64.PUSHFQ + x64.pop("rdi") + CALL
    for name in OTHERS:
        code += x64.copy("rax", name) + CALL
    with Guest(code, handlers={}) as guest:
        assert guest.enter() == Hypercall(conduit, tuple(values.values()))
        guest.cpu.reply(range(8))
        assert guest.call() == (0, flags, *range(2, 8))
        for value in kept.values():
            assert guest.call()[0] == value


@pytest.mark.parametrize("count", range(9))
def test_a_reply_writes_as_many_registers_as_it_has(count: int) -> None:
    with Guest(x64.forever(CALL)) as guest:
        guest.call()
        guest.cpu.reply(list(range(10, 18)))
        assert guest.call() == tuple(range(10, 18))
        values = [-n - 1 if n % 2 else MASK - n for n in range(count)]
        guest.cpu.reply(values)
        assert guest.call() == tuple(v & MASK for v in values) + tuple(range(10 + count, 18))
        assert guest.call()[:count] == tuple(v & MASK for v in values)


def test_a_reply_is_written_once() -> None:
    with Guest(x64.forever(x64.inc("rdi") + CALL)) as guest:
        guest.call()
        guest.cpu.reply((0, 5))
        assert [guest.call()[1] for _ in range(3)] == [6, 7, 8]


def test_other_ports_do_nothing_and_read_as_ones() -> None:
    narrow = b"\xe6\x48" + b"\x66\xe7\x48"  # out %al and %ax: no calls
    read = x64.mov("rax", 0x1_0000_0000) + b"\xe5\x60" + CALL  # in $0x60, %eax
    read += x64.mov("rax", 0) + b"\xe4\x48" + CALL  # in $0x48, %al
    wide = x64.mov("rdx", 0xCF8) + b"\xef" + x64.mov("rax", 0) + b"\x66\xed" + CALL  # %dx
    with Guest(x64.out(x64.NOTHING) + narrow + read + wide) as guest:
        assert [guest.call()[0] for _ in range(3)] == [0xFFFF_FFFF, 0xFF, 0xFFFF]


# Waiting


def test_hlt_is_wfi_and_ends_with_the_line_even_masked() -> None:
    with Guest(x64.HLT + CALL + x64.HLT + CALL + x64.HLT + CALL, handlers={}) as guest:
        assert guest.enter() == Wfi()
        guest.cpu.set_irq(True)
        guest.call()  # with IF = 0, and with no handler
        guest.call()  # the line is up before the HLT
        guest.cpu.set_irq(False)
        assert guest.enter() == Wfi()


def test_hlt_ends_with_an_interrupt_where_it_is_let() -> None:
    code = x64.STI + x64.HLT + x64.mov("rax", 5) + CALL
    with Guest(code, handlers={INTERRUPT: REPORT}) as guest:
        assert guest.enter() == Wfi()
        guest.cpu.set_irq(True)
        assert guest.call()[0] == 0x20
        guest.cpu.set_irq(False)
        assert guest.call()[0] == 5


def test_a_line_that_falls_again_leaves_a_waiting_guest_to_go_on() -> None:
    with Guest(x64.STI + x64.HLT + x64.mov("rax", 5) + CALL, handlers={}) as guest:
        assert guest.enter() == Wfi()
        guest.cpu.set_irq(True)
        guest.cpu.set_irq(False)
        assert guest.call()[0] == 5


# Interrupts

WINDOW = x64.STI + x64.NOP + x64.out(x64.NOTHING) + x64.CLI


def test_an_interrupt_is_taken_between_unmask_and_mask() -> None:
    with Guest(CALL + WINDOW + x64.mov("rax", 5) + CALL, handlers={INTERRUPT: REPORT}) as guest:
        guest.call()
        guest.cpu.set_irq(True)
        assert guest.call()[0] == 0x20
        guest.cpu.set_irq(False)
        assert guest.call()[0] == 5


def test_a_line_that_stays_up_interrupts_again() -> None:
    with Guest(x64.STI + x64.forever(x64.NOP), handlers={INTERRUPT: REPORT}) as guest:
        guest.cpu.set_irq(True)
        for _ in range(5):
            assert guest.call()[0] == 0x20
        guest.cpu.set_irq(False)
        guest.cpu.kick()
        assert guest.enter() == Kicked()


def test_a_masked_line_does_not_interrupt() -> None:
    spin = x64.mov("rcx", 20_000) + x64.until_zero(x64.dec("rcx"))
    code = spin + CALL + x64.STI + x64.SPIN
    with Guest(code, handlers={INTERRUPT: REPORT}) as guest:
        guest.cpu.set_irq(True)
        assert guest.call()[0] != 0x20
        assert guest.call()[0] == 0x20


def test_an_interrupt_comes_back_to_where_it_was_taken() -> None:
    handler = x64.pop("rsi") + x64.push("rsi") + REPORT
    with Guest(x64.STI + x64.SPIN, handlers={INTERRUPT: handler}) as guest:
        guest.cpu.set_irq(True)
        for _ in range(2):
            assert guest.call()[2] == guest.start + len(x64.STI)


# Ends


def test_an_exception_without_handlers_is_the_end_and_reset_a_new_beginning() -> None:
    with Guest(CALL + x64.UD2) as guest:
        for _ in range(2):
            guest.call()
            end = guest.enter()
            assert isinstance(end, Failed)
            assert "triple fault" in end.reason
            guest.cpu.kick()
            assert guest.enter() == end  # there is no more to come
            guest.cpu.reset(BASE, 7)
            assert guest.enter() == Kicked()
            assert guest.call()[:2] == (0, 7)
            guest.cpu.reset(BASE, 7)


@pytest.mark.parametrize(
    ("code", "what", "at", "shown"),
    [
        (x64.UD2, "undefined instruction", 0, "0f 0b"),
        (bytes.fromhex("31d2 f7f2"), "division error", 2, "f7 f2"),
        (
            x64.mov("rbx", HOLE) + x64.load("rax", "rbx"),
            f"page fault (read) at {HOLE:#x}",
            10,
            "48 8b 03",
        ),
        (
            x64.mov("rbx", HOLE) + x64.store("rbx", "rax"),
            f"page fault (write) at {HOLE:#x}",
            None,
            "",
        ),
        (x64.mov("rbx", HOLE) + x64.jump_to("rbx"), f"page fault (fetch) at {HOLE:#x}", None, ""),
    ],
    ids=["undefined", "division", "read", "write", "fetch"],
)
def test_the_end_is_in_words(code: bytes, what: str, at: int | None, shown: str) -> None:
    with Guest(code) as guest:
        while not isinstance(end := guest.enter(), Failed):
            assert isinstance(end, Mmio | Fault)
            guest.cpu.inject_abort()
        words = end.reason
        assert words.startswith(f"unhandled {what}, rip 0x")
        assert words.endswith("; no handler can be entered (a triple fault)")
        if at is not None:
            assert f", rip {BASE + at:#x}, instruction bytes {shown} " in words


POPCNT = x64.POPCNT.hex(" ")


def test_an_instruction_that_kvm_cannot_do_is_the_end_of_the_cpu_and_no_fetch() -> None:
    """Where KVM can do it, there is nothing to see."""
    with Guest(x64.mov("rbx", 7) + x64.POPCNT + CALL, handlers={PAGE_FAULT: REPORT_ALL}) as guest:
        end = guest.enter()
        if isinstance(end, Failed):
            why = f"KVM cannot emulate the instruction (0x1), rip {guest.start + 10:#x}"
            assert end.reason.startswith(f"engine kvm: {why}, instruction bytes {POPCNT} ")
        else:
            assert args(end)[0] == 3


def test_answers_without_an_exit_are_refused() -> None:
    with Guest(CALL) as guest:
        guest.call()
        with pytest.raises(InternalError):
            guest.cpu.complete_mmio(0)
        with pytest.raises(InternalError):
            guest.cpu.inject_abort()
        with pytest.raises(InternalError):
            guest.space.vcpu(1)


# States

FIBONACCI = (
    x64.mov("rax", 0)
    + x64.mov("rdi", 1)
    + x64.forever(x64.copy("rdx", "rax") + x64.add("rdx", "rdi") + x64.copy("rax", "rdi")
                  + x64.copy("rdi", "rdx") + CALL)
)  # fmt: skip


def test_a_computation_goes_on_in_another_machine() -> None:
    with Guest(FIBONACCI) as first, Guest(FIBONACCI) as second:
        for _ in range(25):
            first.call()
        saved, key = first.cpu.save(), first.cpu.state_key()
        assert second.cpu.state_key() != key
        second.cpu.restore(saved)
        assert second.cpu.state_key() == key
        rest = [second.call() for _ in range(25)]
        assert rest == [first.call() for _ in range(25)]
        assert rest[-1][0] == 12586269025  # the 50th Fibonacci number
        first.cpu.restore(saved)
        assert first.call() == rest[0]


def test_system_registers_and_descriptor_tables_are_part_of_the_state() -> None:
    gs_base = x64.mov("rcx", 0xC000_0102)
    code = gs_base + x64.mov("rax", 0x1234_5000) + x64.WRMSR + CALL
    code += gs_base + x64.RDMSR + CALL + x64.UD2
    handlers = {6: x64.mov("rax", 6) + CALL}
    with Guest(code, handlers=handlers) as first, Guest(code, handlers=handlers) as second:
        first.call()
        second.cpu.restore(first.cpu.save())
        assert second.call()[0] == 0x1234_5000
        assert second.call()[0] == 6


CR8 = x64.mov("rax", 9) + x64.MOV_TO_CR8
TOLD = x64.mov("rcx", 0xC000_0102) + x64.RDMSR + x64.copy("rdi", "rax") + x64.MOV_FROM_CR8 + CALL


def test_the_task_priority_is_part_of_the_state() -> None:
    code = CR8 + CALL + x64.MOV_FROM_CR8 + CALL
    with Guest(code) as first, Guest(code) as second:
        first.call()
        second.cpu.restore(first.cpu.save())
        assert first.call()[0] == second.call()[0] == 9


def test_a_reset_forgets_breakpoints_and_what_the_guest_wrote_to_its_registers() -> None:
    place = BASE + 0x5000
    breakpoint_there = x64.mov("rax", place) + x64.MOV_TO_DR0
    breakpoint_there += x64.mov("rax", 0x403) + x64.MOV_TO_DR7
    gs_base = x64.mov("rcx", 0xC000_0102) + x64.mov("rax", 0x1234_5000) + x64.WRMSR
    with Guest(CR8 + gs_base + breakpoint_there + CALL) as guest:
        guest.ram.write(place - BASE, TOLD)
        guest.call()
        guest.cpu.reset(place, 0)
        assert guest.call()[:2] == (0, 0)


def test_a_guest_sees_no_virtualization() -> None:
    body = x64.CPUID + CALL
    with Guest(x64.forever(body)) as guest:
        guest.cpu.reply((1,))
        assert guest.call()[4] & 1 << 5 == 0
        guest.cpu.reply((0x8000_0001,))
        assert guest.call()[4] & 1 << 2 == 0
        guest.cpu.reply((0x4000_0000,))
        assert guest.call()[4] != int.from_bytes(b"VMKV", "little")


def test_a_reply_that_was_not_read_yet_is_part_of_the_state() -> None:
    with Guest(x64.forever(CALL)) as first, Guest() as second:
        first.call()
        first.cpu.reply((5, -6))
        second.ram.write(0, x64.forever(CALL))
        second.cpu.restore(first.cpu.save())
        for guest in (first, second):
            assert guest.call()[:3] == (5, MASK - 5, 0)


def test_the_timer_is_part_of_the_state_and_the_line_is_not() -> None:
    far = x64.mov("rax", 1) + x64.mov("rdi", 1) + x64.out(x64.TIMER) + x64.STI + x64.SPIN
    with Guest(CALL + far, handlers={INTERRUPT: REPORT}) as guest:
        guest.call()
        before = guest.cpu.save()
        assert guest.enter() == Timer()
        fired = guest.cpu.save()
        guest.cpu.restore(before)
        assert guest.cpu.timer_remaining() is None
        guest.cpu.set_irq(True)
        guest.cpu.restore(fired)
        assert guest.cpu.timer_remaining() == 0
        guest.cpu.mask_timer()
        assert guest.call()[0] == 0x20


@pytest.mark.parametrize("length", [0, 8, None])
def test_nonsense_is_not_restored(length: int | None) -> None:
    with Guest(CALL) as guest:
        size = len(guest.cpu.save()) if length is None else length
        with pytest.raises(UserError, match=f"{size} bytes are no saved CPU state"):
            guest.cpu.restore(b"\x55" * size)
        guest.call()


# Several machines


def test_two_machines_of_two_cpus_each_at_once() -> None:
    def work(cpu: KvmVcpu, number: int) -> None:
        cpu.reset(BASE, 0)
        stops: list[Exit] = []
        for n in range(200):
            cpu.reply((n, number))
            stops.append(cpu.enter())
        assert [args(stop)[:2] for stop in stops] == [(n, number) for n in range(200)]

    with Guest(x64.forever(CALL), vcpus=2) as one, Guest(x64.forever(CALL), vcpus=2) as two:
        cpus = [*one.vcpus, *two.vcpus]
        one.together(*(lambda c=cpu, n=n: work(c, n) for n, cpu in enumerate(cpus)))
