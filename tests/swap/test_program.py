"""The monitor's program: the processes it serves, and faults that wait when it takes over."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from progress import QUIET, QUIET_NS, until

from hfsched.memory.writeprotect import Run
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.client.client import MonitorClient
from hfsched.swap.client.errors import SwapError
from hfsched.swap.core.guestpages import GuestPages
from hfsched.swap.core.guestpages import Region as Memory
from hfsched.swap.core.pagemap import first_mapped, open_pagemap
from hfsched.swap.core.resources import pack, unpack
from hfsched.swap.core.stores import Stores
from hfsched.swap.monitor.program import ServedProcesses, monitor
from hfsched.swap.pages.entries import Staging
from hfsched.swap.pages.store import is_shortage
from hfsched.swap.protocol.messages import Region, Register, State

from . import children
from .guestmemory import PAGE, Guest, World, needs_userfault, userfault

pytestmark = needs_userfault

PAGES = 64
SECOND = 1_000_000_000


class Frozen:
    """Suspends a guest."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def suspend(self, deadline: int | None = None) -> None:
        self._guest.frozen.acquire()

    def resume(self) -> None:
        self._guest.frozen.release()


class Here:
    """This process as a member."""

    number = 0
    dynamic = False
    dead = False
    tracked: int | None = None

    def __init__(self, guest: Guest, uffd: int) -> None:
        self._guest = guest
        self._uffd = uffd
        self._pagemap = open_pagemap()
        self.regions = (Region(guest.ram.address, 0, guest.ram.size),)

    def descriptors(self) -> Sequence[int]:
        return (self._uffd,)

    def still_mapped(self, _: Callable[[int], bool]) -> int | None:
        return first_mapped(self._pagemap, self._guest.ram.address, self._guest.ram.size)

    def zap_mapped(self, _: Sequence[Run] | None = None) -> None:
        self.zap()

    def zap(self) -> None:
        self._guest.zap()


class There:
    """Another process."""

    number = 7
    dynamic = True
    dead = False
    tracked: int | None = None

    def __init__(self, child: children.Member, size: int) -> None:
        self.child = child
        self.pidfd = os.pidfd_open(children.pid_of(child.process))
        self._pagemap = open_pagemap(children.pid_of(child.process))
        self.regions = (Region(child.base, 0, size),)

    def descriptors(self) -> Sequence[int]:
        return (self.child.uffd, self.pidfd)

    def still_mapped(self, _: Callable[[int], bool]) -> int | None:
        return first_mapped(self._pagemap, self.regions[0].base, self.regions[0].size)

    def zap_mapped(self, _: Sequence[Run] | None = None) -> None:
        self.zap()

    def zap(self) -> None:
        self.child.ask(b"zap")


class Swapped:
    """A guest in this process whose monitor is the program."""

    def __init__(self, directory: Path, staging: Staging = Staging.MINOR) -> None:
        self.runtime = ThreadRuntime()
        self.guest = Guest(PAGES)
        self.stores = Stores.create(directory, PAGES, staging, 16 * PAGE)
        self.uffd = userfault()
        self.client = MonitorClient(
            self.runtime, monitor, Frozen(self.guest), pack(self.stores, [self.guest.ram.fd])
        )
        self.client.start()
        self.client.add(Here(self.guest, self.uffd))

    def wait_for(self, state: State) -> None:
        until(self.client.status, lambda found: found.state is state)

    def out(self) -> None:
        self.client.enable()
        self.client.swap_out()
        self.wait_for(State.ACTIVE)

    def close(self) -> None:
        with suppress(SwapError):
            self.client.close(discard=True)
        assert self.client.join(self.runtime.now() + QUIET_NS)
        self.guest.close()
        self.stores.close()
        os.close(self.uffd)


@pytest.fixture
def swapped(tmp_path: Path) -> Iterator[Swapped]:
    made = Swapped(tmp_path)
    yield made
    made.close()


