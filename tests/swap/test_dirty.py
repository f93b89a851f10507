"""Which pages are dirty while memory goes out and comes back, and processes beside main write to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from processes import stop

from hfsched.memory import writeprotect
from hfsched.memory.dirty import DirtyPages
from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.messages import State

from . import backends
from .backends import Backend
from .guestmemory import PAGE, needs_userfault
from .swapping import HERE, come_back, go_out, kill, machine, on_every_engine, swap_of
from .test_irreplaceable import lose_spawner

if TYPE_CHECKING:
    from talk import Talk, Target

pytestmark = [
    needs_userfault,
    pytest.mark.skipif(writeprotect.problem() is not None, reason=str(writeprotect.problem())),
]

MAIN, CHILD = (48, 4), (56, 5)  # pages of `echo`'s memory that no guest uses: first, number
HOLDER = "snapshot"


def start(host: Talk) -> None:
    """Let the guests come to rest, and begin."""
    for vm, name in enumerate(host.machine.vm_names()):
        host.ask("help" if name == "stress" else "hello", vm)
    host.until_quiet()
    with host.machine.suspension.held(HOLDER, host.deadline(), frozen=True):
        assert host.machine.dirty.start() is None


def collect(host: Talk, *, rearm: bool = True) -> DirtyPages:
    with host.machine.suspension.held(HOLDER, host.deadline(), frozen=True):
        return host.machine.dirty.collect(rearm=rearm)


def dirty(host: Talk, vm: int = 0, *, rearm: bool = True) -> set[int]:
    """Return the numbers of the dirty pages of a VM."""
    found = collect(host, rearm=rearm)
    assert found.why_all is None
    return pages_of(found, host.machine.vm_names()[vm])


def pages_of(found: DirtyPages, name: str) -> set[int]:
    return {first + each for first, count in found.runs[name] for each in range(count)}


def contents(host: Talk, vm: int = 0) -> list[bytes]:
    """Return all pages, by reading them, which brings them in."""
    ram = host.vm(vm).memory.regions[0].ram
    with host.machine.suspension.held(HOLDER, host.deadline(), frozen=True):
        return [ram.read(page * PAGE, PAGE) for page in range(ram.size // PAGE)]


def write(host: Talk, pages: tuple[int, int], value: int, vm: int = 0) -> None:
    ram = host.vm(vm).memory.regions[0].ram
    for page in range(pages[0], sum(pages)):
        ram.write(page * PAGE, bytes([value]) * 64)


def numbers(pages: tuple[int, int]) -> set[int]:
    return set(range(pages[0], sum(pages)))


@pytest.fixture
def child() -> Iterator[Any]:
    made: list[Backend] = []

    def make(host: Talk, main: Any = backends.user_mode_backend, **arguments: Any) -> Backend:
        made.append(Backend(swap_of(host), main, **arguments))
        return made[-1]

    yield make
    for each in made:
        each.close()


@on_every_engine
def test_what_went_out_and_came_back_is_not_dirty(target: Target, tmp_path: Path) -> None:
    with machine(target, tmp_path, "stress") as host:
        answer = host.ask("fill 7")
        start(host)
        go_out(host)
        contents(host)  # from the file, from the tier, zero
        assert dirty(host, rearm=False) == set()
        swap_of(host).enable()
        contents(host)  # staged
        come_back(host)
        contents(host)
        assert dirty(host, rearm=False) == set()
        assert host.ask("check 7") == answer
        host.until_quiet()
        before = contents(host)
        found = dirty(host)
        assert 0 < len(found) < 20  # its stack, its mailbox
        go_out(host)
        assert host.ask("fill 8") == answer
        host.until_quiet()
        after = contents(host)
        changed = {page for page, old in enumerate(before) if old != after[page]}
        assert len(changed) > 80
        assert changed <= dirty(host)


def test_pages_stay_dirty_on_their_way_out_and_back(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "echo") as host:
        start(host)
        write(host, MAIN, 1)
        go_out(host)
        assert dirty(host, rearm=False) == numbers(MAIN)  # while they are out
        contents(host)
        assert dirty(host, rearm=False) == numbers(MAIN)
        swap_of(host).enable()
        assert dirty(host, rearm=False) == numbers(MAIN)
        come_back(host)
        contents(host)
        assert dirty(host) == numbers(MAIN)
        contents(host)
        assert dirty(host) == set()


def test_tracking_begins_while_memory_is_out(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "echo") as host:
        write(host, MAIN, 1)
        go_out(host)
        start(host)
        assert dirty(host) == set()
        contents(host)
        assert dirty(host) == set()
        write(host, (MAIN[0] + 1, 1), 2)
        assert dirty(host) == {MAIN[0] + 1}
        come_back(host)
        write(host, (MAIN[0] + 2, 1), 3)
        assert dirty(host) == {MAIN[0] + 2}


def test_what_was_discarded_is_dirty(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "echo") as host:
        write(host, (MAIN[0], 8), 1)
        start(host)
        (name,) = host.machine.vm_names()
        swap = swap_of(host)
        swap.discard(name, MAIN[0] * PAGE, PAGE)  # swap is off
        assert dirty(host) == {MAIN[0]}
        go_out(host)
        swap.discard(name, (MAIN[0] + 1) * PAGE, 2 * PAGE)  # they are out
        assert dirty(host, rearm=False) == {MAIN[0] + 1, MAIN[0] + 2}
        assert dirty(host) == {MAIN[0] + 1, MAIN[0] + 2}
        contents(host)
        assert dirty(host) == set()
        swap.enable()
        swap.discard(name, (MAIN[0] + 3) * PAGE, PAGE)  # staged
        assert contents(host)[MAIN[0] + 3] == bytes(PAGE)
        assert dirty(host) == {MAIN[0] + 3}
        assert dirty(host) == set()


def test_a_discard_that_is_late_counts_whenever_it_is_done(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "echo") as host:
        start(host)
        (name,) = host.machine.vm_names()
        swapping = swap_of(host)
        swapping.discard(name, MAIN[0] * PAGE, PAGE)
        assert dirty(host) == {MAIN[0]}
        assert dirty(host) == set()
        monitor = swapping.client.monitor_pid()
        assert monitor is not None
        stop(monitor)
        try:
            with pytest.raises(SwapError):
                swapping.discard(name, MAIN[0] * PAGE, PAGE, host.runtime.now() - 1)
            assert dirty(host) == {MAIN[0]}
        finally:
            os.kill(monitor, signal.SIGCONT)
        assert dirty(host) == {MAIN[0]}  # it may be done only now
        start(host)
        assert dirty(host) == {MAIN[0]}


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_process_beside_main_writes_is_dirty(tmp_path: Path, child: Any, when: str) -> None:
    with machine(HERE, tmp_path, "echo") as host:
        (name,) = host.machine.vm_names()
        if when == "after":
            start(host)
        other = child(host)
        if when == "before":
            other.ask("fill", 1, *CHILD, name)
            start(host)
        assert dirty(host) == set()
        other.ask("check", 1, *MAIN, name)
        assert dirty(host) == set()
        other.ask("fill", 2, *CHILD, name)
        write(host, MAIN, 1)
        assert dirty(host) == numbers(MAIN) | numbers(CHILD)
        other.ask("fill", 3, *CHILD, name)
        go_out(host)  # in its page tables it was mapped
        assert other.ask("check", 3, *CHILD, name) == 0
        assert dirty(host) == numbers(CHILD)
        assert other.ask("check", 3, *CHILD, name) == 0
        contents(host)
        assert dirty(host) == set()
        come_back(host)
        other.ask("fill", 4, *CHILD, name)
        assert dirty(host) == numbers(CHILD)


def test_a_process_that_came_while_memory_was_out_is_tracked(tmp_path: Path, child: Any) -> None:
    with machine(HERE, tmp_path, "echo", "echo") as host:
        one, name = host.machine.vm_names()
        write(host, CHILD, 7, vm=1)
        start(host)
        go_out(host)
        other = child(host, vms=[name])
        other.ask("check", 1, *CHILD, name)
        assert dirty(host, vm=1) == set()
        other.ask("fill", 2, *CHILD, name)
        found = collect(host)
        assert found.why_all is None
        assert (pages_of(found, one), pages_of(found, name)) == (set(), numbers(CHILD))


@pytest.mark.parametrize("removed", [False, True])
def test_after_the_death_of_a_process_all_pages_are_dirty(
    tmp_path: Path, child: Any, removed: bool
) -> None:
    with machine(HERE, tmp_path, "echo") as host:
        (name,) = host.machine.vm_names()
        all_pages = [(0, host.vm().memory.regions[0].ram.size // PAGE)]
        other = child(host)
        start(host)
        other.kill()
        if removed:
            swap_of(host).collect()
        for rearm in (False, True):
            found = collect(host, rearm=rearm)
            assert found.why_all == "process backend has ended, and what it wrote is unknown"
            assert found.runs == {name: all_pages}
        assert dirty(host) == set()  # it was begun again, without the process
        write(host, MAIN, 1)
        assert dirty(host) == numbers(MAIN)


def test_a_process_that_is_not_armed_makes_all_pages_dirty(
    tmp_path: Path, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine(HERE, tmp_path, "echo") as host:
        start(host)
        with monkeypatch.context() as patch:
            patch.setattr(swap_of(host), "dirty", None)
            child(host)
        assert collect(host).why_all == "process backend maps guest memory, and was not tracked"
        assert dirty(host) == set()


def test_a_monitor_that_takes_over_keeps_what_is_dirty(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "echo") as host:
        start(host)
        write(host, MAIN, 1)
        go_out(host)
        kill(host)
        contents(host)
        assert dirty(host) == numbers(MAIN)
        go_out(host)
        kill(host)
        contents(host)
        assert dirty(host) == set()
        assert swap_of(host).client.supervisor.takeovers >= 1


def test_tracking_ends(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer = host.ask("fill 7")
        start(host)
        go_out(host)
        with host.machine.suspension.held(HOLDER, host.deadline(), frozen=True):
            host.machine.dirty.stop()
        assert host.ask("check 7") == answer  # what is out comes back all the same
        assert collect(host).why_all == "dirty pages are not tracked"
        come_back(host)
        start(host)
        with host.machine.suspension.held(HOLDER, host.deadline(), frozen=True):
            host.machine.dirty.stop()
        assert host.ask("check 7") == answer
        start(host)
        assert host.ask("check 7") == answer


def test_memory_is_accessible_when_no_monitor_is_left(tmp_path: Path) -> None:
    """After `disable` guest memory stays registered, and nobody serves it any more."""
    with machine(HERE, tmp_path, "stress") as host:
        answer = host.ask("fill 7")
        start(host)
        go_out(host)
        come_back(host)
        lose_spawner(host)
        kill(host)
        assert host.until(lambda: swap_of(host).status().state is State.FAILED)
        assert host.ask("check 7") == answer
        assert host.ask("fill 8") == answer
        ram = host.vm().memory.regions[0].ram
        for page in range(ram.size // PAGE):
            ram.read(page * PAGE, 1)
        found = collect(host)
        assert found.why_all == "this process: a part of its guest memory is not tracked any more"
        assert collect(host).why_all == "this process: nobody can serve its page faults"
