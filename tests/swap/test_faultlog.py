"""The log of faults: which page, when, from where, how long; whatever is in its memory."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from hfsched.swap.core.faultlog import ENTRY, LOG_MAX, LOGGED_OFFSET, SOURCES, Fault, read_faults
from hfsched.swap.core.table import entry_offset, table_size
from hfsched.swap.pages.entries import Staging

from .guestmemory import MIB, PAGE, World, needs_lz4, needs_userfault
from .swapping import HERE, come_back, go_out, machine, swap_of

PAGES = 600


def faults(world: World, since: int = 0) -> list[Fault]:
    def read(offset: int, size: int) -> bytes:
        return os.pread(world.stores.table, size, offset)

    world.swap.quiesce()
    return list(read_faults(read, entry_offset(PAGES), PAGES, since))


@needs_userfault
@needs_lz4
@pytest.mark.parametrize("staging", Staging)
def test_each_fault_is_logged_with_its_source(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, pages=PAGES, staging=staging, tier=MIB // 4, around=1) as world:
        began = time.monotonic_ns()
        world.enable()
        world.guest.check(7)
        world.out()
        before = world.swap.counts()
        for page in range(20, PAGES):
            world.guest.check(page)
        found = faults(world)
        ended = time.monotonic_ns()
        assert [fault.page for fault in found] == [7, *range(20, PAGES)]
        assert [fault.number for fault in found] == list(range(len(found)))
        assert found[0].source == "staging"
        sources = {source: [each for each in found if each.source == source] for source in SOURCES}
        assert 0 < len(sources["file"]) <= before.file
        assert 0 < len(sources["tier"]) <= before.compressed
        assert 0 < len(sources["zero"]) <= before.zero
        assert all(began < fault.when and fault.when + fault.took < ended for fault in found)
        assert faults(world, 100) == found[100:]
        world.guest.check_all()


@needs_userfault
def test_the_log_is_bounded_and_another_monitor_goes_on_with_it(tmp_path: Path) -> None:
    with World(tmp_path, pages=PAGES, around=1) as world:
        for _ in range(8):
            world.enable()
            for page in range(PAGES):
                world.guest.check(page)
        world.swap.close()
        world.swap = world.serve()
        world.enable()
        world.guest.check(5)
        found = faults(world)
        assert len(found) in (LOG_MAX, LOG_MAX - 1)
        assert found[-1].page == 5
        assert [fault.number for fault in found] == list(range(found[0].number, 8 * PAGES + 1))


def test_any_bytes_are_read() -> None:
    drawn = random.Random(5)
    for _ in range(300):
        table = bytearray(drawn.randbytes(table_size(3)))
        count = drawn.choice((0, 1, LOG_MAX, LOG_MAX + 9, (1 << 64) - 1, drawn.randrange(1 << 64)))
        table[LOGGED_OFFSET : LOGGED_OFFSET + 8] = count.to_bytes(8, "little")
        for _ in range(drawn.randrange(4)):
            at = entry_offset(3) + drawn.randrange(LOG_MAX) * ENTRY.size
            table[at : at + ENTRY.size] = ENTRY.pack(1, 2 | 4 << 48, 3)
        whole = bytes(table)

        def read(at: int, size: int, whole: bytes = whole) -> bytes:
            return whole[at : at + size]

        for fault in read_faults(read, entry_offset(3), 3):
            assert fault.page < 3
            assert fault.source in SOURCES


def test_what_is_written_over_meanwhile_is_left_out() -> None:
    table = bytearray(table_size(3))
    counts = [10, 10 + LOG_MAX - 5]

    def read(at: int, size: int) -> bytes:
        if at == LOGGED_OFFSET:
            return counts.pop(0).to_bytes(8, "little")
        return bytes(table[at : at + size])

    assert [fault.number for fault in read_faults(read, entry_offset(3), 3)] == [6, 7, 8, 9]


@needs_userfault
def test_faults_of_a_machine_have_a_vm_and_a_guest_physical_address(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "echo", "echo", memory=MIB) as host:
        began = time.monotonic_ns()
        go_out(host)
        assert host.ask("hello") == "hello"
        names = host.machine.vm_names()
        regions = {names[number]: host.vm(number).memory.regions[0] for number in (0, 1)}
        found = host.machine.faults()
        assert found
        for fault in found:
            region = regions[fault.vm]
            assert region.ipa <= fault.address < region.end
            assert fault.address % PAGE == 0
            assert began < fault.time < time.monotonic_ns()
        come_back(host)
        assert swap_of(host).status().metrics.events["faults"] >= len(found)
