"""A live snapshot in the model of swap: the pages that it has yet to write, and main's side of it.

Main's requests are production code (`Enabling`, `MonitorClient.hold`); what `hfsched/swap/core/owed.c` and `peek.c` do is a
model, in steps.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from hfsched.explore.thing import Thing
from hfsched.swap.client.suspension import suspended
from hfsched.swap.pages.entries import State
from hfsched.swap.protocol.messages import State as SwapState

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.scenarios.swapmemory import Memory, Page
    from hfsched.scenarios.swaporacles import UnderWay
    from hfsched.scheduler.suspension import Holder
    from hfsched.swap.client.client import MonitorClient

__all__ = ["CopiesAtOnce", "Live", "MarksFirst", "Owed", "keep", "peek"]

OWED, ASIDE, WRITTEN = range(3)
_QUIET = (SwapState.READY, SwapState.PENDING, SwapState.ACTIVE)


class Owed(Thing):
    """What main and monitors share: a byte for each page, and the pages that were copied aside."""

    def __init__(self, runtime: ExploreRuntime, pages: int) -> None:
        super().__init__(runtime, "owed")
        self.owing = False
        self.states = [WRITTEN] * pages
        self.aside: dict[int, int] = {}
        self.expected: list[int] = []  # for the oracle: the contents at the instant

    def key(self) -> Hashable:
        """See `Thing.key`."""
        aside = tuple(sorted(self.aside.items()))
        return (self.owing, tuple(self.states), aside, tuple(self.expected))


def peek(memory: Memory, page: Page) -> int:
    """Return what a page has, wherever it is: `hfs_peek`."""
    while True:
        memory.at("look", page)
        entry = page.entry
        memory.runtime.observe(entry.encode())
        memory.at("read it", page)
        state = entry.copy if entry.state is State.PUNCHING else entry.state
        if state is State.FILE:
            value = page.slots.get(entry.location, -1)
        else:
            value = 0 if state is State.ZERO else page.memory or 0
        memory.runtime.observe(value)
        memory.at("look again", page)
        same = page.entry == entry
        memory.runtime.observe(same)
        if same:
            return value


def keep(memory: Memory, page: Page) -> None:
    """Copy a page aside before it is mapped, if it is owed: `hfs_keep_owed`."""
    owed = memory.owed
    if owed is None:
        return
    memory.at("is it owed", owed)
    is_owed = owed.owing and owed.states[page.number] == OWED
    memory.runtime.observe(is_owed)
    if not is_owed:
        return
    value = peek(memory, page)
    memory.at("copy aside", owed)
    owed.aside[page.number] = value
    memory.at("kept", owed)
    if owed.states[page.number] == OWED:
        owed.states[page.number] = ASIDE
    else:
        owed.aside.pop(page.number, None)


class Live:
    """Main's side: `take` is as `hfsched.vmm.livememory.LiveMemory`, and checks what it has taken."""

    reads_first = True  # a page is read before it is marked as written
    settles = True  # no fault is half served while pages are copied

    def __init__(
        self, memory: Memory, client: MonitorClient, hold: Holder, under_way: UnderWay
    ) -> None:
        self._memory = memory
        self._client = client
        self._hold = hold
        self._under_way = under_way

    def take(self, pages: int | None = None) -> None:
        """Take a snapshot of all pages, or of so many, without staging any; raises SwapError."""
        client, owed = self._client, self._memory.owed
        assert owed is not None
        client.hold("a snapshot is being taken")
        before, unstage = SwapState.FAILED, pages is None
        try:
            with self._under_way.doing("snapshot"):
                before = client.status().state
                unstage = pages is None or before is SwapState.READY
                if before in _QUIET:
                    self._begin(owed)
                    if pages is None:
                        client.enabling.stage_running(None)
                    elif before is SwapState.READY:
                        client.enabling.serve(None)
                    self._take_some(owed, pages)
                    unstage = unstage and before is not SwapState.PENDING
        finally:
            self._memory.at("stop owing", owed)
            owed.owing = False
            client.go_on(unstage=unstage, release=before is SwapState.READY)
            self._memory.at("drop", owed)
            owed.aside.clear()
            owed.expected.clear()
            owed.states = [WRITTEN] * len(owed.states)

    def copy(self) -> None:
        """Take a snapshot of all pages in a suspension, as `hfsched.vmm.snapshotmemory.SwappedMemory`; raises SwapError."""
        memory, client = self._memory, self._client
        client.hold("a snapshot is being taken")
        try:
            with self._under_way.doing("snapshot"), suspended(self._hold):
                if self.settles:
                    client.enabling.quiesce(None)
                for page in memory.pages:
                    value = peek(memory, page)
                    assert value == page.latest, (
                        f"a snapshot has {value} of {page.name}: it has {page.latest}"
                    )
        finally:
            client.go_on()

    def _begin(self, owed: Owed) -> None:
        self._memory.at("begin", owed)
        owed.owing = True

    def _take_some(self, owed: Owed, count: int | None) -> None:
        memory, client = self._memory, self._client
        pages = memory.pages[:count]
        with suspended(self._hold):
            for page in pages:
                memory.at("owe", page)
                memory.runtime.touch(owed.name)
                owed.expected.append(page.latest)
                owed.states[page.number] = OWED
            client.enabling.unmap(None, None if count is None else [(0, count)])
        client.enabling.settle(None)
        for page in pages:
            value = self._take(owed, page)
            then = owed.expected[page.number]
            assert value == then, f"a snapshot has {value} of {page.name}: it had {then}"

    def _take(self, owed: Owed, page: Page) -> int:
        """Take a page: `hfs_take_owed`."""
        memory = self._memory
        while True:
            memory.at("is it aside", owed)
            state = owed.states[page.number]
            memory.runtime.observe(state)
            if state == ASIDE:
                memory.at("take it", owed)
                value = owed.aside.pop(page.number)
                memory.runtime.observe(value)
                owed.states[page.number] = WRITTEN
                return value
            value = peek(memory, page) if self.reads_first else 0
            memory.at("is written", owed)
            taken = owed.states[page.number] == OWED
            memory.runtime.observe(taken)
            if taken:
                owed.states[page.number] = WRITTEN
                return value if self.reads_first else peek(memory, page)


class CopiesAtOnce(Live):
    """Copies pages while a fault may be half served."""

    settles = False


class MarksFirst(Live):
    """Marks a page as written, and reads it then."""

    reads_first = False
