"""`hfsched image FILE`: what a guest image is, what it needs, and whether it would boot.

Exit status: 0 it would boot, 1 it would not (what is known is still printed), 2 the file
cannot be read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hfsched.cli.output import notice
from hfsched.errors import ImageError
from hfsched.memory.image import (
    boot_problem,
    check_kind,
    is_image,
    kind_of,
    looks_like,
    parse_image,
    read_bytes,
    read_head,
)
from hfsched.memory.imagetypes import Image
from hfsched.text import printable
from hfsched.vmm.guests import find_image, manifest_refusal, raw_hint
from hfsched.vmm.manifest_text import is_manifest

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser", "run"]

_ENGINES = {
    "aarch64": (("unicorn", "any host"), ("kvm", "an arm64 host")),
    "x86_64": (("kvm", "an x86-64 host"),),
}
_KINDS = {
    "linux-raw": "arm64 Linux image",
    "hfx-raw": "x86-64 flat image",
    "elf64": "ELF64 image",
    "unknown": "unknown kind",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "image",
        help="show what a guest image is and whether it would boot",
        description="Show what a guest image is, what memory it needs and whether it would boot.",
        epilog="Exit status: 0 it would boot, 1 it would not, 2 the file cannot be read.",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a flat image (arm64 Linux, x86-64), an ELF64 file, or a bundled guest's name",
    )
    parser.add_argument(
        "--json", action="store_true", help='print one JSON object, {"error": ...} for status 2'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what `args.file` is, as text or with `args.json` as JSON; return the exit status."""
    file = args.file
    try:
        file = str(find_image(file))
        data, size = read_head(file)
        if is_image(data):
            data = read_bytes(file)
    except ImageError as error:
        notice(f"error: {printable(str(error))}")
        if args.json:
            print(json.dumps({"error": str(error)}))
        return 2
    report = _report(file, data, size)
    print(json.dumps(report, indent=2) if args.json else _text(report))
    return 0 if report["boots"] else 1


def _report(name: str, data: bytes, size: int) -> dict[str, Any]:
    """Return all that is known; addresses and sizes are integers, in bytes."""
    report: dict[str, Any] = {
        "name": printable(name),
        "kind": kind_of(data),
        "file_size": size,
        "looks_like": looks_like(data),
    }
    try:
        check_kind(name, data, size)
        image = parse_image(name, data)
    except ImageError as error:
        # The name is in the report already.
        refusal = str(error).removeprefix(printable(f"{name}: "))
        problem: str | None = refusal + raw_hint(refusal)
        if report["looks_like"] == "text" and is_manifest(data):
            report["looks_like"] = "a machine's manifest"
            problem = manifest_refusal(printable(name))
        elif report["looks_like"] == "text" and name.endswith(".py"):
            report["looks_like"] = "Python"
            problem = f"no image: a guest written in Python: hfsched run {printable(name)}"
    else:
        report |= _known(image)
        problem = boot_problem(image)
    engines = () if problem or "machine" not in report else _ENGINES[report["machine"]]
    return report | {
        "boots": problem is None,
        "problem": problem,
        "engines": [{"engine": engine, "host": host} for engine, host in engines],
    }


def _known(image: Image) -> dict[str, Any]:
    return {
        "machine": image.machine,
        "entry": image.entry,
        "fixed_base": image.fixed_base,
        "memory_size": image.memory_size,
        "alignment": image.alignment,
        "text_offset": image.text_offset,
        "relocations": dict(image.relocations),
        "segments": [
            {
                "address": segment.address,
                "file_size": len(segment.data),
                "memory_size": segment.memory_size,
                "permissions": segment.permissions,
            }
            for segment in image.segments
        ],
    }


def _text(report: dict[str, Any]) -> str:
    kind = _KINDS[report["kind"]]
    if "machine" not in report:
        rows = [
            ("size", f"{report['file_size']} bytes"),
            ("looks like", report["looks_like"]),
            ("boots", f"no: {report['problem']}"),
        ]
        return "\n".join([f"{report['name']}: {kind}", *_aligned(rows)])
    base = report["fixed_base"]
    place = "position independent" if base is None else f"fixed at {base:#x}"
    relocations = [f"{count} {kind}" for kind, count in report["relocations"].items()]
    engines = [f"{e['engine']} on {e['host']}" for e in report["engines"]]
    note = " from the base" if base is None else ""
    rows = [
        ("entry", f"{report['entry']:#x}{note}"),
        ("memory", f"{report['memory_size']} bytes ({report['memory_size']:#x}){note}"),
        ("alignment", f"{report['alignment']:#x}"),
    ]
    if report["kind"] != "elf64":
        rows.append(("text_offset", f"{report['text_offset']:#x}"))
    rows += [
        ("relocations", ", ".join(relocations) or _no_relocations(report["kind"])),
        ("boots", f"yes: {', '.join(engines)}" if engines else f"no: {report['problem']}"),
    ]
    table = [("address", "file", "memory", "access")]
    for segment in report["segments"]:
        flags = "".join(c if c in segment["permissions"] else "-" for c in "rwx")
        sizes = (f"{segment['file_size']:#x}", f"{segment['memory_size']:#x}")
        table.append((f"{segment['address']:#x}", *sizes, flags))
    head = f"{report['name']}: {kind} for {report['machine']}, {place}"
    return "\n".join([head, *_aligned(rows), "", *_aligned(table)])


def _no_relocations(kind: str) -> str:
    return "unknown: a flat image does not list them" if kind != "elf64" else "none"


def _aligned(rows: list[Any]) -> list[str]:
    """Return the rows as indented lines, every column as wide as its widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
