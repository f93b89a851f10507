"""arm64 under KVM: every register is saved, and another CPU resumes from the saved state."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import a64
import pytest
from a64 import mov, msr
from arm64_guest import ARGUMENT, BASE, DATA, HOLE, VECTORS, Guest, needs_kvm, use_vectors

from hfsched.errors import UserError
from hfsched.vcpu.engine import Mmio

pytestmark = needs_kvm

FPSR = a64.sysreg(3, 3, 4, 4, 1)
CPACR = a64.sysreg(3, 0, 1, 0, 2)
TPIDR_EL0 = a64.sysreg(3, 3, 13, 0, 2)
TPIDRRO = a64.sysreg(3, 3, 13, 0, 3)
CONTEXTIDR = a64.sysreg(3, 0, 13, 0, 1)
CNTKCTL = a64.sysreg(3, 0, 14, 1, 0)
TTBR1 = a64.sysreg(3, 0, 2, 0, 1)
SP_EL1_IMAGE = DATA + 0x8000

# What a guest can give any value to, but for bits that are kept as 0.
SYSTEM = {
    a64.TTBR0: 0x7F40_0000,
    TTBR1: 0x7F50_0000,
    a64.TCR: 0x19,
    a64.MAIR: 0x4400_FF04,
    a64.VBAR: VECTORS,
    a64.ESR: 0x5600_0001,
    a64.FAR: 0x1234_5678_9ABC,
    a64.ELR: 0x7F00_1234,
    a64.SPSR: 0x8000_03C4,
    a64.SP_EL0: 0x7F00_7000,
    a64.TPIDR: 0x1111_2222_3333,
    TPIDR_EL0: 0x4444_5555_6666,
    TPIDRRO: 0x7777_8888_9999,
    CONTEXTIDR: 0x55,
    CNTKCTL: 3,
    CPACR: 3 << 20,
    a64.FPCR: 1 << 22,
    FPSR: 1 << 27,
    a64.CNTV_CVAL: 1 << 60,
    a64.CNTV_CTL: 3,
}
COUNTERS = {
    0x6030_0000_0013_DF1A,
    0x6030_0000_0013_DF01,
}  # CNTVCT (by its id), CNTPCT: they advance


def vectors_in(words: int) -> list[int]:
    """LDR or STR (`words`) of q0 to q31 at x1."""
    return [words | n << 10 | 1 << 5 | n for n in range(32)]


LOAD, STORE = 0x3DC0_0000, 0x3D80_0000
FILL: list[a64.Item | list[int]] = [
    *[word for register, value in SYSTEM.items() for word in (*mov(9, value), msr(register, 9))],
    a64.ISB,
    *mov(1, DATA),
    *vectors_in(LOAD),
    *mov(9, SP_EL1_IMAGE),
    a64.mov_sp(31, 9),
    *[word for n in range(31) for word in mov(n, 0x0101_0101_0101_0101 * (n + 1))],
    a64.hvc(),
]
# Each general register to memory, and the stack pointer; the vectors; the system's.
REPORT: list[a64.Item | list[int]] = [
    *mov(1, DATA + 0x1000),
    *[a64.store(n, 1, 8 * n) for n in range(2, 31)],
    a64.mov_sp(9, 31),
    a64.store(9, 1, 8 * 31),
    *mov(1, DATA + 0x2000),
    *vectors_in(STORE),
    *mov(1, DATA + 0x3000),
    *[word for n, register in enumerate(SYSTEM) for word in (a64.mrs(9, register),
                                                             a64.store(9, 1, 8 * n))],
    a64.hvc(),
]  # fmt: skip
PATTERN = bytes(range(256)) * 2


def registers(saved: bytes) -> Iterator[tuple[int, bytes]]:
    """Return what was saved, by KVM's id of each register."""
    magic, count = struct.unpack_from("<8sQ", saved)
    assert magic == b"hfs-ka1\0"
    for n in range(count):
        yield struct.unpack_from("<Q16s", saved, 16 + 24 * n)


def still(saved: bytes) -> dict[int, bytes]:
    """Return the registers except the counters, which advance by themselves."""
    return {number: value for number, value in registers(saved) if number not in COUNTERS}


def test_every_register_that_the_kernel_names_is_the_same_in_another_machine() -> None:
    with Guest(*FILL) as first, Guest() as second:
        first.ram.write(DATA - BASE, PATTERN)
        untouched = still(second.cpu.save())
        first.call()
        saved = first.cpu.save()
        kept = still(saved)
        assert {number for number, _ in registers(saved)} >= COUNTERS
        assert len(kept) > 200
        assert sum(kept[number] != value for number, value in untouched.items()) > 80
        second.cpu.restore(saved)
        assert still(second.cpu.save()) == kept


