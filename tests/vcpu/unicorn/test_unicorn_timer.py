"""The virtual timer and the counters, on a clock that the test owns and on the real one."""

from __future__ import annotations

import a64
from a64 import mov, mrs, msr
from hypothesis import given
from hypothesis import strategies as st
from unicorn_guest import BASE, DATA, Guest, args, use_vectors

from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Hypercall, Timer, Wfi
from hfsched.vcpu.unicorn.timer import VirtualTimer


class Clock(ThreadRuntime):
    """Time advances only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 16_000

    def now(self) -> int:
        return self.time


def test_the_counter_is_the_runtimes_clock() -> None:
    clock = Clock()
    with Guest(runtime=clock) as guest:
        guest.start(
            "l:",
            mrs(0, a64.CNTVCT),
            mrs(1, a64.CNTFRQ),
            a64.hvc(),
            a64.b("l"),
        )
        assert args(guest.cpu.enter())[:2] == (1000, 62_500_000)
        clock.time = 1_000_000_007
        assert args(guest.cpu.enter())[:2] == (62_500_000, 62_500_000)


def test_the_registers_read_what_was_written() -> None:
    clock = Clock()
    with Guest(runtime=clock) as guest:
        guest.start(
            mov(9, 100),
            msr(a64.CNTV_TVAL, 9),
            mov(9, 3),
            msr(a64.CNTV_CTL, 9),
            "l:",
            mrs(0, a64.CNTV_CTL),
            mrs(1, a64.CNTV_CVAL),
            mrs(2, a64.CNTV_TVAL),
            a64.hvc(),
            a64.b("l"),
        )
        assert args(guest.cpu.enter())[:3] == (3, 1100, 100)
        assert guest.cpu.timer_remaining() is None  # masked
        clock.time += 101 * 16
        assert args(guest.cpu.enter())[:3] == (7, 1100, 0xFFFF_FFFF)  # ISTATUS


def test_an_armed_timer_reports_its_time_and_fires_once_masked() -> None:
    clock = Clock()
    with Guest(runtime=clock) as guest:
        guest.start(
            mov(9, 5000),
            msr(a64.CNTV_CVAL, 9),
            mov(9, 1),
            msr(a64.CNTV_CTL, 9),
            a64.WFI,
            mrs(0, a64.CNTV_CTL),
            a64.hvc(),
        )
        assert guest.cpu.timer_remaining() is None
        assert guest.cpu.enter() == Wfi()
        assert guest.cpu.timer_remaining() == 4000 * 16
        clock.time = 5000 * 16 - 1
        assert guest.cpu.timer_remaining() == 1
        clock.time += 1
        assert guest.cpu.timer_remaining() == 0
        assert guest.cpu.enter() == Timer()
        guest.cpu.mask_timer()
        assert guest.cpu.timer_remaining() is None
        assert args(guest.cpu.enter())[0] == 7


def test_a_timer_ends_a_spin_and_not_too_early() -> None:
    with Guest() as guest:
        guest.start(
            mov(1, DATA),
            mov(9, 62_500),  # 1 ms
            mrs(3, a64.CNTVCT),
            a64.store(3, 1),
            msr(a64.CNTV_TVAL, 9),
            mov(9, 1),
            msr(a64.CNTV_CTL, 9),
            "l:",
            a64.b("l"),
        )
        assert guest.cpu.enter() == Timer()
        assert guest.runtime.now() >= 16 * guest.word(DATA) + 1_000_000
        assert guest.cpu.timer_remaining() == 0


def test_timer_code_that_moves_and_changes_is_found_again() -> None:
    """The same place is first an MRS, then an MSR, then a plain instruction."""
    clock = Clock()
    with Guest(runtime=clock) as guest:
        at = BASE + 0x1000
        for word, wanted in ((mrs(0, a64.CNTVCT), 1000), (mov(0, 1234)[0], 1234)):
            guest.load(word, a64.hvc(), at=at)
            guest.cpu.reset(at, 0)
            assert args(guest.cpu.enter())[0] == wanted
        guest.load(mov(9, 2)[0], msr(a64.CNTV_CVAL, 9), mrs(0, a64.CNTV_CVAL), a64.hvc(), at=at)
        guest.cpu.reset(at, 0)
        assert args(guest.cpu.enter())[0] == 2


def test_so_many_places_name_the_counter_that_all_are_hooked_at_once() -> None:
    clock = Clock()
    with Guest(runtime=clock) as guest:
        guest.start([mrs(0, a64.CNTVCT), a64.add(1, 1, 1)] * 600, mrs(2, a64.TPIDR), a64.hvc())
        assert args(guest.cpu.enter())[:3] == (1000, 600, 0)


def test_el0_sees_the_counter_only_if_el1_says_so() -> None:
    cntkctl = a64.sysreg(3, 0, 14, 1, 0)
    for allowed, offset in ((0, 0x400), (2, 0)):
        with Guest(runtime=Clock()) as guest:
            guest.vectors()
            user = BASE + 0x1000
            guest.load(mrs(5, a64.CNTVCT), a64.svc(), at=user)
            guest.start(
                use_vectors(),
                mov(1, allowed),
                msr(cntkctl, 1),
                mov(1, user),
                msr(a64.ELR, 1),
                mov(1, 0),
                msr(a64.SPSR, 1),
                a64.ERET,
            )
            call = guest.cpu.enter()
            assert isinstance(call, Hypercall)
            assert call.args[0] == 0x400
            assert call.args[5] == (1000 if allowed else 0), offset
            assert call.args[1] >> 26 == (0x15 if allowed else 0x18)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 40)),
        max_size=8,
    )
)
def test_the_three_registers_agree(writes: list[tuple[int, int, int]]) -> None:
    timer = VirtualTimer()
    now = 0
    for op2, value, step in writes:
        now += step
        timer.write(op2, value, now)
        count = now // 16
        assert timer.read(0, now) == (timer.read(2, now) - count) % (1 << 32)
        ctl = timer.read(1, now)
        assert (ctl & 5 == 5) == (ctl & 1 == 1 and count >= timer.read(2, now))
        left = timer.remaining(now)
        assert (left is None) == (ctl & 3 != 1)
        assert (left == 0) == (ctl & 7 == 5)
        if left:
            assert timer.read(1, now + left - 1) & 4 == 0
            assert timer.read(1, now + left) & 4
