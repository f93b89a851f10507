"""Accesses outside of what an x86-64 VM has, under KVM: completed, or aborted, or made again."""

from __future__ import annotations

import struct

import pytest
import x64
from kvm_guest import (
    BASE,
    DATA,
    GDT,
    HOLE,
    INTERRUPT,
    PAGE_FAULT,
    REPORT,
    REPORT_ALL,
    SIZE,
    Guest,
    args,
    needs_kvm,
)

from hfsched.memory.ram import Ram
from hfsched.vcpu.engine import Failed, Fault, Hypercall, Kicked, Mmio, Permissions

pytestmark = needs_kvm

CALL = x64.out(x64.HVC)
HANDLERS = {PAGE_FAULT: REPORT_ALL}
VALUE = 0x1122_3344_5566_7788
ONES = (1 << 64) - 1
SIZES = (1, 2, 4, 8)
REP_INSB = b"\xf3\x6c"
READ, WRITE, FETCH = 0x4000, 0x4002, 0x4010  # error codes


def low(value: int, size: int) -> int:
    return value & (1 << 8 * size) - 1


@pytest.mark.parametrize("size", SIZES)
def test_a_read_is_completed(size: int) -> None:
    code = x64.mov("rbx", HOLE + 8) + x64.mov("rdx", -1) + x64.load("rdx", "rbx", size) + CALL
    with Guest(code) as guest:
        assert guest.enter() == Mmio(HOLE + 8, size, write=False, value=0)
        guest.cpu.complete_mmio(VALUE)
        kept = 0 if size == 4 else ONES & ~low(ONES, size)  # 32 bits clear what is above
        assert guest.call()[3] == kept | low(VALUE, size)


@pytest.mark.parametrize("size", SIZES)
def test_a_write_is_completed(size: int) -> None:
    code = x64.mov("rbx", HOLE) + x64.mov("rdx", VALUE) + x64.store("rbx", "rdx", size) + CALL
    with Guest(code) as guest:
        assert guest.enter() == Mmio(HOLE, size, write=True, value=low(VALUE, size))
        guest.cpu.complete_mmio(5)
        assert guest.call()[:4] == (0, 0x1234, 0, VALUE)


def test_a_locked_instruction_is_a_read_and_a_write() -> None:
    code = x64.mov("rbx", HOLE) + x64.mov("rdx", 5) + x64.lock_add("rbx", "rdx") + CALL
    with Guest(code) as guest:
        assert guest.enter() == Mmio(HOLE, 8, write=False, value=0)
        guest.cpu.complete_mmio(-3)
        assert guest.enter() == Mmio(HOLE, 8, write=True, value=2)
        guest.cpu.complete_mmio(0)
        guest.call()


def aborted(guest: Guest) -> tuple[tuple[int, ...], int, int, int]:
    """Abort the last access; return the registers at the handler, error code, RIP and CR2."""
    guest.cpu.inject_abort()
    registers = guest.call()
    _, error, rip, cr2, *_ = guest.call()
    return registers, error, rip, cr2


REGISTERS = tuple(range(0x100, 0x108))


def with_registers(code: bytes, **others: int) -> tuple[bytes, int]:
    """Return {code after setting up registers, the offset of its own beginning}."""
    values = dict(zip(x64.ARGUMENTS, REGISTERS, strict=True)) | others
    setup = b"".join(x64.mov(name, value) for name, value in values.items())
    return setup + code, len(setup)


@pytest.mark.parametrize("size", SIZES)
def test_a_read_is_aborted_and_may_be_made_again(size: int) -> None:
    code, at = with_registers(x64.load("rdx", "rbx", size) + CALL, rbx=HOLE + 0x18)
    with Guest(code, handlers=HANDLERS) as guest:
        stop = guest.enter()
        assert isinstance(stop, Mmio)
        registers, *rest = aborted(guest)
        assert registers == REGISTERS  # nothing was read
        assert rest == [READ, guest.start + at, HOLE + 0x18]
        guest.cpu.reset(guest.start, 0)
        assert guest.enter() == stop


