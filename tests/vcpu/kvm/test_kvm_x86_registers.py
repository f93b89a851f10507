"""Registers by name on x86-64 under KVM."""

from __future__ import annotations

import threading

import pytest
import x64
from kvm_guest import BASE, HOLE, Guest, args, needs_kvm

from hfsched.errors import InternalError, UserError
from hfsched.vcpu.engine import Kicked, Mmio
from hfsched.vcpu.registers import X86_64

pytestmark = needs_kvm
CALL = x64.out(x64.HVC)


def test_the_start_is_seen() -> None:
    with Guest(CALL) as guest:
        found = guest.cpu.registers()
        assert set(found) == set(X86_64)
        assert (found["rip"], found["rflags"], found["rdi"]) == (BASE, 2, 0x1234)
        assert (found["cr0"], found["cr4"], found["efer"]) == (0x80010031, 0x20, 0xD00)
        assert (found["cs"], found["ds"], found["mxcsr"], found["fctrl"]) == (8, 16, 0x1F80, 0x37F)
        assert (found["xmm0"], found["st0"]) == (bytes(16), bytes(10))


def test_what_was_written_is_read_and_seen_by_the_guest() -> None:
    with Guest(CALL + CALL) as guest:
        args(guest.enter())
        wanted: dict[str, int | bytes] = {
            "rax": 1,
            "rdi": 2,
            "rsi": 1 << 63,
            "r15": 15,
            "rsp": 0x7000,
            "rflags": 3,
            "fs_base": 0x1111,
            "gs_base": 0x2222,
            "cr2": 0x3333,
            "star": 4 << 32,
            "lstar": 5,
            "xmm15": bytes(range(16)),
            "st7": bytes(range(10)),
            "mxcsr": 0x1FA0,
        }
        guest.cpu.set_registers(wanted)
        found = guest.cpu.registers()
        assert {name: found[name] for name in wanted} == wanted
        assert args(guest.enter())[:3] == (1, 2, 1 << 63)


def test_all_that_was_read_can_be_written() -> None:
    with Guest(x64.mov("rsi", 0xABC) + CALL + CALL) as guest:
        args(guest.enter())
        before = guest.cpu.registers()
        guest.cpu.set_registers(before)
        assert guest.cpu.registers() == before
        assert args(guest.enter())[2] == 0xABC


def test_a_reply_that_is_still_to_be_written_is_a_register() -> None:
    with Guest(CALL + CALL) as guest:
        args(guest.enter())
        guest.cpu.reply((77, 88))
        found = guest.cpu.registers()
        assert (found["rax"], found["rdi"]) == (77, 88)
        guest.cpu.set_registers({"rdi": 99})
        assert args(guest.enter())[:2] == (77, 99)


def test_it_continues_at_a_written_rip() -> None:
    with Guest(CALL + x64.inc("rdi") + CALL) as guest:
        args(guest.enter())
        assert args(guest.enter())[1] == 0x1235
        guest.cpu.set_registers({"rip": BASE})
        args(guest.enter())
        assert guest.cpu.program_counter() == BASE + len(CALL)


def test_a_kick_tells_the_rip_of_a_guest_that_spins() -> None:
    with Guest(CALL + x64.SPIN) as guest:
        args(guest.enter())
        threading.Timer(0.05, guest.cpu.kick).start()
        assert isinstance(guest.cpu.enter(), Kicked)
        assert guest.cpu.program_counter() == guest.cpu.registers()["rip"] == BASE + len(CALL)


def test_an_unanswered_read_is_repeated_after_a_write() -> None:
    with Guest(x64.mov("rsi", HOLE) + x64.load("rdi", "rsi") + CALL) as guest:
        assert isinstance(guest.cpu.enter(), Mmio)
        assert guest.cpu.registers()["rsi"] == HOLE
        guest.cpu.set_registers({"rsi": HOLE + 8})
        again = guest.cpu.enter()
        assert isinstance(again, Mmio)
        assert again.address == HOLE + 8
        guest.cpu.complete_mmio(5)
        assert args(guest.enter())[1] == 5


@pytest.mark.parametrize(
    "values", [{"x0": 0}, {"pc": 0}, {"rax": -1}, {"cs": 1 << 16}, {"xmm0": 0}]
)
def test_what_is_no_register_or_value_is_refused(values: dict[str, int | bytes]) -> None:
    with Guest(CALL) as guest:
        before = guest.cpu.registers()
        with pytest.raises(UserError, match="register"):
            guest.cpu.set_registers({"rbx": 5, **values})
        assert guest.cpu.registers() == before


def test_a_value_that_kvm_refuses_is_the_users_mistake() -> None:
    with Guest(CALL) as guest, pytest.raises(UserError, match="cr0"):
        guest.cpu.set_registers({"cr0": 1 << 31})  # paging without protection


def test_a_call_has_eight_registers() -> None:
    with Guest(CALL) as guest:
        assert guest.space.argument_registers == 8
        stop = args(guest.enter())
        assert guest.cpu.arguments(8) == stop
        assert guest.cpu.arguments(2) == stop[:2]
        with pytest.raises(InternalError):
            guest.cpu.arguments(9)
        with pytest.raises(InternalError):
            guest.cpu.reply([0] * 9)
