"""The differences of two snapshots, and the merge of a chain into one full layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.chain import ZERO_PAGE, Chain, Places
from hfsched.snapshot.directory import make_layer
from hfsched.snapshot.layer import LayerWriter, Subject, Vm
from hfsched.text import count, printable

__all__ = ["compared_text", "diff", "merge"]

_ZEROS = bytes(PAGE_SIZE)


def diff(one: Chain, other: Chain) -> dict[str, Any]:
    """Return what differs, for JSON: `machine` and `state` by name, `vms` with ranges of pages.

    What is the same is left out: two snapshots of one state have three empty values.  Frames that both have in the
    same layer are not read: whether they are whole is for `hfsched.snapshot.report.verify`.  Raises SnapshotError.
    """
    one.check_sizes()
    other.check_sizes()
    machines = one.index.machine, other.index.machine
    return {
        "machine": {
            name: [getattr(each, name) for each in machines]
            for name in ("architecture", "counter_hz")
            if len({getattr(each, name) for each in machines}) > 1
        },
        "vms": _vms(one, other),
        "state": _state(one, other),
    }


def _state(one: Chain, other: Chain) -> dict[str, str]:
    found = {}
    for name in sorted({*one.state, *other.state}):
        ours, theirs = one.state.get(name), other.state.get(name)
        if ours == theirs:
            continue
        if ours is None or theirs is None:
            found[name] = "only in the second" if ours is None else "only in the first"
        elif ours.version != theirs.version:
            found[name] = f"version {ours.version}, and {theirs.version}"
        elif len(ours.data) != len(theirs.data):
            found[name] = f"{len(ours.data)} bytes, and {len(theirs.data)}"
        else:
            found[name] = f"other contents of {len(ours.data)} bytes"
    return found


def _vms(one: Chain, other: Chain) -> dict[str, Any]:
    numbers = [{vm.name: at for at, vm in enumerate(each.index.vms)} for each in (one, other)]
    found: dict[str, Any] = {}
    for name in {**numbers[0], **numbers[1]}:
        if name not in numbers[0] or name not in numbers[1]:
            found[name] = {"only": "second" if name not in numbers[0] else "first"}
            continue
        ours, theirs = numbers[0][name], numbers[1][name]
        vms = one.index.vms[ours], other.index.vms[theirs]
        changed = {
            field: [getattr(vm, field) for vm in vms]
            for field in ("dialect", "base", "size")
            if len({getattr(vm, field) for vm in vms}) > 1
        }
        ranges = _ranges(_pages(one, ours, other, theirs))
        if changed or ranges:
            found[name] = {**changed, "pages": ranges}
    return found


def _ranges(pages: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return {first page, pages} of pages in order, joined where they follow each other."""
    found: list[tuple[int, int]] = []
    for first, number in pages:
        if found and sum(found[-1]) == first:
            found[-1] = (found[-1][0], found[-1][1] + number)
        else:
            found.append((first, number))
    return found


def _together(ours: Places, theirs: Places) -> Iterator[tuple[int, int, int, int]]:
    """Return {first page, pages, place, place} of all pages that both have, in order."""
    runs, others = iter(ours), iter(theirs)
    one, two = next(runs, None), next(others, None)
    while one is not None and two is not None:
        first = max(one[0], two[0])
        ends = one[0] + one[1], two[0] + two[1]
        places = [
            place if place == ZERO_PAGE else place + first - start for start, _, place in (one, two)
        ]
        yield first, min(ends) - first, places[0], places[1]
        one = next(runs, None) if ends[0] == min(ends) else one
        two = next(others, None) if ends[1] == min(ends) else two


def _pages(one: Chain, ours: int, other: Chain, theirs: int) -> Iterator[tuple[int, int]]:
    """Return {first page, pages} of what differs; what is the same frame of one file is not read."""
    same = {
        (at, number)
        for at, layer in enumerate(one.layers)
        for number, each in enumerate(other.layers)
        if layer.hash == each.hash
    }
    for first, pages, place, their in _together(one.places(ours), other.places(theirs)):
        if place == their == ZERO_PAGE:
            continue
        both = ZERO_PAGE not in (place, their)
        if both and (place >> 32, their >> 32) in same and not (place ^ their) & 0xFFFF_FFFF:
            continue
        for at in range(pages):
            here = _ZEROS if place == ZERO_PAGE else one.read(place + at)
            there = _ZEROS if their == ZERO_PAGE else other.read(their + at)
            if bytes(here) != bytes(there):
                yield first + at, 1
    sizes = [chain.index.vms[vm].size // PAGE_SIZE for chain, vm in ((one, ours), (other, theirs))]
    if sizes[0] != sizes[1]:
        yield min(sizes), max(sizes) - min(sizes)


def compared_text(found: dict[str, Any]) -> list[str]:
    """Return what `diff` has returned as lines; none: nothing differs."""
    lines = [
        f"machine  {name.replace('_', ' ')}: {printable(str(ours))}, and {printable(str(theirs))}"
        for name, (ours, theirs) in found["machine"].items()
    ]
    for name, vm in found["vms"].items():
        what = f"VM       {printable(name)}"
        if "only" in vm:
            lines.append(f"{what}: only in the {vm['only']}")
            continue
        lines += [
            f"{what}: {field} {printable(str(vm[field][0]))}, and {printable(str(vm[field][1]))}"
            for field in ("dialect", "base", "size")
            if field in vm
        ]
        total = sum(number for _, number in vm["pages"])
        lines.append(f"{what}: {count(total, 'page')} of {count(len(vm['pages']), 'range')}")
        lines += [
            f"  {first * PAGE_SIZE:#x}+{number * PAGE_SIZE:#x}" for first, number in vm["pages"]
        ]
    lines += [f"state    {printable(name)}: {text}" for name, text in found["state"].items()]
    return lines


def merge(
    chain: Chain,
    path: str | Path,
    *,
    codec: str = "lz4",
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> str | None:
    """Write a chain as one full layer, whole or not at all; raises SnapshotError, CancelledError.

    `progress` is told how many bytes of pages of how many are done.  Returns a warning.
    """
    index = chain.index
    vms = tuple(Vm(vm.name, vm.dialect, vm.base, vm.size) for vm in index.vms)
    subject = Subject(index.hfsched, index.created, index.machine, vms)
    chain.check_sizes()
    total = sum(vm.size for vm in vms)
    with make_layer(path) as made:
        writer = LayerWriter(
            printable(str(path)),
            made.pages_fd,
            made.index_fd,
            subject,
            codec=codec,
            cancelled=cancelled,
            progress=lambda done: progress(done, total),
        )
        for number in range(len(vms)):
            for first, pages, place in chain.places(number):
                if place == ZERO_PAGE:
                    writer.put_zeros(number, first, pages)
                    continue
                at = first
                for part in chain.parts(place, pages):
                    writer.put(number, at, part)
                    at += len(part) // PAGE_SIZE
        writer.finish(index.state, chain.newest.layout.hot())
        return writer.warning
