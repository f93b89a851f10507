"""A suspended machine as a layer of a snapshot, and a machine of a snapshot again.

Memory is copied while the machine stands still, wherever it is, and read whole before it runs again.
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
from hfsched.text import one_line
from hfsched.vmm import saving
from hfsched.vmm.attempt import Base, Watch
from hfsched.vmm.devices import first_device
from hfsched.vmm.generation import signal_change
from hfsched.vmm.livememory import LiveMemory
from hfsched.vmm.records import MACHINE_RECORD, READABLE, MachineRecord
from hfsched.vmm.snapshotmemory import MappedMemory, SnapshotMemory, SwappedMemory, stops_and_copies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
        device = first_device(machine.spec)
        if device is not None:
            _check_devices(device, wish)
        subject = subject_of(machine, wish.created)
        self._machine = machine
        self._writer = LayerWriter(
            wish.called, *files, subject, codec=wish.codec, **watch._asdict()
        )
        self._memory, self._notices = _memory_of(machine, wish)
        if device is not None:
            self._notices += (
                f"{device}: what its back-end keeps elsewhere is not in {wish.called}",
            )
        # Of pages that are written at the end.
        self._runs: Mapping[str, Sequence[Run]] = {}
        self._copies: list[tuple[int, int, memoryview]] = []  # number of the VM, first page, pages
        self._dirty: DirtyPages | None = None
        self._left = COPIED_MAX // PAGE_SIZE
        self._expected = expected
        self._room = _room(0)
        self._live: LiveMemory | None = None  # the memory, if it is kept and not copied
        self._written: memoryview | None = None  # pages that are written at once

    def prepare(self, deadline: int | None = None) -> tuple[str, ...]:
        """Make ready for `copy`, while the machine runs; return what the user may want to know; raises SnapshotError."""
        memory = self._memory
        notices = self._notices + memory.prepare(deadline)
        if isinstance(memory, LiveMemory) and memory.live:
            self._live = memory
        else:
            expected = memory.expected() if self._expected is None else self._expected
            self._room = _room(min(expected, self._left))
        return notices

    def copy(
        self,
        deadline: int | None = None,
        base: Base | None = None,
        dirty: DirtyPages | None = None,
    ) -> None:
        """Copy the machine, whose suspension the caller holds, frozen: what is `dirty` since `base`, or all of it.

        What is live is kept as it is, and not copied.
        Raises UserError (SnapshotError) if it cannot be saved by the deadline (ns), or written.
        """
        machine = self._machine
        if base is not None and dirty is not None:
            self._writer.parent = Parent(base.name, base.hash)
        self._record = saving.save(machine, deadline)
        self._dirty = dirty
        runs: Mapping[str, Sequence[Run]] = {
            name: [(0, ram.size // PAGE_SIZE)] for name, ram in machine.rams.items()
        }
        if dirty is not None:
            runs = dirty.runs
        if self._live is not None:
            self._live.keep(deadline, runs)
            self._runs = runs
            return
        self._memory.settle(deadline)
        for number, vm in enumerate(machine.assembly.vms):
            for first, count, zero in self._memory.parts(vm.name, runs[vm.name]):
                if zero:
                    self._writer.put_zeros(number, first, count)
                else:
                    self._take(number, vm.name, first, count)

    def _take(self, vm: int, name: str, first: int, count: int) -> None:
        """Copy pages of a VM, or write them where there are too many."""
        while count:
            copied = min(count, self._left)
            if copied and not self._room:
                self._room = _room(min(copied, _PART))
            room = self._room[: copied * PAGE_SIZE] if copied else self._scratch(count)
            done, zero = self._memory.read(name, first, room)
            if zero:
                self._writer.put_zeros(vm, first, done)
            elif copied:
                self._copies.append((vm, first, room[: done * PAGE_SIZE]))
                self._room = self._room[done * PAGE_SIZE :]
                self._left -= done
            else:
                self._writer.put(vm, first, room[: done * PAGE_SIZE])
            first += done
            count -= done

    def _scratch(self, pages: int) -> memoryview:
        """Return room for as many of so many pages as are written at once."""
        if self._written is None:
            self._written = _room(_PART)
        return self._written[: pages * PAGE_SIZE]

    def finish(self) -> tuple[bytes, tuple[str, ...]]:
        """Write what was copied or kept; return the index's hash, and what the user may want to know.

        Raises UserError (SnapshotError).
        """
        if self._live is not None:
            self._write_kept(self._live)
        self._memory.close()
        for vm, first, pages in self._copies:
            self._writer.put(vm, first, pages)
        self._copies.clear()
        record = Component(MACHINE_RECORD, msgspec.msgpack.encode(self._record))
        # When the guests run again: it takes as long as a pause.
        hot = hot_pages(self._machine, self._dirty)
        found = self._writer.finish({MACHINE: record}, hot)
        return found, () if self._writer.warning is None else (self._writer.warning,)

    def _write_kept(self, memory: LiveMemory) -> None:
        room = _room(_PART)
        for number, vm in enumerate(self._machine.assembly.vms):
            for first, count, pages in memory.taken(vm.name, self._runs[vm.name], room):
                if pages is None:
                    self._writer.put_zeros(number, first, count)
                else:
                    self._writer.put(number, first, pages)

    def close(self) -> None:
        """Free everything; swap moves pages again."""
        self._memory.close()


def _check_devices(device: str, wish: Wish) -> None:
    """Raise SnapshotError for a snapshot that needs to know what back-ends write."""
    for asked, what in ((wish.live, "live"), (wish.incremental, "incremental")):
        if asked:
            raise SnapshotError(
                f"{device}: no {what} snapshot: what its back-end writes is not seen"
            )


def _memory_of(machine: Machine, wish: Wish) -> tuple[SnapshotMemory, tuple[str, ...]]:
    """Return a machine's memory as a snapshot reads it, and what the user may want to know."""
    if machine.swap is None:
        if not wish.live:
            return MappedMemory(machine.rams), ()
        why = "it was started without --swap-dir, so nothing serves page faults"
        return MappedMemory(machine.rams), (stops_and_copies(wish.called, why),)
    if wish.live or (wish.parent is not None and not wish.held):
        return LiveMemory(machine.swap, wish, machine.rams, stages=wish.live), ()
    return SwappedMemory(machine.swap, wish, machine.rams), ()


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
