"""What the Linux guest boots: Debian's cloud kernel and an initramfs of busybox and a few modules."""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from qemu import MachineError, cpio
from qemu.cache import Cache, key_of

from .packages import KERNEL, Programs, fetch

__all__ = ["Image", "image"]

_FORMAT = "1"  # to be changed with what the functions below put into an entry
_INIT = Path(__file__).with_name("init.sh")
_PACKAGES = (KERNEL, "busybox-static/bookworm")
# In the order of loading: each after those that it needs.
_MODULES = (
    "drivers/virtio/virtio", "drivers/virtio/virtio_ring", "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev", "drivers/virtio/virtio_pci",
    "drivers/virtio/virtio_mmio", "drivers/block/virtio_blk", "drivers/char/hw_random/virtio-rng",
    "drivers/char/virtio_console", "fs/fuse/fuse", "fs/fuse/virtiofs", "net/core/failover",
    "drivers/net/net_failover", "drivers/net/virtio_net", "net/vmw_vsock/vsock",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common", "net/vmw_vsock/vmw_vsock_virtio_transport",
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """The files that QEMU loads, and a name that changes with their contents."""

    kernel: Path
    initramfs: Path
    version: str


def image(programs: Programs) -> Image:
    """Return the guest's files, made now if need be; skips the test where they cannot be had."""
    try:
        linux = _linux(programs.cache)
        init = _INIT.read_bytes()
        version = key_of(_FORMAT, init, (linux / "packages").read_bytes())
        guest = programs.cache.entry(
            "guest-amd64", version, lambda made: _pack(linux, init, made), keep=3
        )
    except MachineError as error:
        pytest.skip(f"no Linux guest: {' '.join(str(error).split())}")
    return Image(linux / "vmlinuz", guest / "initramfs", version)


def _linux(cache: Cache) -> Path:
    """Return a directory with `vmlinuz`, `busybox` and `modules`, whose names have their order."""

    def make(directory: Path) -> None:
        with tempfile.TemporaryDirectory(dir=directory) as aside:
            fetch(cache, _PACKAGES, Path(aside))
            root = Path(aside, "root")
            (kernel,) = root.glob("boot/vmlinuz-*")
            (tree,) = root.glob("lib/modules/*/kernel")
            kernel.rename(directory / "vmlinuz")
            (root / "bin/busybox").rename(directory / "busybox")
            (directory / "modules").mkdir()
            for place, name in enumerate(_MODULES):
                found = tree / f"{name}.ko"
                found.rename(directory / "modules" / f"{place:02}-{found.name}")
            shutil.move(Path(aside, "packages"), directory / "packages")

    return cache.entry("linux-amd64", key_of(_FORMAT, *_PACKAGES, *_MODULES), make)


def _pack(linux: Path, init: bytes, directory: Path) -> None:
    raw = io.BytesIO()
    archive = cpio.Writer(raw)
    for name in ("dev", "mnt", "proc", "sys", "tmp"):
        archive.directory(name)
    archive.file("init", init, executable=True)
    archive.file("bin/busybox", (linux / "busybox").read_bytes(), executable=True)
    for module in sorted((linux / "modules").iterdir()):
        archive.file(f"modules/{module.name}", module.read_bytes())
    archive.finish()
    path = directory / "initramfs"
    path.write_bytes(gzip.compress(raw.getvalue(), 1))