@pytest.mark.parametrize("size", SIZES)
def test_a_write_is_aborted(size: int) -> None:
    code, _ = with_registers(x64.store("rbx", "rdx", size), rbx=HOLE)
    with Guest(code + CALL, handlers=HANDLERS) as guest:
        stop = guest.enter()
        assert isinstance(stop, Mmio)
        assert stop.write
        registers, *rest = aborted(guest)
        assert registers == REGISTERS
        assert rest == [WRITE, guest.start + len(code), HOLE]


@pytest.mark.parametrize(
    ("code", "error"),
    [(x64.REP_LODSQ, READ), (x64.REP_STOSQ, WRITE), (x64.REP_MOVSQ, READ)],
    ids=["lods", "stos", "movs"],
)
def test_a_string_instruction_is_aborted_at_its_first_access(code: bytes, error: int) -> None:
    """However many words are left, no answer is needed for each of them."""
    place = DATA if code == x64.REP_MOVSQ else HOLE
    setup, at = with_registers(code + CALL, rsi=HOLE, rdi=place, rcx=5000)
    with Guest(setup, handlers=HANDLERS) as guest:
        guest.ram.write(DATA - BASE, b"\x55" * 16)
        stop = guest.enter()
        assert isinstance(stop, Mmio)
        registers, *rest = aborted(guest)
        assert guest.word(DATA + 8) == 0x5555_5555_5555_5555
        assert rest == [error, guest.start + at, HOLE]
        if error == READ:
            assert registers[2] == HOLE
            assert registers[4] == 5000


def test_a_locked_instruction_is_aborted_before_it_writes() -> None:
    code, at = with_registers(x64.lock_add("rbx", "rdx") + CALL, rbx=HOLE)
    with Guest(code, handlers=HANDLERS) as guest:
        guest.enter()
        registers, *rest = aborted(guest)
        assert registers == REGISTERS
        assert rest == [READ, guest.start + at, HOLE]


def test_an_address_beyond_4_gib_is_told_whole() -> None:
    big = 0x12_3400_0000
    code = x64.mov("rbx", big + 0x10) + x64.load("rdx", "rbx")
    with Guest(code, handlers=HANDLERS) as guest:
        # The first tables reach as far as memory did.
        guest.space.map(big, guest.ram, 0, 0x1000, Permissions.RWX)
        guest.space.unmap(big, 0x1000)
        assert guest.enter() == Mmio(big + 0x10, 8, write=False, value=0)
        assert aborted(guest)[1:] == (READ, guest.start + 10, big + 0x10)


def test_a_fetch_is_aborted() -> None:
    code, _ = with_registers(x64.jump_to("rbx"), rbx=HOLE + 6)
    with Guest(code, handlers=HANDLERS) as guest:
        assert guest.enter() == Fault(HOLE + 6, HOLE + 6, write=False, fetch=True)
        registers, *rest = aborted(guest)
        assert registers == REGISTERS
        assert rest == [FETCH, HOLE + 6, HOLE + 6]


@pytest.mark.parametrize("before", [1, 9])
def test_an_instruction_that_goes_on_where_nothing_is(before: int) -> None:
    end = BASE + SIZE
    with Guest(x64.mov("rbx", end - before) + x64.jump_to("rbx"), handlers=HANDLERS) as guest:
        guest.ram.write(SIZE - before, x64.mov("rax", 5)[:before])
        assert guest.enter() == Fault(end, end, write=False, fetch=True)
        assert aborted(guest)[1:] == (FETCH, end - before, end)


