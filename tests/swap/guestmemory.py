"""A guest's memory with known contents, a thread that touches it, and the page store."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from hfsched.errors import UserError
from hfsched.memory.ram import Ram
from hfsched.swap.core import device
from hfsched.swap.core.guestpages import GuestPages, Region, zap
from hfsched.swap.core.stores import Stores, SwapFile
from hfsched.swap.pages.entries import Staging
from hfsched.swap.pages.store import Progress

from .basics import MIB, PAGE, userfault

__all__ = [
    "MIB",
    "PAGE",
    "Guest",
    "World",
    "needs_lz4",
    "needs_userfault",
    "plain",
    "through",
    "userfault",
    "userfault_problem",
]


def userfault_problem() -> str | None:
    """Why these tests cannot run here; they touch guest memory in user mode alone."""
    if device.problem() is not None:
        return device.problem()
    try:
        os.close(userfault())
    except UserError as error:
        return str(error)
    return None


def plain(file: SwapFile) -> int:
    """Return another descriptor of a swap file, which need not be used in whole blocks."""
    os.fchmod(file.out, 0o600)  # its mode is 0, which its owner may change
    try:
        return os.open(f"/proc/self/fd/{file.out}", os.O_RDWR)
    finally:
        os.fchmod(file.out, 0)


needs_userfault = pytest.mark.skipif(
    userfault_problem() is not None, reason=str(userfault_problem())
)
needs_lz4 = pytest.mark.skipif(device.tier_problem() is not None, reason=str(device.tier_problem()))


class Guest:
    """Pages whose contents follow from their number and version; a third is zero, or repeats."""

    def __init__(self, pages: int, filled: int | None = None) -> None:
        self.pages = pages
        self.ram = Ram("guest", pages * PAGE)
        self.versions = [0] * pages
        self.bad: list[str] = []
        self.frozen = threading.Lock()  # held around each step
        self.random = random.Random(4)
        for page in range(pages if filled is None else filled):
            self.write(page, 1)

    def content(self, page: int, version: int) -> bytes:
        kind = (page + version) % 6
        if version == 0 or kind == 0:
            return bytes(PAGE)
        if kind == 1:
            return (b"%d.%d " % (page, version) * PAGE)[:PAGE]
        return random.Random(page << 20 | version).randbytes(PAGE)

    def write(self, page: int, version: int) -> None:
        self.ram.write(page * PAGE, self.content(page, version))
        self.versions[page] = version

    def check(self, page: int) -> None:
        version = self.versions[page]
        found = self.ram.read(page * PAGE, PAGE)
        if found != self.content(page, version):
            known = [each for each in range(version) if found == self.content(page, each)]
            what = f"version {known[-1]}" if known else f"{found[:16].hex()}..."
            again = self.ram.read(page * PAGE, PAGE) == self.content(page, version)
            later = ", which is right when it is read again" if again else ""
            self.bad.append(f"page {page} has {what}, not version {version}{later}")

    def check_all(self) -> None:
        for page in range(self.pages):
            self.check(page)
        assert not self.bad, self.bad[:5]

    def step(self) -> None:
        """Read a page; now and then give it new contents."""
        page = self.random.randrange(self.pages)
        with self.frozen:
            self.check(page)
            if self.random.random() < 0.3:
                self.write(page, self.versions[page] + 1)

    @contextmanager
    def running(self, threads: int = 1) -> Iterator[None]:
        """Let threads touch pages until the end."""
        stop = threading.Event()

        def touch() -> None:
            while not stop.is_set():
                self.step()

        made = [threading.Thread(target=touch, daemon=True) for _ in range(threads)]
        for thread in made:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in made:
                thread.join()

    def zap(self) -> None:
        zap(self.ram.address, self.ram.size)

    def close(self) -> None:
        self.ram.close()


class World:
    """A guest and what swaps it, in this process."""

    def __init__(
        self,
        directory: Path,
        pages: int = 1024,
        staging: Staging = Staging.MINOR,
        *,
        tier: int = 0,
        around: int = 8,
        filled: int | None = None,
        stores: Stores | None = None,
    ) -> None:
        with ExitStack() as undo:
            self.guest = Guest(pages, filled)
            undo.callback(self.guest.close)
            self.stores = stores or Stores.create(directory, pages, staging, tier)
            undo.callback(self.stores.close)
            self.around = around
            self.userfault = userfault()
            undo.callback(os.close, self.userfault)
            self.swap = self.serve()
            undo.callback(self._close_swap)
            self._stack = undo.pop_all()

    def serve(self) -> GuestPages:
        """Serve the guest's faults, after a previous store."""
        region = Region(self.guest.ram.fd, self.guest.pages)
        swap = GuestPages(self.stores, [region], around=self.around)
        swap.add_member(self.userfault, [self.guest.ram.address])
        swap.take_over()
        swap.start()
        return swap

    def _close_swap(self) -> None:
        self.swap.close()  # whichever serves at the end

    def enable(self) -> int:
        with self.guest.frozen:
            staged = self.swap.stage()
            if self.stores.staging is Staging.MINOR:
                self.guest.zap()
            self.swap.zapped()
        return staged

    def out(self, limit: int = 100) -> None:
        through(self.swap.swap_out, limit)

    def disable(self) -> None:
        through(self.swap.swap_in, 100)
        self.swap.release()

    def events(self, name: str) -> int:
        self.swap.quiesce()
        return self.swap.counts().events[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def through(work: Callable[[int], Progress], limit: int) -> list[Progress]:
    """Do a work to its end, in pieces."""
    pieces = [work(limit)]
    while not pieces[-1].done:
        assert pieces[-1].problem is None
        assert pieces[-1].moved <= limit
        pieces.append(work(limit))
    return pieces
