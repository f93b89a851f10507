"""A full layer and its incremental ones, read together: each page is in the newest layer that has it."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hfsched.errors import InternalError, SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.codec import FRAME_PAGES
from hfsched.snapshot.index import ZERO, Component, Index, MachineIdentity, Runs
from hfsched.snapshot.layer import Layer, Vm
from hfsched.text import one_line

__all__ = ["ZERO_PAGE", "Chain", "Places", "split_place"]

ZERO_PAGE = (1 << 64) - 1  # an entry of `Chain.table`
_ZEROS = bytes(PAGE_SIZE)
_LAYER_BITS = 32
_KEPT = 16  # frames that a reader keeps


@dataclass(frozen=True, slots=True)
class Places:
    """Where a VM's pages are, by runs in order of pages, without holes.

    A place is number of the layer << 32 | position, or `ZERO_PAGE`; the oldest layer is number 0.
    """

    firsts: array[int] = field(default_factory=lambda: array("Q"))
    counts: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))

    def find(self, page: int) -> int:
        """Return the place of a page."""
        run = bisect_right(self.firsts, page) - 1
        place = self.places[run]
        return place if place == ZERO_PAGE else place + page - self.firsts[run]

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.firsts, self.counts, self.places, strict=True)

    def _add(self, first: int, end: int, place: int) -> None:
        """Add the pages from `first` to `end`, exclusive, after all others."""
        if first >= end:
            return
        if self.firsts and self.firsts[-1] + self.counts[-1] == first:
            before = self.places[-1]
            if before == place == ZERO_PAGE or (
                ZERO_PAGE not in (before, place) and before + self.counts[-1] == place
            ):
                self.counts[-1] += end - first
                return
        self.firsts.append(first)
        self.counts.append(end - first)
        self.places.append(place)

    def _add_part(self, run: tuple[int, int, int], first: int, end: int) -> None:
        """Add what a run has from page `first` to `end`."""
        place = run[2] if run[2] == ZERO_PAGE else run[2] + first - run[0]
        self._add(first, end, place)

    def under(self, newer: Iterator[tuple[int, int, int]]) -> Places:
        """Return what results where another layer's runs replace these."""
        made = Places()
        runs = iter(self)
        run = next(runs, None)
        at = 0  # pages before this one are done
        for first, count, place in newer:
            while run is not None and run[0] < first:
                end = run[0] + run[1]
                made._add_part(run, max(at, run[0]), min(end, first))
                if end > first:
                    break
                run = next(runs, None)
            made._add(first, first + count, place)
            at = first + count
            while run is not None and run[0] + run[1] <= at:
                run = next(runs, None)
        while run is not None:
            made._add_part(run, max(at, run[0]), run[0] + run[1])
            run = next(runs, None)
        return made


def split_place(place: int) -> tuple[int, int]:
    """Return {number of the layer, position there} of a place that is not `ZERO_PAGE`."""
    return place >> _LAYER_BITS, place & (1 << _LAYER_BITS) - 1


def _runs_of(number: int, runs: Runs) -> Iterator[tuple[int, int, int]]:
    base = number << _LAYER_BITS
    for first, count, position in zip(runs.firsts, runs.counts, runs.positions, strict=True):
        yield first, count, ZERO_PAGE if position == ZERO else base + position


def _rising(first: int, count: int) -> bytes:
    """Return u64 from `first` on, doubled by adding to all of them at once, as one long integer."""
    made, size = first.to_bytes(8, "little"), 1
    while size < count:
        ones = int.from_bytes((1).to_bytes(8, "little") * size, "little")
        made += (int.from_bytes(made, "little") + size * ones).to_bytes(8 * size, "little")
        size *= 2
    return made[: 8 * count]


def _full(runs: Runs) -> Places:
    """Return the places of a full layer, which is number 0."""
    places = [ZERO_PAGE if position == ZERO else position for position in runs.positions]
    return Places(array("Q", runs.firsts), array("Q", runs.counts), array("Q", places))


