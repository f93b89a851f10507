"""A page table that a new monitor takes over: with any contents, nothing beyond it is accessed."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfsched.errors import HfschedError, InternalError
from hfsched.memory.ram import Ram
from hfsched.swap.core.guestpages import GuestPages, Region
from hfsched.swap.core.stores import Stores
from hfsched.swap.core.table import CoreTable, entry_offset, table_size
from hfsched.swap.pages.entries import Entry, Staging, State
from hfsched.swap.pages.store import Counts, Phase
from hfsched.swap.report.picture import picture

from .guestmemory import PAGE, needs_lz4, needs_userfault, plain, userfault

pytestmark = needs_userfault

PAGES = 12
TIER = 2  # pages
UNIT = 128
CANARY = 0xA5
FUTURE_WRITE = 0x10  # fcntl's F_SEAL_FUTURE_WRITE
PHASE_AT = 20  # in the header
PHASES = {Phase.OFF: 0, Phase.MARKED: 1, Phase.SETTLED: 2}

words = st.one_of(
    st.integers(0, 2**64 - 1),
    st.builds(  # what is wrong in one field, mostly
        lambda state, copy, length, place: state | copy << 4 | length << 8 | place << 24,
        st.integers(0, 10),
        st.sampled_from([0, 4, 5, 6, 7, 15]),
        st.sampled_from([0, 1, 100, 4096, 4097, 65535]),
        st.one_of(st.integers(0, 2 * PAGES), st.sampled_from([128, 8064, 8192, 2**30, 2**40 - 1])),
    ),
)


class Left:
    """What a monitor has left, with more behind the table, the tier and the memory."""

    def __init__(self, staging: Staging) -> None:
        self._stack = ExitStack()
        self.ram = Ram("guest", 2 * PAGES * PAGE)
        self._stack.callback(self.ram.close)
        for page in range(2 * PAGES):
            if page % 3:
                self.ram.write(page * PAGE, bytes([page + 1]) * PAGE)
        self.beyond = self.ram.read(PAGES * PAGE, PAGES * PAGE)
        stores = Stores.create(tempfile.gettempdir(), PAGES, staging, TIER * PAGE)
        assert stores.tier is not None
        self.stores = replace(
            stores, table=self._longer(stores.table), tier=self._longer(stores.tier)
        )
        self._stack.callback(self.stores.close)
        CoreTable(self.stores.table, PAGES, staging).close()  # it has a header now
        os.pwrite(
            self.stores.swap_file.out if not self.stores.swap_file.direct else self.plain(),
            b"x" * PAGES * PAGE,
            0,
        )
        self.uffd = userfault()
        self._stack.callback(os.close, self.uffd)

    def _longer(self, sealed: int) -> int:
        """Return a memfd of one page more than another one has, which is closed."""
        size = os.fstat(sealed).st_size
        os.close(sealed)
        fd = os.memfd_create("longer")
        os.ftruncate(fd, size)
        self._write(fd, size, bytes([CANARY]) * PAGE)
        return fd

    def plain(self) -> int:
        fd = plain(self.stores.swap_file)
        self._stack.callback(os.close, fd)
        return fd

    def _write(self, fd: int, offset: int, data: bytes) -> None:
        os.pwrite(fd, data, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write into the table."""
        self._write(self.stores.table, offset, data)

    def set(self, phase: int, entries: list[int]) -> None:
        self.write(PHASE_AT, phase.to_bytes(4, "little"))
        for page, word in enumerate(entries):
            self.write(entry_offset(page), word.to_bytes(8, "little"))

    def entries(self) -> list[int]:
        data = os.pread(self.stores.table, 8 * PAGES, entry_offset(0))
        return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]

    def take_over(self) -> GuestPages:
        """Take over and serve; raises InternalError."""
        swap = GuestPages(self.stores, [Region(self.ram.fd, PAGES)])
        try:
            swap.take_over()
            swap.add_member(self.uffd, [self.ram.address])
            swap.start()
        except BaseException:
            swap.close()
            raise
        return swap

    def check_beyond(self) -> None:
        """Nothing behind what it was given has changed."""
        tier = self.stores.tier
        assert tier is not None
        for fd, end in ((self.stores.table, table_size(PAGES)), (tier, TIER * PAGE)):
            assert set(os.pread(fd, 2 * PAGE, end)) == {CANARY}
        with mmap.mmap(self.ram.fd, 2 * PAGES * PAGE, prot=mmap.PROT_READ) as memory:
            assert memory[PAGES * PAGE :] == self.beyond

    def close(self) -> None:
        self._stack.close()


def work(swap: GuestPages) -> None:
    """Do all that a monitor does; it may fail, in a line."""
    moves: list[Callable[[], object]] = [
        swap.zapped,
        lambda: swap.trim(64),
        lambda: swap.swap_out(64),
        lambda: swap.swap_in(64),
        swap.stage,
        swap.unstage,
        lambda: swap.swap_in(64),
        swap.release,
        lambda: swap.shrink(64),
    ]
    for move in moves:
        with suppress(HfschedError):
            move()
        assert isinstance(swap.counts(), Counts)


