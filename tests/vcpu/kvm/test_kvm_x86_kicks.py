"""Kicks and the interrupt line under KVM: none is lost, from any thread at any time."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from pathlib import Path

import progress
import pytest
import x64
from kvm_guest import BASE, DATA, INTERRUPT, REPORT, SECOND, WITHIN, Guest, args, needs_kvm, storm

from hfsched.vcpu.engine import Failed, Hypercall, Kicked, Permissions, Wfi

pytestmark = needs_kvm

CALL = x64.out(x64.HVC)


def test_a_kick_before_enter_is_kept_and_two_are_one() -> None:
    with Guest(x64.forever(CALL)) as guest:
        guest.cpu.kick()
        guest.cpu.kick()
        assert guest.enter() == Kicked()
        guest.call()


def test_a_kick_ends_a_spin() -> None:
    with Guest(x64.SPIN) as guest:
        ends = []
        guest.together(lambda: ends.append(guest.enter()), guest.cpu.kick)
        assert ends == [Kicked()]


def test_a_kick_storm_loses_nothing_and_the_guest_goes_on() -> None:
    with Guest(x64.forever(x64.inc("rdi") + CALL)) as guest:
        calls = storm(guest, 300)
        assert calls == list(range(0x1235, 0x1235 + len(calls)))  # none of the calls is lost


def test_kicks_from_many_threads_into_a_spin_all_end_it() -> None:
    """Each kicking thread waits for a Kicked whose enter began after its kick."""
    with Guest(x64.SPIN) as guest:
        seen = threading.Condition()
        count = 0
        left = 6

        def kicker() -> None:
            nonlocal left
            for _ in range(40):
                with seen:
                    before = count
                guest.cpu.kick()
                with seen:
                    assert seen.wait_for(lambda b=before: count > b, WITHIN / SECOND)  # type: ignore[misc]
            with seen:
                left -= 1
            guest.cpu.kick()

        def run() -> None:
            nonlocal count
            while left:
                assert guest.enter() == Kicked()
                with seen:
                    count += 1
                    seen.notify_all()

        guest.together(run, *[kicker] * left)


def test_a_kick_reaches_a_thread_that_began_with_all_signals_blocked() -> None:
    """As the threads of a process do whose parent had blocked them: a mask outlives an exec."""
    inside = x64.mov("rbx", DATA) + x64.mov("rdx", 1) + x64.store("rbx", "rdx")
    with Guest(inside + x64.SPIN) as guest:
        ends = []

        def run() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            ends.append(guest.enter())

        def kick() -> None:
            while not guest.word(DATA):
                pass
            guest.cpu.kick()

        guest.together(run, kick)
        assert ends == [Kicked()]


def test_a_call_and_a_kick_that_come_together_both_come() -> None:
    for _ in range(30):
        with Guest(CALL + x64.SPIN) as guest:
            stops: set[type] = set()

            def run(guest: Guest = guest, stops: set[type] = stops) -> None:
                stops |= {type(guest.enter()), type(guest.enter())}

            guest.together(run, guest.cpu.kick)
            assert stops == {Hypercall, Kicked}


def test_a_cpu_may_be_entered_by_one_thread_after_another() -> None:
    with Guest(x64.SPIN) as guest:
        ends = []
        for _ in range(20):
            guest.together(lambda: ends.append(guest.enter()), guest.cpu.kick)
        assert ends == [Kicked()] * 20


def test_a_line_from_outside_ends_a_spin_with_the_interrupt_alone() -> None:
    with Guest(x64.STI + x64.SPIN, handlers={INTERRUPT: REPORT}) as guest:
        for _ in range(50):
            calls = []
            guest.together(lambda: calls.append(guest.call()[0]), lambda: guest.cpu.set_irq(True))  # noqa: B023
            assert calls == [0x20]  # and no Kicked before it
            guest.cpu.set_irq(False)


def test_a_line_from_outside_wakes_a_guest_that_halts() -> None:
    """The line may come before the HLT, at it, or after: the interrupt comes, once."""
    handler = x64.inc("rdi") + REPORT
    with Guest(x64.STI + x64.forever(x64.HLT), handlers={INTERRUPT: handler}) as guest:
        up = threading.Event()
        go = threading.Semaphore(0)

        def line() -> None:
            for _ in range(100):
                assert go.acquire(timeout=WITHIN / SECOND)
                guest.cpu.set_irq(True)
                up.set()

        def run() -> None:
            for n in range(100):
                go.release()
                stop = guest.enter()
                while stop == Wfi():
                    assert up.wait(WITHIN / SECOND)
                    stop = guest.enter()
                assert args(stop)[:2] == (0x20, 0x1235 + n)
                assert up.wait(WITHIN / SECOND)
                up.clear()
                guest.cpu.set_irq(False)

        guest.together(run, line)


def test_a_line_that_flickers_loses_no_kick_and_no_cpu() -> None:
    """It may cause spurious interrupts, and nothing else."""
    with Guest(x64.STI + x64.SPIN, handlers={INTERRUPT: REPORT}) as guest:
        over = threading.Event()

        def line() -> None:
            for n in range(2000):
                guest.cpu.set_irq(n % 2 == 0)
            over.set()
            guest.cpu.kick()

        def run() -> None:
            while (stop := guest.enter()) != Kicked():
                assert args(stop)[0] == 0x20
            assert over.is_set()

        guest.together(run, line)


def test_kicks_and_lines_of_a_closed_machine_do_nothing() -> None:
    with Guest(CALL) as guest:
        guest.space.close()
        guest.cpu.kick()
        guest.cpu.set_irq(True)
        assert isinstance(guest.enter(), Failed)


def test_kicks_that_come_while_a_machine_is_closed_do_nothing() -> None:
    for _ in range(20):
        with Guest(CALL) as guest:
            running = threading.Barrier(3)
            over = threading.Event()

            def storm(
                guest: Guest = guest,
                running: threading.Barrier = running,
                over: threading.Event = over,
            ) -> None:
                running.wait()
                while not over.is_set():
                    guest.cpu.kick()
                    guest.cpu.set_irq(True)
                    guest.cpu.set_irq(False)

            def close(
                guest: Guest = guest,
                running: threading.Barrier = running,
                over: threading.Event = over,
            ) -> None:
                running.wait()
                guest.space.close()
                over.set()

            guest.together(storm, storm, close)


FORK = """
import os, sys, threading
sys.path[:0] = sys.argv[1:]
import x64
from kvm_guest import Guest

