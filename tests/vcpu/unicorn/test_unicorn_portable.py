"""Portable records on engine unicorn: the tests of every arm64 engine, and the counter's frequency."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import a64
import pytest
from a64 import mov, mrs, msr
from arm64_portable import *  # noqa: F403 - its tests
from hypothesis import given
from hypothesis import strategies as st
from test_unicorn_timer import Clock
from unicorn_guest import BASE, DATA, Guest, args, use_vectors

from hfsched.errors import UserError
from hfsched.vcpu.engine import Timer
from hfsched.vcpu.unicorn.timer import FREQUENCY_MAX, ns_of, ticks_of

if TYPE_CHECKING:
    from arm64_portable import Pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Guest() as first, Guest() as second:

        def begin(*items: a64.Item | list[int], vectors: bool = False) -> object:
            made = []
            for guest in (first, second):
                before: list[int] = []
                if vectors:
                    guest.vectors()
                    before = use_vectors()
                guest.start(before, *items)
                made.append((guest.space, guest.cpu))
            second.cpu.set_registers({"x9": 77, "vbar_el1": DATA, "cntv_ctl_el0": 3})
            return tuple(made)

        yield begin  # type: ignore[misc]


FREQUENCIES = st.integers(1, FREQUENCY_MAX) | st.sampled_from([19_200_000, 24_000_000, 62_500_000])


@given(ticks=st.integers(0, (1 << 64) - 1), frequency=FREQUENCIES)
def test_a_count_is_the_same_after_it_was_a_time(ticks: int, frequency: int) -> None:
    ns = ns_of(ticks, frequency)
    if frequency <= 1_000_000_000:
        assert ticks_of(ns, frequency) == ticks
        assert ns == 0 or ticks_of(ns - 1, frequency) < ticks
    else:  # more than a tick a ns
        assert ticks <= ticks_of(ns, frequency) <= ticks + frequency // 1_000_000_000 + 1


def test_the_guest_finds_the_frequency_that_was_taken_over_at_el0_too() -> None:
    clock = Clock()
    with Guest(runtime=clock) as guest:
        guest.space.set_counter_hz(24_000_000)
        assert guest.space.counter_hz == 24_000_000
        guest.start(
            mov(9, 24_000), msr(a64.CNTV_TVAL, 9), mov(9, 1), msr(a64.CNTV_CTL, 9),
            "l:", mrs(0, a64.CNTVCT), mrs(1, a64.CNTFRQ), a64.hvc(), a64.b("l"),
        )  # fmt: skip
        assert args(guest.cpu.enter())[:2] == (16_000 * 24 // 1000, 24_000_000)
        assert guest.cpu.timer_remaining() == 1_000_000
        clock.time += 999_999
        assert args(guest.cpu.enter())[:2] == (1_015_999 * 24 // 1000, 24_000_000)
        clock.time += 1
        assert guest.cpu.enter() == Timer()
        saved = guest.cpu.save()
        with Guest(runtime=clock) as other:  # another machine of the same snapshot
            other.space.set_counter_hz(24_000_000)
            other.load(a64.NOP)
            other.cpu.restore(saved)
            assert other.cpu.timer_remaining() == 0


@pytest.mark.parametrize(("control", "refused"), [(0, True), (1, False), (2, False)])
def test_cntkctl_lets_el0_read_the_frequency(control: int, refused: bool) -> None:
    with Guest() as guest:
        guest.vectors()
        guest.load(mrs(1, a64.CNTFRQ), a64.svc(), at=DATA)
        guest.start(
            use_vectors(), mov(9, control), msr(a64.sysreg(3, 0, 14, 1, 0), 9),
            mov(9, DATA), msr(a64.ELR, 9), mov(9, 0x3C0), msr(a64.SPSR, 9), a64.ERET,
        )  # fmt: skip
        guest.cpu.set_registers({"x1": 5})
        _, syndrome, *_ = args(guest.cpu.enter())
        assert syndrome >> 26 == (0x18 if refused else 0x15)  # the access, or the SVC after it
        assert guest.cpu.program_counter() > BASE


@pytest.mark.parametrize("frequency", [0, -1, FREQUENCY_MAX + 1])
def test_what_no_counter_has_is_refused(frequency: int) -> None:
    with Guest() as guest, pytest.raises(UserError, match=f"no counter has {frequency} Hz"):
        guest.space.set_counter_hz(frequency)


@pytest.mark.parametrize("ticks", [-1, 1 << 64, (1 << 64) - 1])
def test_a_counter_beyond_all_times_is_refused(ticks: int) -> None:
    with Guest() as guest:
        guest.space.freeze()
        guest.space.set_counter_hz(1_000_000)
        with pytest.raises(UserError, match=rf"1000000 Hz cannot be at {ticks:#x}"):
            guest.space.set_ticks(ticks)