def test_an_abort_comes_before_the_interrupt_that_is_pending() -> None:
    code = x64.STI + x64.NOP + x64.mov("rbx", HOLE) + x64.load("rdx", "rbx") + x64.SPIN
    with Guest(code, handlers={**HANDLERS, INTERRUPT: REPORT}) as guest:
        for _ in range(2):
            stop = guest.enter()
            if not isinstance(stop, Mmio):
                break  # the second time round an engine may look before
            guest.cpu.set_irq(True)
            assert aborted(guest)[1] == READ  # the handler has IF = 0
            guest.cpu.reset(BASE, 0)
        if isinstance(stop, Mmio):
            guest.enter()
            guest.cpu.complete_mmio(0)
            assert guest.call()[0] == 0x20


def test_the_line_that_comes_up_at_an_access_interrupts_after_it() -> None:
    code = x64.STI + x64.NOP + x64.mov("rbx", HOLE) + x64.load("rdx", "rbx")
    with Guest(code + x64.SPIN, handlers={INTERRUPT: REPORT}) as guest:
        assert guest.enter() == Mmio(HOLE, 8, write=False, value=0)
        guest.cpu.set_irq(True)
        guest.cpu.complete_mmio(VALUE)
        assert guest.call()[::3] == (0x20, VALUE, 0)


# Across the end of a page

CROSSING = [HOLE + 0xFFC, BASE + SIZE - 4, BASE - 4]


@pytest.mark.parametrize("address", CROSSING, ids=["both missing", "end of RAM", "start of RAM"])
def test_a_read_across_pages_is_completed_in_parts(address: int) -> None:
    with Guest(x64.mov("rbx", address) + x64.load("rdx", "rbx") + CALL) as guest:
        there = bytes(guest.ram.read(0, 4)), b"\x66\x77\x88\x99"
        guest.ram.write(SIZE - 4, there[1])
        parts = {BASE: there[0], BASE + SIZE - 4: there[1]}
        for part in (address, address + 4):
            if part in parts:
                continue
            stop = guest.enter()
            assert stop == Mmio(part, 4, write=False, value=0)
            parts[part] = (part & 0xFFFF).to_bytes(4, "little")
            guest.cpu.complete_mmio(part & 0xFFFF)
        whole = parts[address] + parts[address + 4]
        assert guest.call()[3] == int.from_bytes(whole, "little")


@pytest.mark.parametrize("address", CROSSING, ids=["both missing", "end of RAM", "start of RAM"])
def test_a_write_across_pages_is_completed_in_parts(address: int) -> None:
    code = x64.mov("rbx", address) + x64.mov("rdx", VALUE) + x64.store("rbx", "rdx") + CALL
    with Guest(code) as guest:
        parts = {}
        stop = guest.enter()
        while isinstance(stop, Mmio):
            parts[stop.address] = (stop.size, stop.value)
            guest.cpu.complete_mmio(0)
            stop = guest.enter()
        args(stop)
        if address == BASE - 4:
            parts[BASE] = (4, guest.word(BASE) & 0xFFFF_FFFF)
        if address == BASE + SIZE - 4:
            parts[address] = (4, guest.word(BASE + SIZE - 8) >> 32)
        assert parts == {address: (4, 0x5566_7788), address + 4: (4, 0x1122_3344)}


@pytest.mark.parametrize("address", CROSSING, ids=["both missing", "end of RAM", "start of RAM"])
@pytest.mark.parametrize("answered", [0, 1])
@pytest.mark.parametrize("code", [x64.load("rdx", "rbx"), x64.store("rbx", "rdx")])
def test_an_access_across_pages_is_aborted(address: int, answered: int, code: bytes) -> None:
    setup, _ = with_registers(code + CALL, rbx=address)
    with Guest(setup, handlers=HANDLERS) as guest:
        stop = guest.enter()
        for _ in range(answered):
            guest.cpu.complete_mmio(0)
            stop = guest.enter()
        if isinstance(stop, Hypercall):
            return  # there was one part only
        assert isinstance(stop, Mmio)
        registers, error, _, cr2 = aborted(guest)
        assert registers == REGISTERS
        assert (error, cr2) == (WRITE if stop.write else READ, stop.address)