def kicked():
    with Guest(x64.SPIN) as guest:
        threading.Thread(target=guest.cpu.kick).start()
        return type(guest.enter()).__name__

print(kicked(), flush=True)
child = os.fork()
if child == 0:
    print(kicked(), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_kicks_arrive_in_a_child_whose_parent_had_a_machine() -> None:
    folders = (str(Path(str(module.__file__)).parent) for module in (x64, progress))
    done = progress.run([sys.executable, "-W", "ignore", "-c", FORK, *folders])
    assert (done.stdout, done.stderr) == ("Kicked\nKicked\n", "")


def test_two_hundred_machines_leave_nothing_behind() -> None:
    with Guest(CALL) as guest:

        def use(times: int) -> None:
            for _ in range(times):
                space = guest.engine.space("short", 2)
                space.map(BASE, guest.ram, 0, guest.ram.size, Permissions.RWX)
                for index in range(2):
                    space.vcpu(index).reset(BASE, 0)
                    assert isinstance(space.vcpu(index).enter(), Hypercall)
                space.close()

        def count() -> tuple[int, int, int, int]:
            gc.collect()
            here = Path("/proc/self")
            maps = len((here / "maps").read_text().splitlines())
            pages = int((here / "statm").read_text().split()[0])
            return (
                len(list((here / "fd").iterdir())),
                len(list((here / "task").iterdir())),
                maps,
                pages,
            )

        use(20)
        before = count()
        use(200)
        fds, tasks, maps, pages = (now - then for now, then in zip(count(), before, strict=True))
        assert fds <= 0
        assert tasks <= 0
        assert maps < 20  # the allocator's own
        assert pages < 400  # one of each CPU would be that much
