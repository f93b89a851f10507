"""Real Hafnium under QEMU: runs the scenarios of tests/fidelity on an image of it, and returns what came.

The image is Hafnium's own, built elsewhere from its sources (see `docs/engines.md`).  What it boots is
made here: a manifest, and the bundled guest `probe` as the primary and as every secondary, each with the
script of its rows.  QEMU's memory is a file, which still has every script when the machine is off: there
the answers are read.
"""

from __future__ import annotations

import struct
import subprocess
import tempfile
from pathlib import Path

from probescript import (
    END,
    FIRST,
    PRIMARY,
    SCRIPT,
    SIZE,
    Answer,
    Scenario,
    answers,
    base_of,
    table,
    table_size,
)

from hfsched.memory.fdtbuilder import FdtBuilder

RAM = 0x4000_0000  # QEMU's machine `virt`: where memory begins
WITHIN = 20  # seconds, for one scenario: a panic never ends


def _manifest(scenario: Scenario) -> bytes:
    tree = FdtBuilder()
    with tree.node("hypervisor"):
        tree.strings("compatible", "hafnium,hafnium")
        with tree.node("vm1"):
            tree.strings("debug_name", "primary")
            tree.strings("kernel_filename", "vm1")
        for vm, vcpus in enumerate(scenario.vcpus, FIRST):
            with tree.node(f"vm{vm}"):
                tree.strings("debug_name", f"vm{vm}")
                tree.cells("vcpu_count", vcpus)
                tree.cells("mem_size", SIZE)
                tree.strings("kernel_filename", f"vm{vm}")
    return tree.finish()


def _cpio(files: dict[str, bytes]) -> bytes:
    """Return an archive in cpio's old binary format, the one that Hafnium reads."""
    archive = b""
    for name, data in [*files.items(), ("TRAILER!!!", b"")]:
        raw = name.encode() + b"\0"
        size = (len(data) >> 16, len(data) & 0xFFFF)
        archive += struct.pack("<13H", 0o70707, 0, 0, 0o100644, 0, 0, 1, 0, 0, 0, len(raw), *size)
        for part in (raw, data):
            archive += part + bytes(len(part) % 2)
    return archive


def run(hafnium: Path, image: bytes, scenario: Scenario) -> list[Answer]:
    """Run one scenario; return the answer to each row."""
    vms = [PRIMARY, *range(FIRST, FIRST + len(scenario.vcpus))]
    files = {"manifest.dtb": _manifest(scenario)}
    files |= {f"vm{vm}": image.ljust(SCRIPT, b"\0") + table(scenario, vm) for vm in vms}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ram, initrd = Path(folder, "ram"), Path(folder, "initrd")
        initrd.write_bytes(_cpio(files))
        command = ["qemu-system-aarch64", "-machine"]
        command += ["virt,virtualization=on,gic-version=3,memory-backend=ram"]
        command += ["-cpu", "cortex-a57", "-smp", "4", "-m", "1G", "-nographic", "-nodefaults"]
        command += ["-object", f"memory-backend-file,id=ram,size=1G,mem-path={ram},share=on"]
        command += ["-serial", "stdio", "-kernel", str(hafnium), "-initrd", str(initrd)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=WITHIN, check=False
            )
        except subprocess.TimeoutExpired as error:
            log = (error.stdout or b"").decode(errors="replace")
            raise RuntimeError(f"{scenario.name}: not over in {WITHIN} s:\n{log}") from None
        tables = {}
        with ram.open("rb") as memory:
            for vm in vms:
                memory.seek(base_of(vm) + SCRIPT - RAM)
                tables[vm] = memory.read(table_size(scenario, vm))
    try:
        return answers(scenario, tables)
    except ValueError as error:
        raise RuntimeError(f"{scenario.name}: {error}\n{done.stdout.decode()}") from error


assert END - RAM == 1 << 30