# Left unanswered


@pytest.mark.parametrize("code", [x64.load("rdx", "rbx"), x64.store("rbx", "rdx")])
def test_reset_and_restore_let_go_of_an_access_that_is_not_answered(code: bytes) -> None:
    begin = CALL + x64.mov("rbx", HOLE) + code + x64.HLT
    with Guest(begin) as guest:
        guest.call()
        saved = guest.cpu.save()
        for _ in range(3):
            stop = guest.enter()
            assert isinstance(stop, Mmio)
            guest.cpu.restore(saved)
            assert guest.enter() == stop
            guest.cpu.reset(BASE, 0x77)
            assert guest.call()[:4] == (0, 0x77, 0, 0)


def test_a_read_that_is_not_answered_is_made_again() -> None:
    """As `Fault` allows: entering again without a repaired mapping reports it again."""
    page = Ram("page", 0x1000)
    page.write(0, VALUE.to_bytes(8, "little"))
    with Guest(x64.mov("rbx", HOLE) + x64.load("rdx", "rbx") + CALL) as guest:
        stop = guest.enter()
        assert guest.enter() == stop == Mmio(HOLE, 8, write=False, value=0)
        guest.space.map(HOLE, page, 0, 0x1000, Permissions.READ)
        assert guest.call()[3] == VALUE
        guest.space.close()
        page.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_write_that_is_not_answered_is_made_again(size: int) -> None:
    page = Ram("page", 0x1000)
    page.write(0, b"\xff" * 16)
    code = x64.mov("rbx", HOLE + 4) + x64.mov("rdx", VALUE) + x64.store("rbx", "rdx", size)
    with Guest(code + CALL) as guest:
        guest.space.map(HOLE, page, 0, 0x1000, Permissions.READ)
        stop = guest.enter()
        assert guest.enter() == stop
        guest.space.protect(HOLE, 0x1000, Permissions.RW)
        guest.call()
        written = VALUE.to_bytes(8, "little")[:size]
        assert page.read(0, 16) == b"\xff" * 4 + written + b"\xff" * (12 - size)
        guest.space.close()
        page.close()


def test_a_fetch_that_is_not_answered_is_made_again() -> None:
    page = Ram("page", 0x1000)
    page.write(0, x64.mov("rax", 5) + CALL)
    with Guest(x64.mov("rbx", HOLE) + x64.jump_to("rbx"), handlers={}) as guest:
        stop = guest.enter()
        assert guest.enter() == stop == Fault(HOLE, HOLE, write=False, fetch=True)
        guest.space.map(HOLE, page, 0, 0x1000, Permissions.RX)
        assert guest.call()[0] == 5
        guest.space.close()
        page.close()


# Saved between an answer and what comes after it


@pytest.mark.parametrize(
    "code",
    [x64.load("rdx", "rbx"), x64.lock_add("rbx", "rdx"), x64.REP_LODSQ, x64.REP_MOVSQ],
    ids=["load", "locked", "lods", "movs"],
)
def test_a_read_that_was_answered_and_not_used_yet_is_made_again_after_a_save(code: bytes) -> None:
    """An instruction may continue with a write, or another read: neither may be lost."""
    begin, _ = with_registers(code + CALL, rbx=HOLE, rsi=HOLE, rdi=DATA, rcx=1 << 40)
    with Guest(begin) as first, Guest(begin) as second:
        stop = first.enter()
        first.cpu.complete_mmio(VALUE)
        first.cpu.kick()
        assert first.enter() == Kicked()
        saved, key = first.cpu.save(), first.cpu.state_key()
        second.cpu.restore(saved)
        assert second.cpu.state_key() == key
        for guest in (first, second):
            assert guest.enter() == stop
            guest.cpu.complete_mmio(VALUE)
            after = guest.enter()
            if code == x64.load("rdx", "rbx"):
                assert args(after)[3:5] == (VALUE, 1 << 40)
            elif code == x64.lock_add("rbx", "rdx"):
                assert after == Mmio(HOLE, 8, write=True, value=low(VALUE + REGISTERS[3], 8))
            else:
                assert after == Mmio(HOLE + 8, 8, write=False, value=0)


