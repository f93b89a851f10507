"""Portable records on arm64 under KVM: the tests of every arm64 engine, and what only KVM has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import a64
import pytest
from arm64_guest import DATA, Guest, needs_kvm, use_vectors
from arm64_portable import *  # noqa: F403 - its tests
from arm64_portable import sent

from hfsched.errors import InternalError, UserError

if TYPE_CHECKING:
    from arm64_portable import Pair

pytestmark = needs_kvm

MDSCR = a64.sysreg(2, 0, 0, 2, 2)
CNTP_CTL = a64.sysreg(3, 3, 14, 2, 1)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as guests:

        def begin(*items: a64.Item | list[int], vectors: bool = False) -> object:
            before = use_vectors() if vectors else []
            made = [guests.enter_context(Guest(before, *items)) for _ in range(2)]
            made[1].cpu.set_registers({"x9": 77, "vbar_el1": DATA, "cntv_ctl_el0": 3})
            return tuple((guest.space, guest.cpu) for guest in made)

        yield begin  # type: ignore[misc]


def test_what_no_other_engine_knows_is_named_while_it_is_used() -> None:
    program = [
        a64.hvc(), *a64.mov(1, 1 << 12), a64.msr(MDSCR, 1), *a64.mov(1, 1), a64.msr(CNTP_CTL, 1),
        a64.hvc(), a64.msr(CNTP_CTL, 31), a64.msr(MDSCR, 31), a64.hvc(),
    ]  # fmt: skip
    with Guest(*program) as guest, Guest() as other:
        guest.call()
        assert sent(guest.cpu).beyond == ()
        guest.call()
        state = sent(guest.cpu)
        assert state.beyond == ("MDSCR_EL1", "CNTP_CTL_EL0")
        with pytest.raises(UserError, match="no other engine has: MDSCR_EL1, CNTP_CTL_EL0"):
            other.cpu.adopt(state)
        guest.call()
        assert sent(guest.cpu).beyond == ()


def test_another_frequency_is_refused() -> None:
    with Guest() as guest:
        hz = guest.space.counter_hz
        guest.space.set_counter_hz(hz)
        with pytest.raises(UserError, match=f"its counter has {hz + 1} Hz, this host's {hz}$"):
            guest.space.set_counter_hz(hz + 1)


def test_a_key_that_this_cpu_has_not_is_refused() -> None:
    with Guest() as first, Guest() as second:
        state = sent(first.cpu)
        if "apiakeylo_el1" in state.registers:
            pytest.skip("this CPU has pointer authentication")
        state.registers["apiakeylo_el1"] = 0
        second.cpu.adopt(state)
        state.registers["apiakeylo_el1"] = 1
        with pytest.raises(UserError, match="this CPU has no register apiakeylo_el1"):
            second.cpu.adopt(state)


def test_a_cpu_that_cannot_be_compared_is_restored_here_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise InternalError("engine kvm: no vCPU to compare with")

    monkeypatch.setattr("hfsched.vcpu.kvm.cpu.first_values", fails)
    with Guest() as guest:
        assert sent(guest.cpu).beyond == ("engine kvm: no vCPU to compare with",)