class Chain:
    """Layers that belong together, the full one first; it owns them, until `close`.

    Raises SnapshotError for layers that do not.  `read` is for one thread; `Layer.frame`, `places` and
    `table` are for any.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        try:
            _check(self.layers)
        except BaseException:
            self.close()
            raise
        self._frames: dict[tuple[int, int], bytearray] = {}
        self._places: dict[int, Places] = {}

    @property
    def newest(self) -> Layer:
        """The layer that the snapshot is named by."""
        return self.layers[-1]

    @property
    def index(self) -> Index:
        """The newest layer's."""
        return self.newest.index

    @property
    def state(self) -> dict[str, Component]:
        """The state of the components: the newest layer's, all of it."""
        return self.index.state

    def check_sizes(self) -> None:
        """Raise SnapshotError unless each layer has all of its file `pages`."""
        for layer in self.layers:
            if (wrong := layer.size_problem()) is not None:
                raise SnapshotError(wrong)

    def number(self, vm: str) -> int:
        """Return a VM's number; raises SnapshotError where the snapshot has none of that name."""
        for number, each in enumerate(self.index.vms):
            if each.name == vm:
                return number
        raise SnapshotError(f"{self.newest.name}: no VM {one_line(vm, 64)}")

    def check_machine(self, machine: MachineIdentity, vms: Sequence[Vm]) -> None:
        """Raise SnapshotError, which names the difference, unless it is a snapshot of such a machine.

        A `counter_hz` that the machine can take over is the caller's to replace.
        """
        name = self.newest.name
        for what, theirs, ours in _differences(self.index.machine, machine):
            raise SnapshotError(f"{name}: of another machine: {what} {theirs}, here {ours}")
        here = {vm.name: vm for vm in vms}
        for each in self.index.vms:
            vm = here.pop(each.name, None)
            if vm is None:
                raise SnapshotError(f"{name}: VM {one_line(each.name, 64)} is missing here")
            for what, theirs, ours in _differences(each, vm, ("dialect", "base", "size")):
                raise SnapshotError(f"{name}: VM {vm.name}: {what} {theirs}, here {ours}")
        for missing in here:
            raise SnapshotError(f"{name}: has no VM {missing}")

    def places(self, vm: int) -> Places:
        """Return where the pages of VM number `vm` are."""
        made = self._places.get(vm)
        if made is None:
            made = _full(self.layers[0].layout.runs[vm])
            for number, layer in enumerate(self.layers[1:], 1):
                made = made.under(_runs_of(number, layer.layout.runs[vm]))
            self._places[vm] = made
        return made

    def table(self, vm: int) -> array[int]:
        """Return the place of each page of VM number `vm`, 8 bytes a page."""
        # Cut out of the places of all stored pages: runs are short, and a number at a time is slow.
        rising = [
            _rising(number << _LAYER_BITS, layer.index.pages)
            for number, layer in enumerate(self.layers)
        ]
        places = self.places(vm)
        zeros = b"\xff" * 8 * max(places.counts)
        low = (1 << _LAYER_BITS) - 1
        table = array("Q")
        table.frombytes(
            b"".join(
                zeros[: 8 * count]
                if place == ZERO_PAGE
                else rising[place >> _LAYER_BITS][8 * (place & low) : 8 * ((place & low) + count)]
                for _, count, place in places
            )
        )
        return table

    def read(self, place: int) -> memoryview | bytes:
        """Return the page at a place; raises SnapshotError, which names the frame."""
        return _ZEROS if place == ZERO_PAGE else next(self.parts(place, 1))

    def parts(self, place: int, count: int) -> Iterator[memoryview]:
        """Return so many stored pages from a place on, by frames; raises SnapshotError."""
        number, position = split_place(place)
        while count:
            frame, slot = divmod(position, FRAME_PAGES)
            part = min(count, FRAME_PAGES - slot)
            data = self._frame(number, frame)
            yield memoryview(data)[slot * PAGE_SIZE : (slot + part) * PAGE_SIZE]
            position += part
            count -= part

    def _frame(self, number: int, frame: int) -> bytearray:
        data = self._frames.get((number, frame))
        if data is None:
            data = self.layers[number].frame(frame)
            while len(self._frames) >= _KEPT:
                del self._frames[next(iter(self._frames))]
            self._frames[number, frame] = data
        return data

    def read_page(self, vm: int, page: int) -> memoryview | bytes:
        """Return a page of VM number `vm`; raises SnapshotError."""
        if not 0 <= page < self.index.vms[vm].size // PAGE_SIZE:
            raise InternalError(f"page {page} of VM {vm}: there is none")
        return self.read(self.places(vm).find(page))

    def close(self) -> None:
        """Close the layers."""
        for layer in self.layers:
            layer.close()


def _differences(
    one: object, other: object, names: Sequence[str] = ("architecture", "counter_hz")
) -> Iterator[tuple[str, object, object]]:
    for name in names:
        theirs, ours = getattr(one, name), getattr(other, name)
        if theirs != ours:
            what = name.replace("_", " ")
            hexadecimal = name == "base"
            yield what, hex(theirs) if hexadecimal else theirs, hex(ours) if hexadecimal else ours


def _check(layers: Sequence[Layer]) -> None:
    first = layers[0]
    if first.index.parent is not None:
        missing = one_line(first.index.parent.name, 80)
        raise SnapshotError(f"{first.name}: a hole in the chain: its parent {missing} is missing")
    for older, newer in pairwise(layers):
        parent = newer.index.parent
        if parent is None:
            raise SnapshotError(f"{newer.name}: a full layer: {older.name} is not its parent")
        if parent.hash != older.hash:
            raise SnapshotError(
                f"{newer.name}: a foreign parent: {older.name} has hash {older.hash.hex()[:16]},"
                f" not {parent.hash.hex()[:16]}"
            )
        _check_same_machine(older, newer)


def _check_same_machine(older: Layer, newer: Layer) -> None:
    for what, theirs, ours in _differences(newer.index.machine, older.index.machine):
        raise SnapshotError(
            f"{newer.name}: of another machine than {older.name}: {what} {theirs}, not {ours}"
        )
    names = [vm.name for vm in older.index.vms]
    found = [vm.name for vm in newer.index.vms]
    for one, others, where in ((names, found, newer), (found, names, older)):
        for name in one:
            if name not in others:
                raise SnapshotError(f"{where.name}: VM {one_line(name, 64)} is missing")
    for old, new in zip(older.index.vms, newer.index.vms, strict=True):
        for what, theirs, ours in _differences(new, old, ("name", "dialect", "base", "size")):
            raise SnapshotError(
                f"{newer.name}: VM {one_line(new.name, 64)}: {what} {theirs},"
                f" in {older.name} {ours}"
            )
