"""Kicks and the interrupt line: nothing is lost, nothing comes twice."""

from __future__ import annotations

import struct
import threading

import a64
from a64 import mov, msr
from unicorn_guest import BASE, DATA, Guest, args, use_vectors

from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Hypercall, Kicked, Wfi

IRQ = 0x280


def test_a_kick_before_enter() -> None:
    with Guest() as guest:
        guest.start(a64.hvc())
        guest.cpu.kick()
        guest.cpu.kick()
        assert guest.cpu.enter() == Kicked()
        args(guest.cpu.enter())


def test_a_kick_during_a_spin() -> None:
    with Guest() as guest:
        guest.start(mov(0, 0), "l:", a64.add(0, 0, 1), a64.b("l"))
        task = guest.runtime.spawn("kicker", guest.cpu.kick)
        assert guest.cpu.enter() == Kicked()
        assert task.join(guest.runtime.now() + 10**10)


def test_a_kick_storm_loses_nothing_and_the_guest_goes_on() -> None:
    with Guest() as guest:
        guest.start(mov(0, 0), "l:", a64.add(0, 0, 1), a64.hvc(), a64.b("l"))
        cpu, runtime = guest.cpu, guest.runtime
        go, done = runtime.event("go"), runtime.event("done")
        kicks = 0

        def storm() -> None:
            nonlocal kicks
            for _ in range(300):
                go.wait()
                go.clear()
                kicks += 1
                cpu.kick()
            done.set()

        runtime.spawn("storm", storm)
        calls = answered = 0
        go.set()
        while answered < 300:
            stop = cpu.enter()
            if stop == Kicked():
                answered += 1
                assert answered == kicks  # each kick, once
                go.set()
            else:
                calls += 1
                assert args(stop)[0] == calls  # none of the guest's calls is lost
        assert done.wait(runtime.now() + 10**10)
        assert args(cpu.enter())[0] == calls + 1
        go.close()
        done.close()


def test_an_interrupt_is_taken_between_unmask_and_mask() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), a64.hvc(1), a64.IRQ_ON, a64.IRQ_OFF, mov(0, 5), a64.hvc())
        args(guest.cpu.enter())
        guest.cpu.set_irq(True)
        offset, _, _, elr, spsr = args(guest.cpu.enter())[:5]
        assert (offset, elr, spsr & 0x3C5) == (IRQ, BASE + 7 * 4, 0x345)
        guest.cpu.set_irq(False)
        assert args(guest.cpu.enter())[0] == 5


def test_a_line_that_stays_up_interrupts_again_after_eret() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), a64.IRQ_ON, a64.NOP, mov(0, 5), a64.hvc())
        guest.cpu.set_irq(True)
        first = args(guest.cpu.enter())
        second = args(guest.cpu.enter())
        assert first[0] == second[0] == IRQ
        assert first[3] == second[3] == BASE + 6 * 4
        guest.cpu.set_irq(False)
        assert args(guest.cpu.enter())[0] == 5


def test_an_interrupt_pending_while_masked_is_taken_by_eret() -> None:
    with Guest() as guest:
        guest.vectors()
        back = BASE + 0x1000
        guest.load(mov(0, 5), a64.hvc(), at=back)
        guest.start(
            use_vectors(),
            mov(1, back),
            msr(a64.ELR, 1),
            mov(1, 0x345),
            msr(a64.SPSR, 1),
            mov(2, 1000),
            "l:",
            a64.sub(2, 2, 1),
            a64.cbnz(2, "l"),
            a64.ERET,
        )
        guest.cpu.set_irq(True)
        offset, _, _, elr = args(guest.cpu.enter())[:4]
        assert (offset, elr) == (IRQ, back)


def test_an_interrupt_from_outside_ends_a_spin() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), a64.IRQ_ON, "l:", a64.b("l"))
        guest.runtime.spawn("line", lambda: guest.cpu.set_irq(True))
        assert args(guest.cpu.enter())[0] == IRQ  # and no Kicked before it