def test_the_guest_in_the_other_machine_finds_every_register() -> None:
    with Guest(*FILL, *REPORT) as first, Guest(*FILL, *REPORT) as second:
        first.ram.write(DATA - BASE, PATTERN)
        first.call()
        second.cpu.restore(first.cpu.save())
        second.call()

        general = struct.unpack("<29Q", second.ram.read(DATA + 0x1010 - BASE, 29 * 8))
        assert general == tuple(0x0101_0101_0101_0101 * (n + 1) for n in range(2, 31))
        assert second.word(DATA + 0x1000 + 8 * 31) == SP_EL1_IMAGE
        assert second.ram.read(DATA + 0x2000 - BASE, 512) == PATTERN
        system = struct.unpack(
            f"<{len(SYSTEM)}Q", second.ram.read(DATA + 0x3000 - BASE, 8 * len(SYSTEM))
        )
        assert dict(zip(SYSTEM, system, strict=True)) == SYSTEM


def test_a_computation_goes_on_in_another_machine() -> None:
    fibonacci: list[a64.Item | list[int]] = [
        mov(1, 0), mov(2, 1), "loop:", 0x8B02_0023, a64.movr(1, 2), a64.movr(2, 3), a64.hvc(),
        a64.b("loop"),
    ]  # fmt: skip
    with Guest(*fibonacci) as first, Guest(*fibonacci) as second:
        for _ in range(25):
            first.call()
        saved = first.cpu.save()
        second.cpu.restore(saved)
        rest = [second.call() for _ in range(25)]
        assert rest == [first.call() for _ in range(25)]
        assert rest[-1][1] == 12586269025  # the 50th Fibonacci number
        first.cpu.restore(saved)
        assert first.call() == rest[0]


def test_equal_states_have_equal_keys_while_time_goes_on() -> None:
    with Guest(a64.hvc(), mov(3, 1), a64.hvc()) as first, Guest() as second:
        first.call()
        saved, key = first.cpu.save(), first.cpu.state_key()
        assert second.cpu.state_key() != key
        second.cpu.restore(saved)
        assert second.cpu.state_key() == key
        first.call()
        assert first.cpu.state_key() != key


def test_a_reply_that_was_not_read_yet_is_part_of_the_state() -> None:
    with Guest("loop:", a64.hvc(), a64.b("loop")) as first, Guest(a64.hvc(), a64.hvc()) as second:
        first.call()
        first.cpu.reply((5, -6))
        second.cpu.restore(first.cpu.save())
        for guest in (first, second):
            assert guest.call()[:3] == (5, (1 << 64) - 6, 0)


def test_an_abort_that_was_not_taken_yet_is_part_of_the_state() -> None:
    code = [*use_vectors(), *mov(1, HOLE), a64.store(0, 1), a64.hvc()]
    with Guest(*code) as first, Guest(*code) as second:
        assert isinstance(first.enter(), Mmio)
        first.cpu.inject_abort()
        second.cpu.restore(first.cpu.save())
        taken = [guest.call()[:4] for guest in (first, second)]
        assert taken[0] == taken[1]
        assert taken[0][:3] == (0x200, 0x9600_0050, HOLE)


def test_an_access_that_was_not_answered_is_made_again_after_a_restore() -> None:
    code = [*mov(1, HOLE), *mov(3, 6), a64.store(3, 1), a64.hvc()]
    with Guest(*code) as first, Guest(*code) as second:
        stop = first.enter()
        saved = first.cpu.save()
        second.cpu.restore(saved)
        assert second.enter() == stop
        assert first.enter() == stop
        for guest in (first, second):
            guest.cpu.complete_mmio(0)
            assert guest.call()[3] == 6


def test_the_counter_of_a_restored_cpu_goes_on_from_what_was_saved() -> None:
    code = [*mov(9, 1 << 60), msr(a64.CNTV_CVAL, 9), *mov(9, 1), msr(a64.CNTV_CTL, 9)]
    count = [a64.ISB, a64.mrs(2, a64.CNTVCT), a64.hvc()]
    with Guest(*code, *count, *count) as first, Guest(*code, *count, *count) as second:
        before = first.call()[2]
        saved = first.cpu.save()
        while first.cpu.clock() < before + 1_000_000:  # the host's time advances
            pass
        second.cpu.restore(saved)
        left = second.cpu.timer_remaining()
        assert left is not None
        after = second.call()[2]
        assert before < after < first.call()[2]


@pytest.mark.parametrize("length", [0, 8, None])
def test_nonsense_is_not_restored(length: int | None) -> None:
    with Guest(a64.hvc()) as guest:
        size = len(guest.cpu.save()) if length is None else length
        with pytest.raises(UserError, match=f"{size} bytes are no saved CPU state"):
            guest.cpu.restore(b"\x55" * size)
        assert guest.call()[0] == ARGUMENT
