"""Enable, trim, out and disable of two VMs' memory, with every page counted and looked at.

Main's side, the monitor's program and the kernel: what ships, without guests.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from processes import stop
from progress import QUIET, QUIET_NS, until

from hfsched.memory import writeprotect
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.client.client import MonitorClient
from hfsched.swap.client.mainmember import MainMember
from hfsched.swap.core.pagemap import mapped_ranges, open_pagemap
from hfsched.swap.core.resources import pack
from hfsched.swap.core.stores import Stores
from hfsched.swap.monitor.program import monitor
from hfsched.swap.pages.entries import Staging
from hfsched.swap.protocol.messages import Region, State, Status

from .children import pid_of
from .guestmemory import PAGE, needs_userfault, userfault

pytestmark = needs_userfault

SECOND = 1_000_000_000
SIZE = 1024  # pages of each VM
# What a fault brings with a page is in its window of 8: touched are whole windows, and single
# pages that were never written.
FILLED = (*range(8), *range(16, 616))
NEVER = 700
UFFDIO_CONTINUE, DONTWAKE = 0xC020AA07, 1  # linux/userfaultfd.h


class NeverRuns:
    """Only the test accesses memory."""

    def suspend(self, deadline: int | None = None) -> None: ...

    def resume(self) -> None: ...


class Machine:
    """Two VMs' memory; `wrote` is what each page should have."""

    def __init__(self, directory: Path) -> None:
        self.runtime = ThreadRuntime()
        self.rams = [Ram("low", SIZE * PAGE), Ram("high", SIZE * PAGE)]
        self.wrote: dict[tuple[int, int], int] = {}
        self.stores = Stores.create(directory, 2 * SIZE, Staging.MINOR, 0)
        self.uffd = userfault()
        self.pagemap = open_pagemap()
        resources = pack(self.stores, [ram.fd for ram in self.rams])
        self.client = MonitorClient(self.runtime, monitor, NeverRuns(), resources)
        self.client.start()
        regions = [
            Region(ram.address, number * SIZE * PAGE, ram.size)
            for number, ram in enumerate(self.rams)
        ]
        self.client.add(MainMember(self.uffd, regions, self.pagemap))
        for vm in (0, 1):
            for page in FILLED:
                self.write(vm, page, 1 + (page + vm) % 250)

    def write(self, vm: int, page: int, value: int) -> None:
        self.rams[vm].write(page * PAGE, bytes([value]) * PAGE)
        self.wrote[vm, page] = value

    def look(self, vm: int, pages: Sequence[int]) -> None:
        for page in pages:
            value = self.wrote.get((vm, page), 0)
            assert self.rams[vm].read(page * PAGE, PAGE) == bytes([value]) * PAGE, f"{vm}: {page}"

    def look_at_all(self) -> None:
        for vm in (0, 1):
            self.look(vm, range(SIZE))

    def until(self, state: State) -> Status:
        return until(self.client.status, lambda status: status.state is state)

    def come_to(self, metrics: dict[str, int], **events: int) -> None:
        """Wait until that is what there is: a page is counted after it can be accessed."""

        def look() -> tuple[dict[str, int], dict[str, int]]:
            has = self.client.status().metrics
            return {name: getattr(has, name) for name in metrics}, {
                name: has.events[name] for name in events
            }

        until(look, lambda has: has == (metrics, events))

    def trim(self) -> int:
        """Return how many pages it was."""
        self.client.trim()
        return self.until(State.PENDING).transition.pages

    def out(self) -> int:
        self.client.swap_out()
        return self.until(State.ACTIVE).transition.pages

    def disable(self) -> int:
        self.client.disable()
        return self.until(State.READY).transition.pages

    def close(self) -> None:
        self.client.close(discard=True)
        assert self.client.join(self.runtime.now() + QUIET_NS)
        for ram in self.rams:
            ram.close()
        self.stores.close()
        os.close(self.uffd)
        os.close(self.pagemap)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


ALL = 2 * len(FILLED)


def test_enable_stages_what_there_is_and_then_what_came_back(machine: Machine) -> None:
    assert machine.client.enable() == ALL
    status = machine.until(State.PENDING)
    assert (status.transition.pages, status.metrics.staged) == (ALL, ALL)
    machine.look(0, range(8))
    machine.look(0, [NEVER])  # one page of zeros
    machine.come_to({"staged": ALL - 8}, from_staging=8, zeroed=1)
    assert machine.client.enable() == 9
    machine.write(1, 16, 251)
    assert machine.client.enable() == 8
    assert machine.client.status().transition.pages == 8
    machine.look_at_all()


