"""QEMU 10, qemu-storage-daemon and libblkio for tests: Debian packages, unpacked into the cache.

apt works with a state of its own there and with the machine's mirror, so neither root nor a change of
its configuration is needed (`qemu/debian.py`). An entry of the cache is made with a lock held and
renamed when whole (`qemu/cache.py`).
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from qemu import MachineError, debian
from qemu.cache import Cache, key_of

__all__ = ["KERNEL", "Programs", "fetch", "find", "programs"]

_FORMAT = "1"  # to be changed with what is done to the packages below
_SUITES = ("bookworm", "bookworm-backports", "trixie")  # trixie's: libblkio, which runs on both
_QEMU = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "qemu-utils", "seabios")
_BLKIO = ("libblkio1", "libblkio-dev")
# What the programs are linked with, apart from libc: another machine may lack any of them.
_LIBRARIES = (
    "libaio1", "libblkid1", "libbpf1", "libcapstone4", "libdaxctl1", "libelf1", "libfdt1", "libffi8",
    "libfuse3-3", "libglib2.0-0", "libgmp10", "libgnutls30", "libhogweed6", "libibverbs1",
    "libidn2-0", "libjpeg62-turbo", "libkmod2", "liblzma5", "libmount1", "libndctl6", "libnettle8",
    "libnl-3-200", "libnl-route-3-200", "libnuma1", "libp11-kit0", "libpcre2-8-0", "libpixman-1-0",
    "libpmem1", "libpng16-16", "librdmacm1", "libsasl2-2", "libseccomp2", "libselinux1", "libslirp0",
    "libssl3", "libtasn1-6", "libudev1", "libunistring2", "liburing2", "libuuid1", "libvdeplug2",
    "libzstd1", "zlib1g",
)  # fmt: skip
_PACKAGES = (
    *(f"{name}/bookworm-backports" for name in _QEMU),
    *(f"{name}/trixie" for name in _BLKIO),
    *(f"{name}/bookworm" for name in _LIBRARIES),
)
KERNEL = r"linux-image-6\.1\.0-\d+-cloud-amd64"  # the newest that matches
_TRIPLET = "x86_64-linux-gnu"
_TRIED = ("qemu-system-x86_64", "qemu-storage-daemon", "qemu-img")


@dataclass(frozen=True)
class Programs:
    """What was unpacked: `root` is a file system that has it in ``usr``."""

    cache: Cache
    root: Path

    def path(self, program: str) -> str:
        """Return the path of a program."""
        return str(self.root / "usr/bin" / program)

    @property
    def version(self) -> str:
        """The names of the packages' files, which have their versions."""
        return (self.root.parent / "packages").read_text()

    @property
    def libraries(self) -> list[Path]:
        """The directories of shared libraries."""
        return [self.root / "usr/lib" / _TRIPLET, self.root / "lib" / _TRIPLET]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its programs; without the first, QEMU loads the machine's own modules."""
        return {
            **os.environ,
            "QEMU_MODULE_DIR": str(self.root / "usr/lib" / _TRIPLET / "qemu"),
            "LD_LIBRARY_PATH": ":".join(map(str, self.libraries)),
        }

    @property
    def firmware(self) -> list[str]:
        """The options by which QEMU finds its firmware."""
        shared = self.root / "usr/share"
        return ["-L", str(shared / "qemu"), "-L", str(shared / "seabios")]


def programs() -> Programs:
    """Return the programs, from the cache or fetched now; skips the test where they cannot be had."""
    found = find()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@functools.cache  # a network that is not there is tried once
def find() -> Programs | str:
    """Return the programs, or in one line why there are none."""
    if platform.machine() != "x86_64":
        return f"the vhost-user front-ends are for x86_64, not for {platform.machine()}"
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            return f"no vhost-user front-ends: no {program}, which Debian has"
    cache = Cache()
    try:
        entry = cache.entry(
            "frontends", key_of(_FORMAT, *_PACKAGES), lambda made: fetch(cache, _PACKAGES, made)
        )
    except MachineError as error:
        return f"no vhost-user front-ends: {' '.join(str(error).split())}"
    return _tried(Programs(cache, entry / "root"))


def fetch(cache: Cache, names: Sequence[str], directory: Path) -> None:
    """Unpack packages (``NAME/SUITE``, or a pattern that names one) into ``directory/root``.

    Their files are listed in ``directory/packages``. Raises :class:`MachineError`.
    """
    packages = debian.Packages(cache, "amd64", _SUITES)
    wanted = [
        debian.newest(packages.names(name) or _none(name)) if "\\" in name else name
        for name in names
    ]
    with tempfile.TemporaryDirectory(dir=directory) as aside:
        found = packages.download(wanted, Path(aside))
        for package in found:
            debian.unpack(package, directory / "root")
        (directory / "packages").write_text("".join(f"{each.name}\n" for each in found))


def _none(pattern: str) -> list[str]:
    raise MachineError(f"the mirror has no package {pattern}")


def _tried(found: Programs) -> Programs | str:
    """Return them if they run here, else why they do not."""
    for program in _TRIED:
        try:
            subprocess.run(
                [found.path(program), "--version"], env=found.environment, check=True,
                capture_output=True, text=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            return f"{program} does not run here: {error.strerror}"
        except subprocess.CalledProcessError as error:
            said = " ".join(str(error.stderr).split()) or f"status {error.returncode}"
            return f"{program} does not run here: {said}"
    return found
