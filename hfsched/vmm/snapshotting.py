"""A suspended machine as a layer of a snapshot, and a machine of a snapshot again.

Memory is copied while the machine stands still, and read whole before it runs again.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import msgspec

from hfsched import __version__
from hfsched.errors import SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.chain import ZERO_PAGE, Chain
from hfsched.snapshot.index import Component, MachineIdentity, Parent
from hfsched.snapshot.layer import LayerWriter, Subject, Vm
from hfsched.swap.report.footprint import held
from hfsched.text import one_line
from hfsched.vmm import saving
from hfsched.vmm.attempt import Base, Watch
from hfsched.vmm.generation import signal_change
from hfsched.vmm.records import MACHINE_RECORD, READABLE, MachineRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hfsched.memory.dirty import DirtyPages
    from hfsched.memory.ram import Ram
    from hfsched.memory.writeprotect import Run
    from hfsched.vmm.assembly import AssembledVm
    from hfsched.vmm.attempt import Wish
    from hfsched.vmm.lazy import LazyMemory
    from hfsched.vmm.machine import Machine

__all__ = ["COPIED_MAX", "Capture", "record_of", "restore", "subject_of"]

MACHINE = "machine"  # the component that has the machine's record
_PART = 256  # pages that are read and written at once
COPIED_MAX = 256 << 20  # bytes
HOT_MAX = 1 << 14  # runs
_NOWHERE = 1 << 62  # a page number beyond all


def subject_of(machine: Machine, created: int) -> Subject:
    """Return what a layer is of that is made at a time (ns since 1970); the VMs are of one architecture.

    Raises SnapshotError for a machine of several.
    """
    architectures = {made.architecture for made in machine.made.values()}
    if len(architectures) != 1:
        raise SnapshotError(f"guests of {' and '.join(sorted(architectures))} in one machine")
    space = machine.assembly.vms[0].record.space
    identity = MachineIdentity(architectures.pop(), space.counter_hz)
    vms = tuple(_vm(machine, vm) for vm in machine.assembly.vms)
    return Subject(__version__, created, identity, vms)


def _vm(machine: Machine, vm: AssembledVm) -> Vm:
    return Vm(
        vm.name, vm.record.dialect.name, machine.made[vm.name].base, machine.rams[vm.name].size
    )


class Capture:
    """A machine on its way into a layer: made while it runs, `copy` is for its suspension, `finish` comes after it.

    `files` are {pages, index}.  Memory is copied, up to `COPIED_MAX` bytes, and what is more is written at once.
    Room for as much as is `expected`, in pages (None: all there is), is had in advance.  Raises UserError for a
    machine that cannot be saved.
    """

    def __init__(
        self,
        machine: Machine,
        files: tuple[int, int],
        wish: Wish,
        expected: int | None = None,
        watch: Watch = Watch(),  # noqa: B008 - it cannot be changed
    ) -> None:
        for vm, made in machine.made.items():
            if made.engine == "script":
                raise SnapshotError(f"vm {vm}: a Python guest cannot be saved: give a guest image")
        subject = subject_of(machine, wish.created)
        self._machine = machine
        self._writer = LayerWriter(
            wish.called, *files, subject, codec=wish.codec, **watch._asdict()
        )
        self._copies: list[tuple[int, int, memoryview]] = []  # number of the VM, first page, pages
        self._left = COPIED_MAX // PAGE_SIZE
        if expected is None:
            rams = machine.rams.values()
            expected = sum(
                end - first for ram in rams for first, end in held(ram.fd, ram.size // PAGE_SIZE)
            )
        self._room = _room(min(expected, self._left))

    def copy(
        self,
        deadline: int | None = None,
        base: Base | None = None,
        dirty: DirtyPages | None = None,
    ) -> None:
        """Copy the machine, whose suspension the caller holds, frozen: what is `dirty` since `base`, or all of it.

        Raises UserError (SnapshotError) if it cannot be saved by the deadline (ns), or written.
        """
        machine = self._machine
        if base is not None and dirty is not None:
            self._writer.parent = Parent(base.name, base.hash)
        self._record = saving.save(machine, deadline)
        self._hot = hot_pages(machine, dirty)
        for number, vm in enumerate(machine.assembly.vms):
            ram = machine.rams[vm.name]
            runs = [(0, ram.size // PAGE_SIZE)] if dirty is None else dirty.runs[vm.name]
            for first, count, zero in _parted(ram, runs, sparse=machine.swap is None):
                if zero:
                    self._writer.put_zeros(number, first, count)
                else:
                    self._take(ram, number, first, count)

    def _take(self, ram: Ram, vm: int, first: int, count: int) -> None:
        while count:
            part = min(count, self._left)
            if part:
                room = self._reserved(part)
                part = len(room) // PAGE_SIZE
                ram.copy_out(first * PAGE_SIZE, room)
                self._copies.append((vm, first, room))
                self._left -= part
            else:
                part = min(count, _PART)
                self._writer.put(vm, first, ram.read(first * PAGE_SIZE, part * PAGE_SIZE))
            first += part
            count -= part

    def _reserved(self, pages: int) -> memoryview:
        """Return room for so many pages; fewer where that is what is left of it."""
        if not self._room:
            return _room(pages)
        room = self._room[: pages * PAGE_SIZE]
        self._room = self._room[len(room) :]
        return room

    def finish(self) -> tuple[bytes, tuple[str, ...]]:
        """Write what was copied; return the index's hash, and what the user may want to know.

        Raises SnapshotError.
        """
        for vm, first, pages in self._copies:
            self._writer.put(vm, first, pages)
        self._copies.clear()
        record = Component(MACHINE_RECORD, msgspec.msgpack.encode(self._record))
        found = self._writer.finish({MACHINE: record}, self._hot)
        return found, () if self._writer.warning is None else (self._writer.warning,)


def hot_pages(machine: Machine, dirty: DirtyPages | None) -> list[tuple[int, int, int]]:
    """Return runs {number of the VM, first page, pages} of what the guests touched shortly before, as far as is known.

    The last faults on memory that was out come first, the last one at the front, then what was written since
    the last snapshot.
    """
    numbers = {vm.name: number for number, vm in enumerate(machine.assembly.vms)}
    hot: dict[tuple[int, int], None] = {}
    if machine.swap is not None:
        for _, vm, offset in reversed(list(machine.swap.faults())):
            hot[numbers[vm], offset // PAGE_SIZE] = None
    made = [(number, page, 1) for number, page in hot]
    if dirty is not None:
        for vm, runs in dirty.runs.items():
            made += [(numbers[vm], first, count) for first, count in runs]
    return made[:HOT_MAX]


def _room(pages: int) -> memoryview:
    """Return memory that is there: none of it is touched for the first time later."""
    if not pages:
        return memoryview(b"")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    return memoryview(mmap.mmap(-1, pages * PAGE_SIZE, flags=flags))


def _parted(ram: Ram, runs: Iterable[Run], *, sparse: bool) -> Iterator[tuple[int, int, bool]]:
    """Yield {first page, pages, zero} of runs of pages, which come in order.

    With `sparse`, what is not allocated is zero, and is not read, which would allocate it.
    """
    if not sparse:
        yield from ((first, count, False) for first, count in runs)
        return
    there = held(ram.fd, ram.size // PAGE_SIZE)
    begin = end = 0
    for first, count in runs:
        at, last = first, first + count
        while at < last:
            while end <= at:
                begin, end = next(there, (_NOWHERE, _NOWHERE + 1))
            until = min(last, end if begin <= at else begin)
            yield at, until - at, begin > at
            at = until


def record_of(chain: Chain) -> MachineRecord:
    """Return the record of the machine that a snapshot is of; raises SnapshotError."""
    name = chain.newest.name
    component = chain.state.get(MACHINE)
    if component is None:
        raise SnapshotError(f"{name}: it has no machine's state")
    if component.version not in READABLE:
        raise SnapshotError(
            f"{name}: a machine's state of version {component.version}: up to {MACHINE_RECORD} is known here"
        )
    try:
        return msgspec.msgpack.decode(component.data, type=MachineRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise SnapshotError(f"{name}: not a machine's state: {one_line(str(exc), 200)}") from None


def restore(
    chain: Chain,
    record: MachineRecord,
    make: Callable[[MachineRecord, LazyMemory | None], Machine],
    passed: int = 0,
    *,
    name: str | None = None,
    lazy: LazyMemory | None = None,
) -> Machine:
    """Return the machine of a snapshot, ready to be started.

    `record` is that of `record_of`; `make` makes a machine with it, and with `lazy` memory, which owns the chain then
    (`Machine(..., saved=record, lazy=lazy)`); without that all memory is read here.  The guests'
    counters go on from where they were, `passed` ns later.  Raises
    SnapshotError (UserError) for a snapshot of something else, or a damaged one; then it is closed.
    What changes from here on is known to its `snapshots` by the `name` of the snapshot's directory; None: it is not.
    """
    machine = make(record, lazy)
    try:
        subject = subject_of(machine, 0)
        chain.check_machine(subject.machine, subject.vms)
        if lazy is None:
            for vm in machine.assembly.vms:
                _fill(machine.rams[vm.name], chain, chain.number(vm.name))
        saving.restore(machine, record, passed)
        signal_change(vm for vm in machine.assembly.vms if machine.made[vm.name].generation)
        if name is not None:
            machine.snapshots.begin_at(Base(name, chain.newest.hash))
    except BaseException:
        machine.close()
        raise
    return machine


def _fill(ram: Ram, chain: Chain, vm: int) -> None:
    """Write a VM's stored pages; what is zero is zero in new memory."""
    for first, count, place in chain.places(vm):
        if place == ZERO_PAGE:
            continue
        offset = first * PAGE_SIZE
        for part in chain.parts(place, count):
            ram.write(offset, bytes(part))
            offset += len(part)