def test_an_interrupt_in_el0_uses_the_vector_of_the_lower_level() -> None:
    with Guest() as guest:
        guest.vectors()
        back = BASE + 0x1000
        guest.load("l:", a64.b("l"), at=back)
        guest.start(
            use_vectors(), mov(1, back), msr(a64.ELR, 1), mov(1, 0), msr(a64.SPSR, 1), a64.ERET
        )
        guest.cpu.set_irq(True)
        offset, _, _, elr, spsr = args(guest.cpu.enter())[:5]
        assert (offset, elr, spsr) == (0x480, back, 0)


def test_a_masked_pending_interrupt_costs_no_single_steps() -> None:
    """A million instructions with the line up and PSTATE.I set take slices, not steps."""
    with Guest() as guest:
        guest.start(mov(2, 1_000_000), "l:", a64.sub(2, 2, 1), a64.cbnz(2, "l"), a64.hvc())
        guest.cpu.set_irq(True)
        begin = guest.runtime.now()
        args(guest.cpu.enter())
        assert guest.runtime.now() - begin < 5 * 10**9


def test_wfi_wakes_by_the_line_and_takes_the_interrupt() -> None:
    with Guest() as guest:
        guest.vectors()
        guest.start(use_vectors(), a64.IRQ_ON, a64.WFI, mov(0, 5), a64.hvc())
        assert guest.cpu.enter() == Wfi()
        guest.cpu.set_irq(True)
        offset, _, _, elr = args(guest.cpu.enter())[:4]
        assert (offset, elr) == (IRQ, BASE + 7 * 4)


def test_an_exit_wins_over_a_kick_that_comes_with_it() -> None:
    """In any order, one enter returns the call, another Kicked."""
    runtime = ThreadRuntime()
    for _ in range(50):
        with Guest(runtime=runtime) as guest:
            guest.start(a64.hvc(), "l:", a64.b("l"))
            guest.runtime.spawn("kicker", guest.cpu.kick)
            stops = {type(guest.cpu.enter()), type(guest.cpu.enter())}
            assert stops == {Hypercall, Kicked}


def test_a_kick_comes_between_instructions_and_never_inside_one() -> None:
    """Loads, atomics and exclusive stores that would come to something else if done twice."""
    nodes, rounds = 7, 30_000
    ring, added, stored, total = DATA, DATA + 0x1000, DATA + 0x1008, DATA + 0x1010
    with Guest() as guest:
        following = [ring + (number + 1) % nodes * 8 for number in range(nodes)]
        guest.ram.write(ring - BASE, struct.pack(f"<{nodes}Q", *following))
        guest.start(
            *(mov(register, at) for register, at in ((1, ring), (5, added), (6, stored))),
            *(mov(register, value) for register, value in ((3, rounds), (4, 1), (7, total))),
            "round:",
            a64.ldr(1, 1),
            a64.ldadd(4, 8, 5),
            "again:",
            a64.ldxr(8, 6),
            a64.add(8, 8, 1),
            a64.stxr(9, 8, 6),
            a64.cbnz(9, "again"),
            a64.ldr(8, 7),
            a64.add(8, 8, 1),
            a64.store(8, 7),
            a64.sub(3, 3, 1),
            a64.cbnz(3, "round"),
            a64.hvc(),
        )
        over = threading.Event()
        kicks = 0

        def storm() -> None:
            nonlocal kicks
            while not over.is_set():
                guest.cpu.kick()
                kicks += 1

        task = guest.runtime.spawn("storm", storm)
        while (stop := guest.cpu.enter()) == Kicked():
            pass
        over.set()
        assert task.join(guest.runtime.now() + 60 * 10**9)
        assert kicks > 0
        assert args(stop)[1] == ring + rounds % nodes * 8
        assert [guest.word(at) for at in (added, stored, total)] == [rounds] * 3


def test_kicks_after_close_do_nothing() -> None:
    with Guest() as guest:
        guest.start(a64.hvc())
        guest.space.close()
        guest.cpu.kick()
        guest.cpu.set_irq(True)
