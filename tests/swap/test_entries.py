"""The page table in C against the plain one, change by change, in every state."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hfsched.swap.core import device
from hfsched.swap.core.table import CoreTable, table_size
from hfsched.swap.pages.entries import Entry, FaultAction, PageTable, Staging, State

PAGES = 3
COPIES = (State.FILE, State.COMPRESSED, State.ZERO)
SIMPLE = (
    "stage",
    "move",
    "moved",
    "unstage",
    "claim",
    "unclaim",
    "drop_zero",
    "drop_clean",
    "punched",
    "restored",
    "fault",
    "untake",
    "arrived",
    "release",
    "discard",
)

built = pytest.mark.skipif(device.problem() is not None, reason=str(device.problem()))
pages = st.integers(0, PAGES - 1)
stagings = st.sampled_from(Staging)


def entries() -> st.SearchStrategy[Entry]:
    """Any entry that there can be."""
    slots = st.integers(0, 2**40 - 1)
    held = st.sampled_from((State.RESIDENT, State.STAGED, State.MOVING, State.TAKING))
    return st.one_of(
        st.builds(Entry, held),
        st.builds(lambda state, slot: Entry(state, State.FILE, 0, slot), held, slots),
        st.just(Entry(State.WRITING)),
        st.just(Entry(State.ZERO, State.ZERO)),
        st.just(Entry(State.PUNCHING, State.ZERO)),
        st.builds(
            lambda state, slot: Entry(state, State.FILE, 0, slot),
            st.sampled_from((State.FILE, State.PUNCHING)),
            slots,
        ),
        st.builds(
            lambda state, length, offset: Entry(state, State.COMPRESSED, length, offset),
            st.sampled_from((State.COMPRESSED, State.PUNCHING)),
            st.integers(1, 4096),
            slots,
        ),
    )


@given(entries())
def test_an_entry_survives_encoding(entry: Entry) -> None:
    assert Entry.decode(entry.encode()) == entry
    assert entry.encode() < 2**64


def core_table(fd: int, staging: Staging) -> CoreTable:
    return CoreTable(fd, PAGES, staging)


@built
@given(entries(), stagings, st.sampled_from(SIMPLE))
def test_one_change_of_any_entry(entry: Entry, staging: Staging, name: str) -> None:
    model = PageTable(1, staging)
    model.entries[0] = entry
    fd = os.memfd_create("table")
    os.ftruncate(fd, table_size(1))
    core = CoreTable(fd, 1, staging)
    os.close(fd)
    core.set_entry(0, entry)
    assert getattr(core, name)(0) == getattr(model, name)(0)
    assert core.entry(0) == model.entry(0)
    core.close()


@built
@given(entries(), stagings, st.booleans(), st.booleans())
def test_taking_over_any_entry(
    entry: Entry, staging: Staging, in_memory: bool, settled: bool
) -> None:
    model = PageTable(1, staging)
    model.entries[0] = entry
    fd = os.memfd_create("table")
    os.ftruncate(fd, table_size(1))
    core = CoreTable(fd, 1, staging)
    os.close(fd)
    core.set_entry(0, entry)
    core.take_over(0, in_memory=in_memory, settled=settled)
    model.take_over(0, in_memory=in_memory, settled=settled)
    assert core.entry(0) == model.entry(0)
    assert model.entry(0).state not in (
        State.WRITING,
        State.PUNCHING,
        State.MOVING,
        State.TAKING,
    ), "a dead monitor's work would not be completed"
    core.close()


class Tables(RuleBasedStateMachine):
    """Two threads' changes in any order, and deaths in between."""

    @initialize(staging=stagings)
    def make(self, staging: Staging) -> None:
        self.staging = staging
        self.fd = os.memfd_create("table")
        os.ftruncate(self.fd, table_size(PAGES))
        self.core = core_table(self.fd, staging)
        self.model = PageTable(PAGES, staging)

    def teardown(self) -> None:
        if hasattr(self, "core"):
            self.core.close()
            os.close(self.fd)

    @rule(page=pages, name=st.sampled_from(SIMPLE))
    def change(self, page: int, name: str) -> None:
        assert getattr(self.core, name)(page) == getattr(self.model, name)(page)

    @rule(page=pages, copy=st.sampled_from(COPIES), slot=st.integers(0, 9))
    def publish(self, page: int, copy: State, slot: int) -> None:
        length = 100 if copy is State.COMPRESSED else 0
        location = 0 if copy is State.ZERO else slot
        wrote = self.core.publish(page, copy, location, length)
        assert wrote == self.model.publish(page, copy, location, length)

    @rule(page=pages, copy=st.sampled_from(COPIES), slot=st.integers(0, 9))
    def out(self, page: int, copy: State, slot: int) -> None:
        """All the way, which single steps seldom go."""
        self.change(page, "stage")
        self.change(page, "claim")
        self.publish(page, copy, slot)
        self.change(page, "punched")

    @rule(in_memory=st.booleans(), settled=st.booleans())
    def die(self, in_memory: bool, settled: bool) -> None:
        self.core.close()
        self.core = core_table(self.fd, self.staging)
        for page in range(PAGES):
            self.core.take_over(page, in_memory=in_memory, settled=settled)
            self.model.take_over(page, in_memory=in_memory, settled=settled)

    @invariant()
    def they_agree(self) -> None:
        if hasattr(self, "core"):
            assert [self.core.entry(page) for page in range(PAGES)] == self.model.entries
            assert self.core.states() == self.model.states()


TestTables = built(Tables.TestCase)
TestTables.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


def test_a_fault_takes_a_page_back_from_a_write() -> None:
    table = PageTable(1)
    assert table.stage(0)
    assert table.claim(0)
    assert table.fault(0) is FaultAction.CONTINUE
    assert not table.publish(0, State.FILE, 7), "the worker must see that it came too late"
    assert table.entry(0) == Entry()


def test_a_page_that_comes_back_from_the_file_keeps_its_slot() -> None:
    table = PageTable(1)
    table.stage(0)
    table.claim(0)
    table.publish(0, State.FILE, 7)
    assert table.fault(0) is FaultAction.WAIT
    table.punched(0)
    assert table.fault(0) is FaultAction.READ_FILE
    assert table.arrived(0)
    assert table.slots() == {7: 0}
    table.stage(0)
    assert table.drop_clean(0)
    table.punched(0)
    assert table.entry(0) == Entry(State.FILE, State.FILE, 0, 7)


def test_slots_and_spans_follow_from_the_entries() -> None:
    table = PageTable(4)
    for page, (copy, place, length) in enumerate(
        [(State.FILE, 5, 0), (State.COMPRESSED, 256, 100), (State.ZERO, 0, 0)]
    ):
        table.stage(page)
        table.claim(page)
        table.publish(page, copy, place, length)
        table.punched(page)
    assert table.slots() == {5: 0}
    assert table.spans() == {256: 100}
    table.arrived(1)
    assert table.spans() == {}
