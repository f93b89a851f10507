"""What is in a snapshot, and whether all of it is whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hfsched.errors import SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.chain import ZERO_PAGE, Chain
from hfsched.snapshot.codec import codec_name
from hfsched.snapshot.index import VERSION, ZERO
from hfsched.snapshot.layer import Layer
from hfsched.text import count, printable

__all__ = ["inspect", "inspected_text", "size_text", "verify"]


def size_text(size: int) -> str:
    """Return a number of bytes as users read it."""
    value, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.4g} {units[0]}"


def inspect(chain: Chain) -> dict[str, Any]:
    """Return what is in a chain, for JSON: sizes in bytes, the oldest layer first."""
    index = chain.index
    return {
        "format": VERSION,
        "hfsched": index.hfsched,
        "created": _date(index.created),
        "architecture": index.machine.architecture,
        "counter_hz": index.machine.counter_hz,
        "vms": [_vm(chain, number) for number in range(len(index.vms))],
        "hot_pages": sum(pages for _, _, pages in chain.newest.layout.hot()),
        "state": {
            name: {"version": each.version, "size": len(each.data)}
            for name, each in sorted(index.state.items())
        },
        "layers": [_layer(layer) for layer in chain.layers],
    }


def _date(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).isoformat()


def _vm(chain: Chain, number: int) -> dict[str, Any]:
    vm = chain.index.vms[number]
    zero = sum(pages for _, pages, place in chain.places(number) if place == ZERO_PAGE)
    pages = vm.size // PAGE_SIZE
    named = {"name": vm.name, "dialect": vm.dialect, "base": vm.base, "size": vm.size}
    return {**named, "pages": pages, "zero_pages": zero}


def _layer(layer: Layer) -> dict[str, Any]:
    index, layout = layer.index, layer.layout
    zero = sum(
        pages
        for runs in layout.runs
        for pages, position in zip(runs.counts, runs.positions, strict=True)
        if position == ZERO
    )
    frames = Counter(map(codec_name, layout.kinds))
    return {
        "name": layer.name,
        "hash": layer.hash.hex(),
        "parent": None if index.parent is None else index.parent.name,
        "created": _date(index.created),
        "pages": index.pages,
        "zero_pages": zero,
        "size": layout.offsets[-1],
        "frames": dict(sorted(frames.items())),
    }


def inspected_text(found: dict[str, Any]) -> list[str]:
    """Return what `inspect` has returned as lines."""
    lines = [
        f"created  {found['created']} by hfsched {printable(found['hfsched'])}, format {found['format']}",
        f"machine  {printable(found['architecture'])}, counter {found['counter_hz']} Hz",
    ]
    lines += [
        f"VM       {printable(vm['name'])}: {size_text(vm['size'])} at {vm['base']:#x},"
        f" {printable(vm['dialect'])}; {vm['zero_pages']} of {count(vm['pages'], 'page')} zero"
        for vm in found["vms"]
    ]
    lines.append(f"hot      {count(found['hot_pages'], 'page')}")
    for name, each in found["state"].items():
        version, size = each["version"], size_text(each["size"])
        lines.append(f"state    {printable(name)}, version {version}: {size}")
    for layer in found["layers"]:
        kind = "full" if layer["parent"] is None else f"on {printable(layer['parent'])}"
        frames = ", ".join(f"{number} {name}" for name, number in layer["frames"].items())
        lines.append(
            f"layer    {printable(layer['name'])}, {kind}: {count(layer['pages'], 'page')}"
            f" and {layer['zero_pages']} zero, {size_text(layer['size'])}"
            f" (frames: {frames or 'none'}), hash {layer['hash'][:16]}"
        )
    return lines


def verify(
    layer: Layer, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> list[str]:
    """Read, check and expand every frame of a layer; return all that is wrong.

    `progress` is told how many frames of how many are done.
    """
    problem = layer.size_problem()
    faults = [] if problem is None else [problem]
    for frame in range(layer.frames):
        try:
            layer.frame(frame)
        except SnapshotError as exc:
            faults.append(str(exc))
        progress(frame + 1, layer.frames)
    return faults
