"""Fifteen thousand random hypercalls, on arm64 fewer; the millions are `bench/hostile.py`."""

from __future__ import annotations

import os
from collections.abc import Callable

import hostile
import pytest
from hostile import TARGETS, Guards, Result, Target, attack

from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.vcpu.kvm import device

CALLS = 10_000 if device.MACHINE == "aarch64" else 15_000
WITHIN = 12.0  # seconds: where a guest is emulated, fewer calls fit


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target).replace(" ", "-"))
def test_the_host_is_as_it_was_and_every_chunk_is_answered(
    target: Target, record_property: Callable[[str, object], None]
) -> None:
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(f"{target}: {why_not}")
    result = attack(target, CALLS, seconds=WITHIN)
    record_property("calls", result.calls)
    print(f"{target}: {result.calls} calls")
    assert result.violations == []
    assert result.calls >= hostile.CHUNK


def test_guards_see_one_bit_that_changed() -> None:
    ram = Ram("guarded", PAGE_SIZE)
    guards = Guards()
    ram.write(0, os.urandom(PAGE_SIZE))
    guards.watch("the memory", ram.address, ram.size)
    assert guards.changed() == []
    ram.write(100, bytes([ram.read(100, 1)[0] ^ 1]))
    assert guards.changed() == ["the memory"]
    guards.close()
    ram.close()


def test_growth_is_from_the_first_quarter_to_the_last() -> None:
    assert Result(resident=[5, 9, 9, 9, 9, 9, 9, 7]).growth() == 1
    assert Result(resident=[1 << 20] * 8).growth() == 0
