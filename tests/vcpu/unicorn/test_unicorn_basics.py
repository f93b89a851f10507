"""Hypercalls, waiting, resetting: what every guest needs."""

from __future__ import annotations

import a64
from unicorn_guest import BASE, Guest, args

from hfsched.vcpu.engine import Conduit, Hypercall, Wfi


def test_a_hypercall_brings_eight_arguments_and_takes_a_reply() -> None:
    with Guest() as guest:
        values = [0x1111_0000_0000_0001 * i for i in range(8)]
        guest.start(
            *(a64.mov(i, value) for i, value in enumerate(values)), a64.hvc(), a64.smc(), a64.hvc()
        )
        assert guest.cpu.enter() == Hypercall(Conduit.HVC, tuple(values))
        guest.cpu.reply([1 << 64 | 7, -1])
        assert guest.cpu.enter() == Hypercall(Conduit.SMC, (7, (1 << 64) - 1, *values[2:]))
        assert args(guest.cpu.enter())[2] == values[2]


def test_wfi_with_the_line_down_is_an_exit_past_it() -> None:
    with Guest() as guest:
        guest.start(a64.WFE, a64.YIELD, a64.mov(0, 5), a64.WFI, a64.hvc())
        assert guest.cpu.enter() == Wfi()
        assert args(guest.cpu.enter())[0] == 5


def test_wfi_with_the_line_up_completes_though_masked() -> None:
    with Guest() as guest:
        guest.start(a64.WFI, a64.mov(0, 6), a64.hvc())
        guest.cpu.set_irq(True)
        assert args(guest.cpu.enter())[0] == 6


def test_reset_puts_everything_back() -> None:
    with Guest() as guest:
        guest.start(
            a64.mov(5, 99),
            a64.msr(a64.VBAR, 5),
            a64.mov(0, 77),
            a64.hvc(),
        )
        fresh = guest.cpu.state_key()
        assert args(guest.cpu.enter())[0] == 77
        assert guest.cpu.state_key() != fresh
        guest.cpu.reset(BASE, 0)
        assert guest.cpu.state_key() == fresh
        guest.cpu.reset(BASE, 1)
        assert guest.cpu.state_key() != fresh
