"""arm64 under KVM: accesses outside of memory, MMIO, aborts, and memory that changes meanwhile."""

from __future__ import annotations

import a64
import pytest
from a64 import mov
from arm64_guest import BASE, DATA, HOLE, Guest, needs_kvm, use_vectors

from hfsched.errors import InternalError
from hfsched.vcpu.engine import Exit, Fault, Kicked, Mmio, Permissions

pytestmark = needs_kvm

MASK = (1 << 64) - 1
VALUE = 0x8877_6655_F433_A2F1
SYNC = 0x200  # the vector
EXTERNAL, WRITE = 0x10, 0x40  # the status of an abort; the bit WnR


# MMIO


@pytest.mark.parametrize("size", range(4))
def test_a_read_is_told_with_its_size_and_gets_its_value(size: int) -> None:
    with Guest(mov(1, HOLE + 8), mov(0, MASK), a64.ldr(0, 1, size=size), a64.hvc()) as guest:
        assert guest.enter() == Mmio(HOLE + 8, 1 << size, write=False, value=0)
        guest.cpu.complete_mmio(VALUE)
        assert guest.call()[0] == VALUE & (1 << (8 << size)) - 1


@pytest.mark.parametrize("size", range(3))
def test_a_read_that_extends_the_sign(size: int) -> None:
    """Many kernels extend it and truncate it again, unseen by user space (docs/engines.md)."""
    with Guest(mov(1, HOLE), a64.ldrs(0, 1, size=size), a64.hvc()) as guest:
        assert guest.enter() == Mmio(HOLE, 1 << size, write=False, value=0)
        guest.cpu.complete_mmio(VALUE)
        bits = 8 << size
        plain = VALUE & (1 << bits) - 1
        assert guest.call()[0] in (plain, plain | MASK << bits & MASK)


@pytest.mark.parametrize("size", range(4))
def test_a_write_is_told_with_its_value(size: int) -> None:
    with Guest(mov(1, HOLE), mov(0, VALUE), a64.store(0, 1, size=size), a64.hvc()) as guest:
        mask = (1 << (8 << size)) - 1
        assert guest.enter() == Mmio(HOLE, 1 << size, write=True, value=VALUE & mask)
        guest.cpu.complete_mmio(0)
        assert guest.call()[0] == VALUE


def test_an_unanswered_write_is_repeated() -> None:
    store = [a64.store(0, 1), a64.hvc()]
    with Guest(use_vectors(), mov(1, HOLE), mov(0, 5), store) as guest:
        stop = guest.enter()
        assert isinstance(stop, Mmio)
        at = guest.cpu.program_counter()
        guest.cpu.kick()
        assert guest.enter() == Kicked()
        assert guest.cpu.program_counter() == at
        assert [guest.enter() for _ in range(2)] == [stop, stop]
        guest.map_second(HOLE)
        assert guest.call()[0] == 5
        assert guest.word(DATA) == 5


def test_an_unanswered_read_is_repeated_and_changes_nothing() -> None:
    with Guest(mov(1, HOLE), mov(0, 5), a64.ldr(0, 1), a64.hvc()) as guest:
        stop = guest.enter()
        assert [guest.enter() for _ in range(2)] == [stop, stop]
        guest.ram.write(DATA - BASE, b"\7")
        guest.map_second(HOLE)
        assert guest.call()[0] == 7


def test_only_an_access_can_be_completed_or_aborted() -> None:
    with Guest(a64.hvc()) as guest:
        guest.call()
        with pytest.raises(InternalError):
            guest.cpu.complete_mmio(0)
        with pytest.raises(InternalError):
            guest.cpu.inject_abort()


# Aborts


def abort(guest: Guest) -> tuple[int, ...]:
    """Answer an access with an abort; return {vector, ESR, FAR, ELR, PSTATE}."""
    at = guest.cpu.program_counter()
    guest.cpu.inject_abort()
    vector, esr, far, elr, pstate = guest.call()[:5]
    assert (vector, elr) == (SYNC, at)
    assert pstate & 0x3CF == 0x3C5
    return esr, far


@pytest.mark.parametrize(
    ("word", "write"),
    [(a64.ldr(0, 1), False), (a64.store(0, 1), True)],
    ids=["read", "write"],
)
def test_an_abort_says_where_and_whether_it_was_a_write(word: int, write: bool) -> None:
    with Guest(use_vectors(), mov(1, HOLE + 16), word, a64.hvc()) as guest:
        assert isinstance(guest.enter(), Mmio)
        esr, far = abort(guest)
        assert far == HOLE + 16
        assert esr == 0x9600_0000 | EXTERNAL | (WRITE if write else 0)


def test_an_aborted_access_leaves_every_register_as_it_was() -> None:
    with Guest(use_vectors(), mov(0, 3), mov(1, HOLE), mov(7, 77), a64.ldr(7, 1)) as guest:
        guest.enter()
        guest.cpu.inject_abort()
        assert guest.call()[5:] == (0, 0, 77)


@pytest.mark.parametrize("write", [False, True])
def test_an_access_that_cannot_be_decoded(write: bool) -> None:
    pair = 0xA900_0000 if write else 0xA940_0000  # stp, ldp x2, x3, [x1]
    with Guest(use_vectors(), mov(1, HOLE), pair | 3 << 10 | 1 << 5 | 2, a64.hvc()) as guest:
        stop = guest.enter()
        assert isinstance(stop, Fault)
        assert (stop.address & -4096, stop.write, stop.fetch) == (HOLE, write, False)
        esr, far = abort(guest)
        assert far == HOLE
        assert bool(esr & WRITE) is write


def test_a_write_to_what_may_only_be_read() -> None:
    with Guest(use_vectors(), mov(1, HOLE), mov(0, 5), a64.ldr(2, 1), a64.store(0, 1)) as guest:
        guest.map_second(HOLE, Permissions.RX)
        stop = guest.enter()
        assert isinstance(stop, Mmio)
        assert (stop.address, stop.write) == (HOLE, True)
        esr, far = abort(guest)
        assert (far, bool(esr & WRITE)) == (HOLE, True)
        assert guest.word(DATA) == 0


def test_a_fetch_where_nothing_is_gets_its_abort_in_the_kernel() -> None:
    with Guest(use_vectors(), mov(1, HOLE), a64.br(1)) as guest:
        assert guest.call()[:4] == (SYNC, 0x8600_0000 | EXTERNAL, HOLE, HOLE)


# Memory that changes


def test_memory_comes_and_goes_while_a_cpu_runs() -> None:
    """One CPU reads a page for ever; each change is seen at its next read."""
    code: list[a64.Item | list[int]] = [mov(1, HOLE), "loop:", a64.ldr(0, 1), a64.b("loop")]
    with Guest(*code, vcpus=2) as guest:
        guest.map_second(HOLE)
        stops: list[Exit] = []

        def run() -> None:
            for _ in range(20):
                stops.append(guest.enter())
                guest.map_second(HOLE)

        def change() -> None:
            while len(stops) < 20:
                guest.space.unmap(HOLE, 4096)

        guest.together(run, change)
        assert stops == [Mmio(HOLE, 8, write=False, value=0)] * 20