def live_on(left: Left) -> bool:
    """Take over and work; return whether the table was accepted."""
    before = left.entries()
    try:
        swap = left.take_over()
    except InternalError:
        assert left.entries() == before, "an invalid table was changed"
        return False
    try:
        for word in left.entries():
            assert Entry.decode(word).state not in (
                State.WRITING,
                State.PUNCHING,
                State.MOVING,
                State.TAKING,
            )
        work(swap)
    finally:
        swap.close()
    return True


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(Staging), st.integers(0, 3), st.lists(words, max_size=PAGES))
@example(Staging.MINOR, 2, [State.FILE | State.FILE << 4 | (2**40 - 1) << 24])
@example(Staging.MINOR, 2, [State.COMPRESSED | State.COMPRESSED << 4 | 65535 << 8 | 2**39 << 24])
@example(Staging.COPY, 2, [State.PUNCHING | State.COMPRESSED << 4 | 100 << 8 | 2**39 << 24])
def test_any_entries_are_taken_over_or_refused(
    staging: Staging, phase: int, entries: list[int]
) -> None:
    left = Left(staging)
    left.set(phase, entries)
    live_on(left)
    left.check_beyond()
    left.close()


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=table_size(PAGES)), st.integers(0, table_size(PAGES)))
def test_any_bytes_are_taken_over_or_refused(data: bytes, offset: int) -> None:
    left = Left(Staging.MINOR)
    left.write(offset, data[: table_size(PAGES) - offset])
    live_on(left)
    left.check_beyond()
    left.close()


def entry(state: State, copy: State = State.RESIDENT, length: int = 0, place: int = 0) -> int:
    return Entry(state, copy, length, place).encode()


SLOT = entry(State.FILE, State.FILE, 0, 3)
SPAN = entry(State.COMPRESSED, State.COMPRESSED, 200, UNIT)
GOOD = {
    "nothing": [],
    "all": [
        SLOT,
        SPAN,
        entry(State.ZERO, State.ZERO),
        entry(State.STAGED),
        entry(State.WRITING),
        entry(State.RESIDENT, State.FILE, 0, PAGES - 1),
        entry(State.PUNCHING, State.COMPRESSED, 4096, TIER * PAGE - 4096),
    ],
}
BAD = {
    "a state that there is not": [9],
    "a copy that there is not": [entry(State.PUNCHING, State.STAGED)],
    "no copy to punch for": [entry(State.PUNCHING)],
    "a slot beyond the file": [entry(State.FILE, State.FILE, 0, PAGES)],
    "one slot for two": [SLOT, entry(State.STAGED, State.FILE, 0, 3)],
    "spans that overlap": [SPAN, entry(State.COMPRESSED, State.COMPRESSED, 9, 2 * UNIT)],
    "a span that ends beyond the tier": [
        entry(State.COMPRESSED, State.COMPRESSED, UNIT + 1, TIER * PAGE - UNIT)
    ],
    "a span of no bytes": [entry(State.COMPRESSED, State.COMPRESSED, 0, 0)],
    "a span of more than a page": [entry(State.COMPRESSED, State.COMPRESSED, 4097, 0)],
    "a span between two units": [entry(State.COMPRESSED, State.COMPRESSED, 9, 1)],
    "copying with minor staging": [entry(State.TAKING)],
}


@needs_lz4
@pytest.mark.parametrize("name", GOOD)
def test_what_a_monitor_can_have_left_is_taken_over(name: str) -> None:
    left = Left(Staging.MINOR)
    left.set(PHASES[Phase.SETTLED], GOOD[name])
    assert live_on(left)
    left.check_beyond()
    left.close()


@needs_lz4
@pytest.mark.parametrize("name", BAD)
def test_what_none_can_have_left_is_refused(name: str) -> None:
    left = Left(Staging.MINOR)
    left.set(PHASES[Phase.SETTLED], BAD[name])
    assert not live_on(left)
    left.close()


def test_what_can_neither_be_given_back_nor_restored_is_not_taken_for_memory() -> None:
    left = Left(Staging.MINOR)
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PAGES * PAGE)
    ram = Ram("sealed", PAGES * PAGE, fd)
    ram.write(0, b"whatever")
    left.set(PHASES[Phase.SETTLED], [entry(State.PUNCHING, State.FILE, 0, 3)])
    swap = GuestPages(left.stores, [Region(fd, PAGES)])
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, FUTURE_WRITE)  # no holes any more
    os.ftruncate(left.plain(), 0)
    swap.take_over()
    assert left.entries()[0] == entry(State.PUNCHING, State.FILE, 0, 3)
    assert swap.swap_in(64).problem == "freeing guest memory: Operation not permitted"
    swap.close()
    ram.close()
    left.close()


def test_with_swap_off_no_page_is_anywhere_else() -> None:
    for phase, good in ((Phase.OFF, False), (Phase.MARKED, True)):
        left = Left(Staging.MINOR)
        left.set(PHASES[phase], [entry(State.STAGED)])
        assert live_on(left) == good
        left.close()


@given(st.binary(max_size=2000))
def test_any_bytes_have_a_picture(entries: bytes) -> None:
    assert len(picture(entries)) == -(-len(entries) // 512)