def test_a_write_that_was_answered_is_done_when_saved() -> None:
    begin, _ = with_registers(x64.store("rbx", "rdx") + CALL, rbx=HOLE)
    with Guest(begin) as first, Guest(begin) as second:
        first.enter()
        first.cpu.complete_mmio(0)
        first.cpu.kick()
        assert first.enter() == Kicked()
        second.cpu.restore(first.cpu.save())
        assert first.call() == second.call() == REGISTERS


def test_a_guest_whose_state_kvm_refuses_ends_by_its_abort_and_nothing_else_does() -> None:
    """Without paging, in a segment for 64-bit code: KVM refuses to set these registers so."""
    with Guest(handlers=HANDLERS) as guest:
        wide, narrow = 0x00AF9A000000FFFF, 0x00CF9A000000FFFF
        guest.ram.write(GDT, struct.pack("<4Q", 0, wide, 0x00CF92000000FFFF, narrow))
        guest.ram.write(GDT + 0x100, struct.pack("<HQ", 31, BASE + GDT))
        paging_off = b"\x0f\x20\xc0" + b"\x25\xff\xff\xff\x7f" + b"\x0f\x22\xc0"  # in EAX
        there = BASE + 0x4000
        after = there + len(paging_off) + 7
        far_jump = b"\xea" + struct.pack("<IH", after, 8)
        load = b"\x67\xa1" + struct.pack("<I", HOLE)
        guest.ram.write(there - BASE, paging_off + far_jump + load)
        to_narrow = x64.mov("rax", 0x18) + x64.push("rax") + x64.mov("rax", there)
        guest.ram.write(guest.start - BASE, to_narrow + x64.push("rax") + b"\x48\xcb")  # lretq
        stop = guest.enter()
        if not isinstance(stop, Mmio):
            pytest.skip(f"this KVM does not let it come so far: {stop}")
        guest.cpu.inject_abort()
        end = guest.enter()
        assert isinstance(end, Failed)
        assert f"the abort at {HOLE:#x} cannot be delivered" in end.reason
        assert f", rip {there + len(paging_off) + 7:#x}, instruction bytes 67 a1" in end.reason
        guest.cpu.reset(BASE, 0)
        assert isinstance(guest.enter(), Mmio)


@pytest.mark.parametrize("answered", [True, False])
def test_a_string_of_input_for_where_nothing_is_can_be_cut_anywhere(answered: bool) -> None:
    """KVM has 1024 bytes from the port, and writes them as one access in 128 parts."""
    code = x64.mov("rdi", HOLE) + x64.mov("rcx", 1024) + x64.mov("rdx", x64.NOTHING) + REP_INSB
    with Guest(code + CALL) as guest:
        assert guest.enter() == Mmio(HOLE, 8, write=True, value=ONES)
        if answered:
            guest.cpu.complete_mmio(0)
        assert BASE <= guest.cpu.program_counter() < BASE + SIZE
        guest.cpu.reset(BASE, 0)
        assert guest.enter() == Mmio(HOLE, 8, write=True, value=ONES)


def test_a_string_of_input_for_where_nothing_is_is_aborted_once() -> None:
    code = x64.mov("rdi", HOLE) + x64.mov("rcx", 1024) + x64.mov("rdx", x64.NOTHING) + REP_INSB
    with Guest(code, handlers=HANDLERS) as guest:
        assert isinstance(guest.enter(), Mmio)
        guest.cpu.inject_abort()
        guest.call()
        assert guest.call()[1:4] == (WRITE, guest.start + 30, HOLE)
