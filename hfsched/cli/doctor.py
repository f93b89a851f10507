"""`hfsched doctor`: what this machine can do, what it lacks, and the remedy.

Exit status: 0 when some engine runs guest images here, else 1.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hfsched.memory import userfault, writeprotect
from hfsched.snapshot import libraries
from hfsched.swap.core import device as swap
from hfsched.vcpu.kvm import device
from hfsched.vmm.guests import bundled_images

if TYPE_CHECKING:
    import argparse

__all__ = ["Finding", "add_parser", "examine", "run"]

_EXTRAS = {
    "fuzz": ("explore", ("greenlet", "hypothesis"), "hfsched fuzz"),
    "cluster": ("cluster", ("distributed",), "hfsched fuzz --cluster"),
    "fdt": ("fdt", ("fdt",), "device trees for guests"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A capability: whether it is available, and its purpose; or why it is not, and the remedy."""

    what: str
    ok: bool
    text: str


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "doctor",
        help="show what this machine can do, and what it lacks",
        description="Show what this machine can do, what it lacks, and the remedy.",
        epilog="Exit status: 0 when some engine runs guest images here, else 1.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def examine() -> list[Finding]:
    """Return a finding for each capability."""
    return [
        _unicorn(),
        _kvm(),
        _userfaultfd(),
        _swap(),
        _tier(),
        *map(_codec, libraries.CODECS),
        _dirty_pages(),
        *map(_extra, _EXTRAS),
        _guests(),
        _qemu(),
    ]


def run(args: argparse.Namespace) -> int:
    """Print the findings as text or with `args.json` as JSON; return the exit status."""
    found = examine()
    if args.json:
        print(json.dumps({"machine": device.MACHINE, "findings": [asdict(each) for each in found]}))
    else:
        print(f"{device.MACHINE}, Linux {platform.release()}, Python {platform.python_version()}")
        width = max(len(each.what) for each in found)
        for each in found:
            print(f"  {each.what:{width}}  {'yes' if each.ok else 'no '}  {each.text}")
    return 0 if any(each.ok for each in found if each.what.startswith("engine ")) else 1


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _unicorn() -> Finding:
    version = _version("unicorn")
    if version is None:
        return Finding("engine unicorn", ok=False, text="pip install 'hfsched[emulator]'")
    return Finding("engine unicorn", ok=True, text=f"aarch64 guests, emulated (unicorn {version})")


def _kvm() -> Finding:
    why_not = device.problem()
    if why_not is not None:
        return Finding("engine kvm", ok=False, text=why_not)
    return Finding("engine kvm", ok=True, text=f"{device.MACHINE} guests")


def _userfaultfd() -> Finding:
    why_not = userfault.problem()
    return Finding("userfaultfd", ok=why_not is None, text=why_not or "guest memory can be swapped")


def _swap() -> Finding:
    why_not = swap.problem()
    return Finding("swap", ok=why_not is None, text=why_not or "hfsched run --swap-dir DIR")


def _tier() -> Finding:
    why_not = swap.tier_problem()
    if why_not is None:
        return Finding("lz4", ok=True, text="swapped pages are compressed where that pays")
    without = "swapped pages all go to the file; apt-get install liblz4-1"
    return Finding("lz4", ok=False, text=f"{why_not}: {without}")


def _codec(name: str) -> Finding:
    why_not = libraries.problem(name)
    if why_not is None:
        return Finding(f"snapshot {name}", ok=True, text="snapshots are compressed where that pays")
    return Finding(f"snapshot {name}", ok=False, text=f"{why_not}; snapshots can be uncompressed")


def _dirty_pages() -> Finding:
    why_not = writeprotect.problem()
    text = f"every snapshot is a full one: {why_not}" if why_not else "snapshots can be incremental"
    return Finding("dirty pages", ok=why_not is None, text=text)


def _extra(name: str) -> Finding:
    extra, packages, purpose = _EXTRAS[name]
    versions = {package: _version(package) for package in packages}
    if None in versions.values():
        return Finding(name, ok=False, text=f"{purpose}: pip install 'hfsched[{extra}]'")
    listed = ", ".join(f"{package} {version}" for package, version in versions.items())
    return Finding(name, ok=True, text=f"{purpose} ({listed})")


def _guests() -> Finding:
    names = [n for n in bundled_images() if n.endswith(".bin") and "/" not in n]
    if not names:
        return Finding("guests", ok=False, text="the bundled images are not built: script/guests")
    return Finding("guests", ok=True, text=", ".join(names))


def _qemu() -> Finding:
    program = shutil.which("qemu-system-aarch64")
    if program is None:
        text = "for tests on arm64 KVM: apt-get install qemu-system-arm"
        return Finding("qemu", ok=False, text=text)
    return Finding("qemu", ok=True, text=f"arm64 KVM inside {program}")
