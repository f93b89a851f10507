"""Freed memory is really free: memfds and processes become smaller, and status reports it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfsched.swap.protocol.messages import State
from hfsched.swap.report import footprint
from hfsched.swap.report.footprint import Footprint, Memory, allocated, held, resident

from .guestmemory import MIB, PAGE, needs_userfault
from .swapping import (
    HERE,
    come_back,
    go_out,
    in_memory,
    machine,
    on_every_engine,
    swap_of,
    wait_for,
)

if TYPE_CHECKING:
    from talk import Target

KEPT = 64 << 10  # bytes; far more than the table and the tier of so little memory take


@needs_userfault
@on_every_engine
def test_what_a_machine_gives_back(target: Target, tmp_path: Path) -> None:
    size = 2 * MIB if target.engine == "kvm" else 8 * MIB  # it may be slow there
    with machine(target, tmp_path, "stress", memory=size) as host:
        footprint = swap_of(host).footprint
        filled = host.ask("fill 7")
        host.until_quiet()  # it has answered, and may run on into a fault
        before, resided = in_memory(host), resident(os.getpid())
        assert before > size * 3 // 4
        assert footprint.measure().guests == before
        assert footprint.measure().given_back == 0
        metrics = go_out(host).metrics
        gone = (metrics.file + metrics.compressed + metrics.zero) * PAGE
        assert gone > before * 3 // 4
        after = footprint.measure()
        assert after.guests == in_memory(host) <= before - gone
        assert resident(os.getpid()) < resided - before // 2
        assert after.given_back > before - after.guests - KEPT
        assert after.given_back < before - after.guests
        assert after.resident_less > before // 2
        assert after.monitor > MIB
        assert host.ask("check 7") == filled
        come_back(host)
        assert in_memory(host) > before * 3 // 4
        assert footprint.measure().given_back < before // 4


def test_which_pages_a_memfd_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.memfd_create("sparse")
    try:
        os.ftruncate(fd, 9 * PAGE)
        assert list(held(fd, 9)) == []
        for page in (0, 1, 4, 8):
            os.pwrite(fd, b"x", page * PAGE)
        assert list(held(fd, 9)) == [(0, 2), (4, 5), (8, 9)]
        assert list(held(fd, 8)) == [(0, 2), (4, 5)]
        assert list(held(fd, 2)) == [(0, 2)]
        monkeypatch.setattr(footprint, "_RUNS_MAX", 1)
        assert list(held(fd, 9)) == [(0, 2), (2, 9)]
    finally:
        os.close(fd)


@needs_userfault
def test_the_tier_is_memory_that_swap_keeps(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "stress", memory=4 * MIB) as host:
        host.ask("fill 7")
        swap_of(host).enable()
        before = swap_of(host).footprint.measure()
        swap_of(host).client.swap_out()
        used = wait_for(host, State.ACTIVE).metrics.tier_used
        after = swap_of(host).footprint.measure()
        assert after.kept - before.kept >= used > 0


def memory(size: int, filled: int) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    os.pwrite(fd, b"x" * filled, 0)
    return fd


def test_what_is_counted() -> None:
    guest, kept = memory(64 * PAGE, 48 * PAGE), memory(64 * PAGE, PAGE)
    try:
        footprint = Footprint([guest], [kept], lambda: None)
        footprint.mark()
        os.ftruncate(guest, 8 * PAGE)
        os.pwrite(kept, b"x", 2 * PAGE)
        footprint.mark()  # less than before: ignored
        seen = footprint.measure()
        assert (seen.guests, seen.kept, seen.monitor) == (8 * PAGE, 2 * PAGE, 0)
        assert seen.given_back == 39 * PAGE
        assert seen.main == pytest.approx(resident(os.getpid()), abs=MIB)
        os.pwrite(guest, b"x" * (60 * PAGE), 0)
        assert footprint.measure().given_back == 0  # never less than nothing
        assert Memory() == Memory(guests=0)
        assert allocated(guest) == 60 * PAGE
    finally:
        os.close(guest)
        os.close(kept)


def test_a_process_that_is_not_there_has_no_size() -> None:
    assert resident(None) == 0
    assert resident(1 << 30) == 0
