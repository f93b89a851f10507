"""Registers by name on engine unicorn: the tests of every arm64 engine, and what is its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import a64
import pytest
from arm64_registers import *  # noqa: F403 - its tests
from unicorn_guest import Guest, args

from hfsched.vcpu.engine import Mmio, Vcpu
from hfsched.vcpu.registers import ARM64

if TYPE_CHECKING:
    from arm64_registers import Start


@pytest.fixture
def start() -> Iterator[Start]:
    with Guest() as guest:

        def begin(*items: a64.Item | list[a64.Item]) -> Vcpu:
            flat = [each for item in items for each in (item if isinstance(item, list) else [item])]
            guest.start(*flat)
            return guest.cpu

        yield begin


def test_every_register_is_there(start: Start) -> None:
    assert list(start(a64.hvc()).registers()) == list(ARM64)


def test_an_unanswered_access_is_repeated_after_a_write() -> None:
    with Guest() as guest:
        guest.start(a64.mov(1, 0x1000), a64.ldr(2, 1), a64.hvc())
        stop = guest.cpu.enter()
        assert isinstance(stop, Mmio)
        guest.cpu.set_registers({"x1": 0x2000})
        again = guest.cpu.enter()
        assert again == Mmio(0x2000, stop.size, write=False, value=0)
        guest.cpu.complete_mmio(7)
        assert args(guest.cpu.enter())[2] == 7


def test_registers_are_equal_in_a_restored_cpu() -> None:
    with Guest() as first, Guest() as second:
        first.start(a64.mov(4, 0x77), a64.hvc())
        args(first.cpu.enter())
        second.cpu.restore(first.cpu.save())
        assert second.cpu.registers() == first.cpu.registers()