def test_the_end_brings_everything_back(swapped: Swapped) -> None:
    swapped.out()
    swapped.client.close()
    assert swapped.client.join(swapped.runtime.now() + QUIET_NS)
    swapped.guest.check_all()


def test_a_process_that_may_die_is_served_and_collected(swapped: Swapped) -> None:
    there = There(children.Member(swapped.guest.ram.fd, PAGES), swapped.guest.ram.size)
    swapped.client.add(there)
    swapped.out()
    assert there.child.read(5) == swapped.guest.content(5, 1)
    assert swapped.client.collect() == ()
    there.child.kill()
    assert swapped.client.collect() == (7,)
    swapped.guest.check_all()
    there.child.end.close()
    os.close(there.pidfd)
    os.close(there.child.uffd)


def test_a_process_that_maps_something_else_is_refused(swapped: Swapped) -> None:
    other = Here(swapped.guest, swapped.uffd)
    other.number = 3
    other.regions = (Region(swapped.guest.ram.address, PAGE, swapped.guest.ram.size),)
    with pytest.raises(SwapError, match=r"^register: .*no VM's memory is \[0x1000, \+0x40000\)"):
        swapped.client.add(other)
    assert swapped.client.status().members == 1


@pytest.mark.parametrize("staging", Staging)
def test_resources_come_out_as_they_went_in(tmp_path: Path, staging: Staging) -> None:
    stores = Stores.create(tmp_path, 2 * PAGES, staging, 16 * PAGE)
    guests = [Guest(PAGES, 0), Guest(PAGES, 0)]
    given = pack(stores, [guest.ram.fd for guest in guests])
    assert unpack(given.words, given.fds) == (
        stores,
        [Memory(guest.ram.fd, PAGES) for guest in guests],
        None,
    )
    with pytest.raises(ValueError, match="resources table"):
        unpack(given.words[:1], given.fds[:1])
    with pytest.raises(ValueError, match="resources table"):
        unpack((*given.words, "table"), (*given.fds, stores.table))
    for guest in guests:
        guest.close()
    stores.close()


def test_a_fault_of_a_dead_monitor_is_served_by_the_next(tmp_path: Path) -> None:
    """The dead monitor has read the fault; it is read again only after the waiter is woken."""
    with World(tmp_path, PAGES) as world:
        world.enable()
        world.out()
        world.swap.close()
        waiter = threading.Thread(target=world.guest.check, args=[1], daemon=True)
        waiter.start()
        os.set_blocking(world.userfault, True)
        assert len(os.read(world.userfault, 32)) == 32
        os.set_blocking(world.userfault, False)
        region = Memory(world.guest.ram.fd, PAGES)
        world.swap = GuestPages(world.stores, [region])
        world.swap.take_over()
        world.swap.start()
        processes = ServedProcesses(world.swap, [region])
        where = Region(world.guest.ram.address, 0, world.guest.ram.size)
        register = Register(member=0, dynamic=False, zapped=True, regions=(where,))
        processes.add(register, [os.dup(world.userfault)])
        waiter.join(QUIET)
        assert not waiter.is_alive(), "it waits for ever"
        world.guest.check_all()
        world.swap.close()
        processes.close()


@pytest.mark.parametrize(
    ("dynamic", "came", "error"),
    [(False, 0, errno.EMFILE), (True, 1, errno.EMFILE), (False, 2, errno.EINVAL)],
)
def test_a_member_whose_descriptors_did_not_all_arrive_may_come_again(
    tmp_path: Path, *, dynamic: bool, came: int, error: int
) -> None:
    """The kernel drops what a process may not have any more; main always sends all."""
    with World(tmp_path, PAGES) as world:
        processes = ServedProcesses(world.swap, [Memory(world.guest.ram.fd, PAGES)])
        register = Register(member=1, dynamic=dynamic, zapped=True, regions=())
        with pytest.raises(OSError, match=f"{came} descriptors") as caught:
            processes.add(register, [world.userfault] * came)
        assert caught.value.errno == error
        assert is_shortage(caught.value) == (error == errno.EMFILE)
