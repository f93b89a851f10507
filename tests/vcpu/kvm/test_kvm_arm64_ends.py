"""arm64 under KVM: what is half-done when a CPU is saved, put back, reset, frozen or closed."""

from __future__ import annotations

import itertools
import struct
import threading
from typing import Self

import pytest
from progress import QUIET

from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Exit, Fault, Hypercall, Kicked, Mmio, Permissions
from hfsched.vcpu.kvm import device
from hfsched.vcpu.kvm.cpu import KvmVcpu
from hfsched.vcpu.kvm.engine import KvmEngine

WHY_NOT = device.problem() if device.MACHINE == "aarch64" else "this is no arm64 machine"
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"engine kvm: {WHY_NOT}")

BASE = 0x4000_0000
SIZE = 1 << 20
VECTORS = 0x8000
HOLE = 0x3000_0000  # where nothing is
CALL = 0x8400_0070  # a function id that the kernel forwards
SECOND = 1_000_000_000

HVC, WFI = 0xD4000002, 0xD503207F
LOAD, STORE = 0xF9400041, 0xF9000041  # ldr, str x1, [x2]
LOAD_PAIR = 0xA9400C41  # ldp x1, x3, [x2]
VBAR_FROM_X4 = 0xD518C004
FREQUENCY_TO_X1, COUNT_FROM_X1, CONTROL_FROM_X1 = 0xD53BE001, 0xD51BE301, 0xD51BE321
DOUBLE_X1 = 0x8B010021  # add x1, x1, x1
FAR_TO_X1 = 0xD5386001


def mov(register: int, value: int) -> list[int]:
    """movz and movk: 32 bits"""
    return [0xD2800000 | (value & 0xFFFF) << 5 | register,
            0xF2A00000 | (value >> 16) << 5 | register]  # fmt: skip


# x0 = a call, x1 = 7, x2 = an address without memory, VBAR_EL1: vectors that report FAR in x1.
BEGIN = [*mov(0, CALL), *mov(1, 7), *mov(2, HOLE), *mov(4, BASE + VECTORS), VBAR_FROM_X4]


class Guest:
    """A VM of one CPU, at the beginning of its code."""

    def __init__(self, *code: int) -> None:
        self.engine = KvmEngine(ThreadRuntime())
        self.ram = Ram("test", SIZE)
        self.space = self.engine.space("test", 1)
        self.space.map(BASE, self.ram, 0, SIZE, Permissions.RWX)
        self.ram.write(0, struct.pack(f"<{len(code)}I", *code))
        for vector in range(16):
            handler = struct.pack("<4I", FAR_TO_X1, *mov(0, CALL), HVC)
            self.ram.write(VECTORS + 0x80 * vector, handler)
        cpu = self.space.vcpu(0)
        assert isinstance(cpu, KvmVcpu)
        self.cpu = cpu
        self.cpu.reset(BASE, CALL)

    def enter(self) -> Exit:
        dog = threading.Timer(20, self.cpu.kick)
        dog.start()
        try:
            return self.cpu.enter()
        finally:
            dog.cancel()

    def x1(self) -> int:
        stop = self.enter()
        assert isinstance(stop, Hypercall), stop
        return stop.args[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.engine.close()
        self.ram.close()


@pytest.mark.parametrize(("code", "told"), [(LOAD, 55), (STORE, 7)], ids=["load", "store"])
def test_an_access_that_was_answered_is_done_when_saved(code: int, told: int) -> None:
    program = (*BEGIN, HVC, code, HVC)
    with Guest(*program) as first, Guest(*program) as second:
        first.x1()
        before = first.cpu.save()
        stop = first.enter()
        assert isinstance(stop, Mmio)
        first.cpu.complete_mmio(55)
        first.cpu.kick()
        assert first.enter() == Kicked()
        second.cpu.restore(first.cpu.save())
        assert second.x1() == first.x1() == told
        for answered in (True, False):  # and it does nothing to a state that is put back
            first.cpu.restore(before)
            assert first.enter() == stop
            if answered:
                first.cpu.complete_mmio(66)
        first.cpu.restore(before)
        assert first.enter() == stop
        first.cpu.reset(BASE, 0)
        assert first.x1() == 7
        assert first.enter() == stop


def test_an_access_that_is_not_answered_is_made_again_after_a_save() -> None:
    program = (*BEGIN, LOAD, HVC)
    with Guest(*program) as first, Guest(*program) as second:
        stop = first.enter()
        second.cpu.restore(first.cpu.save())
        for guest in (first, second):
            assert guest.enter() == stop == Mmio(HOLE, 8, write=False, value=0)
            guest.cpu.complete_mmio(55)
            assert guest.x1() == 55


def test_an_abort_is_part_of_the_state() -> None:
    program = (*BEGIN, LOAD, HVC)
    with Guest(*program) as first, Guest(*program) as second:
        first.enter()
        first.cpu.inject_abort()
        second.cpu.restore(first.cpu.save())
        assert first.x1() == second.x1() == HOLE


def test_an_access_that_cannot_be_decoded_is_aborted_and_no_end() -> None:
    with Guest(*BEGIN, LOAD_PAIR, HVC) as guest:
        stop = guest.enter()
        assert stop == Fault(HOLE, 0, write=False, fetch=False)
        guest.cpu.inject_abort()
        assert guest.x1() == HOLE


def test_a_line_that_is_up_stays_up_over_a_reset() -> None:
    with Guest(WFI, HVC) as guest:
        guest.cpu.set_irq(True)  # before KVM has ever run it
        for _ in range(2):
            guest.cpu.reset(BASE, CALL)
            assert isinstance(guest.enter(), Hypercall)


def test_a_frozen_machine_loses_no_time_in_a_saved_state() -> None:
    timer = [FREQUENCY_TO_X1, DOUBLE_X1, COUNT_FROM_X1, *mov(1, 1), CONTROL_FROM_X1]
    with Guest(*BEGIN, *timer, HVC) as first, Guest(HVC) as second:
        first.x1()
        first.space.freeze()
        second.space.freeze()
        left, saved = first.cpu.timer_remaining(), first.cpu.save()
        assert left is not None
        assert left <= 2 * SECOND
        threading.Event().wait(0.01)
        assert first.cpu.timer_remaining() == left
        second.cpu.restore(saved)
        assert second.cpu.timer_remaining() == left
        for guest in (first, second):
            guest.space.thaw()
            now = guest.cpu.timer_remaining()
            assert now is not None
            assert now <= left


def test_a_closed_machine_is_neither_frozen_nor_thawed() -> None:
    with Guest(HVC) as guest:
        guest.space.freeze()
        guest.space.close()
        guest.space.thaw()
        guest.space.freeze()


def test_lines_that_change_while_a_machine_is_closed_do_nothing() -> None:
    for _ in range(40):
        with Guest(HVC) as guest:
            running = threading.Event()
            over = threading.Event()
            errors: list[Exception] = []

            def storm(
                guest: Guest = guest,
                running: threading.Event = running,
                over: threading.Event = over,
                errors: list[Exception] = errors,
            ) -> None:
                try:
                    for n in itertools.count():
                        guest.cpu.set_irq(n % 2 == 0)
                        if n == 50:
                            running.set()
                        if over.is_set():
                            return
                except Exception as exc:  # noqa: BLE001 - looked at below
                    errors.append(exc)

            thread = threading.Thread(target=storm)
            thread.start()
            assert running.wait(QUIET)
            guest.space.close()
            over.set()
            thread.join()
            assert not errors