def test_a_fault_on_a_page_that_is_there_by_now_is_redundant(machine: Machine) -> None:
    machine.client.enable()
    process = machine.client.supervisor._process
    monitor_ = pid_of(process)
    stop(monitor_)
    waiter = threading.Thread(target=machine.look, args=(0, [3]), daemon=True)
    waiter.start()
    assert select.select([machine.uffd], [], [], QUIET)[0]
    # As if for another's fault, but without waking this one.
    place = machine.rams[0].address + 3 * PAGE
    fcntl.ioctl(machine.uffd, UFFDIO_CONTINUE, struct.pack("QQQq", place, PAGE, DONTWAKE, 0))
    os.kill(monitor_, signal.SIGCONT)
    waiter.join(QUIET)
    assert not waiter.is_alive(), "it waits for ever"
    machine.come_to({}, redundant=1)
    machine.look_at_all()


def test_out_writes_what_is_staged_and_then_what_came_back(machine: Machine) -> None:
    machine.client.enable()
    assert machine.out() == ALL
    metrics = machine.client.status().metrics
    assert (metrics.staged, metrics.file, metrics.stale) == (0, ALL, 0)
    machine.look(0, range(8))
    machine.look(1, range(16, 32))
    machine.come_to({"file": ALL - 24, "stale": 24}, from_file=24)
    machine.write(0, 0, 252)
    assert machine.client.enable() == 24
    assert machine.out() == 24
    machine.look_at_all()


def test_trim_drops_zero_pages_and_then_clean_ones(machine: Machine) -> None:
    for page in range(8):
        machine.write(1, page, 0)
    machine.client.enable()
    assert machine.trim() == 8
    assert machine.client.status().metrics.zero == 8
    assert machine.out() == ALL - 8
    machine.look(0, range(24))
    machine.write(0, 3, 253)
    assert machine.client.enable() == 24  # 16 are there; 8 were never written, and are zero
    assert machine.trim() == 23
    machine.come_to({}, trimmed_zero=16, trimmed_clean=15)
    assert machine.trim() == 0
    assert machine.out() == 1
    machine.look_at_all()


@pytest.mark.parametrize("where", ["staging", "file", "both"])
def test_disable_brings_back_from_wherever_it_is(machine: Machine, where: str) -> None:
    machine.client.enable()
    if where != "staging":
        machine.out()
    if where == "both":
        machine.look(0, range(8))
        assert machine.client.enable() == 8
    assert machine.disable() == ALL
    metrics = machine.client.status().metrics
    assert (metrics.resident, metrics.staged, metrics.file, metrics.stale) == (2 * SIZE, 0, 0, 0)
    assert os.fstat(machine.stores.swap_file.out).st_size == 0
    faults = metrics.events["faults"]
    machine.look_at_all()
    assert (
        machine.client.status().metrics.events["faults"] == faults
    )  # no range is registered any more
    assert machine.client.enable() >= ALL
    machine.look_at_all()


@pytest.mark.skipif(writeprotect.problem() is not None, reason=str(writeprotect.problem()))
def test_of_some_runs_no_more_is_zapped(machine: Machine) -> None:
    machine.look_at_all()
    low, high = (ram.address for ram in machine.rams)
    runs = [(3, 40), (SIZE - 1, 1), (SIZE, 50), (SIZE + 100, SIZE - 100)]
    regions = [Region(ram.address, n * SIZE * PAGE, ram.size) for n, ram in enumerate(machine.rams)]
    member = MainMember(machine.uffd, regions, machine.pagemap)
    member.zap_mapped(runs)
    there = [mapped_ranges(machine.pagemap, base, SIZE * PAGE) for base in (low, high)]
    assert there == [
        [(low, 3 * PAGE), (low + 43 * PAGE, (SIZE - 44) * PAGE)],
        [(high + 50 * PAGE, 50 * PAGE)],
    ]
    member.zap_mapped([(page, 1) for page in range(0, 2 * SIZE, 2)] * 5)  # so many that all goes
    assert [mapped_ranges(machine.pagemap, base, SIZE * PAGE) for base in (low, high)] == [[], []]
    machine.look_at_all()
