"""Swap for the memory of a machine's VMs: `hfsched.swap` put together for a machine.

One monitor serves all VMs, and a command moves the memory of all: the guests are suspended together.
Nothing is moved automatically here; `hfsched.vmm.swapidle` is a policy that does.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hfsched.errors import UserError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.scheduler.suspension import Holder
from hfsched.swap.client.arrivals import Arrival
from hfsched.swap.client.client import MonitorClient
from hfsched.swap.client.errors import SwapError
from hfsched.swap.client.memberset import MemberSet
from hfsched.swap.client.newcomers import Newcomers
from hfsched.swap.client.suspension import suspended
from hfsched.swap.core.faultlog import Fault
from hfsched.swap.protocol.messages import reply_text
from hfsched.swap.report.footprint import held
from hfsched.swap.report.picture import CELL, mark_empty, picture
from hfsched.vmm.lazy import Damage, Preparation
from hfsched.vmm.swapkernel import SwapKernel, parts_of

if TYPE_CHECKING:
    from hfsched.memory.dirty import DirtyTracker, TrackedProcess
    from hfsched.memory.ram import Ram
    from hfsched.runtime.base import End, Runtime
    from hfsched.scheduler.suspension import Suspension
    from hfsched.swap.core.pagereader import OwedPages
    from hfsched.swap.protocol.messages import Status
    from hfsched.vmm.lazy import LazyMemory

__all__ = ["MachineSwap"]

# Clocks: the guests are paused meanwhile; and an end must come although the monitor is stopped.
_ENABLE_WITHIN = 10_000_000_000  # ns
_CLOSE_WITHIN = 5_000_000_000  # ns
_PAUSE = 1_000_000  # ns: a fault that is being served takes less


class MachineSwap:
    """Created before the guests run; `close` it when they have stopped.

    Only main, and processes added by `add_process`, and their children, may have guest memory mapped.

    The swap file is in `directory`; None: there is none, and `swap_out` is refused.  `members` are
    the other processes that map guest memory, a step of `suspension`; `kernel`: the kernel accesses
    guest memory too (KVM), which takes more privileges to serve.  `backing` is called as `SwapKernel` is.
    With `lazy` memory comes out of a snapshot as it is accessed; `on_damage(vm, why)` is called on the client's
    task when some of a VM's cannot: it must have the VM's vCPUs fail, and not block.
    Raises UserError for requirements that this machine does not meet.  When the monitor dies and none
    can be started, the client's task ends with a UserError, which the runtime reports, unless all
    memory is in.
    """

    def __init__(
        self,
        runtime: Runtime,
        directory: Path | None,
        rams: Mapping[str, Ram],
        suspension: Suspension,
        members: MemberSet,
        *,
        kernel: bool,
        lazy: LazyMemory | None = None,
        on_damage: Callable[[str, str], None] = lambda _vm, _why: None,
        backing: Callable[..., SwapKernel] = SwapKernel,
    ) -> None:
        self._runtime = runtime
        self.dirty: DirtyTracker | None = None  # set before the machine starts
        self._memfds = {name: ram.fd for name, ram in rams.items()}
        self.sizes = {name: ram.size // PAGE_SIZE for name, ram in rams.items()}  # pages
        with ExitStack() as stack:
            self._lazy = lazy
            self._parts = parts_of(rams)
            stored = damage = None
            if lazy is not None:
                stack.callback(lazy.close)
                stored = lazy.open(rams)
            self.backing = backing(directory, rams, kernel=kernel, stored=stored)
            stack.callback(self.backing.close)
            if lazy is not None and stored is not None:
                event = runtime.adopt_eventfd("swap.alarm", os.dup(stored.alarm))
                damage = Damage(event, self.backing.damaged, self._place, lazy.why, on_damage)
                stack.callback(damage.close)
            self._members = members
            self._newcomers = Newcomers(
                runtime, self._add_newcomer, self._room, self.backing.candidate
            )
            hold = Holder(suspension, "swap", frozen=True)
            self._hold = hold
            self.client = MonitorClient(
                runtime,
                self.backing.program,
                hold,
                self.backing.resources,
                on_lost=_lost,
                on_unserved=self._unserved,
                needed=self.backing.needed,
                staged=self.backing.staged,
                alarm=damage,
            )
            self.footprint = self.backing.footprint(self.client.monitor_pid)
            try:
                self._start_client()
            except SwapError as exc:
                raise UserError(str(exc)) from exc
            self._stack = stack.pop_all()

    def _start_client(self) -> None:
        members = [self.backing.main()]
        if self._lazy is None:
            self.client.start(members)
            return
        with Preparation(self._runtime, self.backing.fill, self.backing.protect) as prepared:
            self.client.start(members, fill=prepared.wait_filled, meanwhile=prepared.wait_protected)

    def close(self) -> None:
        """End the monitor, and discard what is swapped out.

        If the client's task is still busy, the descriptors that it may hand over stay open.  If a process is being added, or a
        command is not through, so do the channels to processes too, which its task may use: they end with main.
        """
        calm = self._calm()
        if calm:  # what is out stays out
            self._members.suspend_processes(self._runtime.now() + _CLOSE_WITHIN)
        with suppress(SwapError):  # the monitor is lost, or busy
            self.client.close(self._runtime.now() + _CLOSE_WITHIN, discard=True)
        ended = self.client.join(self._runtime.now() + _CLOSE_WITHIN)
        calm = calm or self._calm()  # who has waited for the monitor has an answer now
        if calm:
            self._members.leave()
        if ended and calm:
            self._members.close()
            self._stack.close()

    def _calm(self) -> bool:
        """Let nobody begin to use the processes; return whether all who did have ended, after a while."""
        used, newcomers = self._members.in_use, self._newcomers
        newcomers.end()
        # In this order: who uses them may have a process listened to, or forgotten.
        return used.end(self._runtime.now() + _CLOSE_WITHIN) and newcomers.close(
            self._runtime.now() + _CLOSE_WITHIN
        )

    def add_process(
        self,
        name: str,
        end: End,
        pagemap: int | None,
        vms: Sequence[str] | None = None,
        *,
        dynamic: bool = True,
        deadline: int | None = None,
    ) -> None:
        """Give a process the memory of VMs (None: of all), and serve its faults from then on.

        `end` is this side of the channel whose other end its `hfsched.swap.child.child.Child` has.
        `pagemap` has its page tables: the process that forks it opens them, by `open_pagemap`.  This
        object takes both over and closes them in the end, also when this raises; the process then
        treats main as gone.  The process is suspended from now on whenever swap suspends the
        machine.  A `dynamic` process may die, and is removed then; after the death of one that is
        not, Enable is refused.  The machine is suspended for a moment.  The process may start others,
        which are added without a call (`Child.start_child`).  Raises SwapError, SuspendError.
        """
        names = list(self.sizes) if vms is None else vms
        new = Arrival(name, end, pagemap, None, names, dynamic)
        self._add(new, self._runtime.now() + _ENABLE_WITHIN if deadline is None else deadline)

    def _add_newcomer(self, new: Arrival) -> None:
        """Add a process that another one has started."""
        self._add(new, self._runtime.now() + _ENABLE_WITHIN)

    def _add(self, new: Arrival, deadline: int) -> None:
        with ExitStack() as given:
            given.callback(new.end.close)
            closing = given.enter_context(ExitStack())
            for fd in (new.pagemap, new.pidfd):
                if fd is not None:
                    closing.callback(os.close, fd)
            with self._members.in_use.used(), ExitStack() as undo:
                undo.push(given.pop_all())
                self._take_in(new, deadline, undo, closing)

    def _take_in(self, new: Arrival, deadline: int, undo: ExitStack, closing: ExitStack) -> None:
        """Add a process; what it has is closed by `undo`, its descriptors by `closing`, until they are the member's."""
        self._collect(deadline)
        hears, announces = self.backing.announcing(self._runtime)
        undo.callback(hears.close)
        undo.callback(announces.close)
        closing.pop_all()  # the member closes them
        wanted = set(new.vms)
        process = self.backing.child(
            self._runtime,
            new.name,
            new.end,
            [part for part in self._parts if part.name in wanted],
            deadline,
            pagemap=new.pagemap,
            pidfd=new.pidfd,
            announces=announces.fileno(),
            dynamic=new.dynamic,
        )
        announces.close()
        undo.callback(process.close)
        self._newcomers.listen(process, hears, new.vms)
        undo.callback(self._newcomers.forget, process)
        with suspended(self._hold, deadline):
            process.number = self._members.free_number()
            self.client.add(process, deadline)
            self._members.add(process)
            undo.pop_all()
            if self.dirty is not None:
                self.dirty.add(self.backing.tracked_process(process))

    def _room(self) -> int:
        """Return how many more processes can be served, when dead ones are removed."""
        known = len(self._members.processes) - len(self._members.dead())
        return self.backing.members_max() - 1 - known

    def collect(self, deadline: int | None = None) -> None:
        """Remove the dynamic processes that have died; raises SwapError, SuspendError."""
        with self._members.in_use.used():
            self._collect(deadline)

    def _collect(self, deadline: int | None) -> None:
        if self._members.dead():
            with suspended(self._hold, deadline):
                dead = self._members.dead()
                self.client.collect(deadline)
                for process in dead:
                    self._newcomers.forget(process)
                self._members.remove(dead)

    def start(self) -> None:
        """Begin to bring in what the guests do not access, of memory that comes out of a snapshot."""
        if self._lazy is not None and self._lazy.fill:
            with suppress(SwapError):  # the monitor is being replaced; faults bring what is needed
                self.client.disable()

    def enable(self, deadline: int | None = None) -> int:
        """Suspend the machine and stage its memory; return how many pages.

        Raises SwapError or SuspendError; then the guests keep running.
        """
        if deadline is None:
            deadline = self._runtime.now() + _ENABLE_WITHIN
        with self._members.in_use.used():
            self._collect(deadline)
            self.footprint.mark()
            return self.client.enable(deadline)

    def swap_out(self, deadline: int | None = None) -> None:
        """Begin to move staged pages out; see `MonitorClient.swap_out`."""
        self.client.swap_out(deadline)

    def discard(self, vm: str, offset: int, size: int, deadline: int | None = None) -> None:
        """Make `size` bytes of a VM's memory zero, from byte `offset`, and give them back.

        Both are multiples of 4096, within its memory.  See `MonitorClient.discard`.
        """
        first, count = offset // PAGE_SIZE, size // PAGE_SIZE
        with self._discarding(vm, first, count):
            self.client.discard(self.first_page(vm) + first, count, deadline)

    def _discarding(self, vm: str, first: int, count: int) -> AbstractContextManager[None]:
        return nullcontext() if self.dirty is None else self.dirty.discarding(vm, first, count)

    def _unserved(self) -> None:
        if self.dirty is not None:
            self.dirty.let_go()

    def hold(self, snapshot: str, deadline: int | None = None) -> None:
        """Move nothing until `go_on`, for a snapshot of this name; see `MonitorClient.hold`."""
        why = f"the snapshot {snapshot} is being taken: wait for it, or `hfsched snapshot cancel`"
        in_use = self._members.in_use
        in_use.must_enter()
        with ExitStack() as undo:
            undo.callback(in_use.leave)
            self.client.hold(reply_text(why), deadline)
            undo.pop_all()  # `go_on` leaves

    def go_on(self, *, unstage: bool = False, release: bool = False) -> None:
        """End what `hold` has begun; see `MonitorClient.go_on`."""
        try:
            self.client.go_on(unstage=unstage, release=release)
        finally:
            self._members.in_use.leave()

    def reader(self) -> OwedPages:
        """Return what reads pages where they are, by their numbers, while nothing is moved."""
        return self.backing.reader(lambda: self._runtime.sleep_until(self._runtime.now() + _PAUSE))

    def first_page(self, vm: str) -> int:
        """Return the number of a VM's first page."""
        return next(part.offset for part in self._parts if part.name == vm) // PAGE_SIZE

    def tracked(self) -> list[TrackedProcess]:
        """Return all processes that map guest memory, as their dirty pages are tracked."""
        with self._members.in_use.used():
            return self.backing.tracked(self._members.processes)

    def status(self, deadline: int | None = None) -> Status:
        """Return the status; see `MonitorClient.status`."""
        return self.client.status(deadline)

    def faults(self, since: int = 0) -> Iterator[tuple[Fault, str, int]]:
        """Yield the last faults that were served, with the VM and the byte of its memory, oldest first.

        See `hfsched.swap.core.faultlog`.  Also while there is no monitor.
        """
        for fault in self.backing.faults(since):
            vm, page = self._place(fault.page)
            yield fault, vm, page * PAGE_SIZE

    def why_unreadable(self, vm: str, page: int) -> str | None:
        """Return why a page of a VM cannot be read from the snapshot that has it, None if it can, or is not there."""
        return None if self._lazy is None else self._lazy.why(vm, page)

    def _place(self, page: int) -> tuple[str, int]:
        """Return the VM of a page of all, and which page of its memory that is."""
        starts = [part.offset for part in self._parts]
        part = self._parts[bisect_right(starts, page * PAGE_SIZE) - 1]
        return part.name, page - part.offset // PAGE_SIZE

    def pictures(self, names: Sequence[str] = (), cell: int = CELL) -> dict[str, str]:
        """Return pictures of these VMs (default: all), a character for each `cell` pages."""
        made, first = {}, 0
        wanted = set(names) or self.sizes.keys()
        states = self.backing.states()
        for name, pages in self.sizes.items():
            if name in wanted:
                there = held(self._memfds[name], pages)
                made[name] = picture(mark_empty(states[first : first + pages], there), cell)
            first += pages
        return made


def _lost(why: str) -> None:
    raise UserError(f"{why}: guests that access memory that is out will not continue")
