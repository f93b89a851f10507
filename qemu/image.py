"""What the machine boots: a kernel, a file system of Debian's Python, and the project.

Each is an entry of the cache. The file system and the project are cpio archives that are put on end
when a machine starts.
"""

from __future__ import annotations

import io
import lzma
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from . import MachineError, cpio, debian, wheels
from .cache import Cache, key_of

__all__ = ["KERNELS", "PROJECT", "Image"]

TOP = Path(__file__).resolve().parent.parent
PROJECT = "project"  # where the project lies in the machine
_FORMAT = "1"  # to be changed with what the functions below put into an archive

# The newest package of each that matches.
KERNELS = {
    "6.12": r"linux-image-6\.12\.[\w.+]+-cloud-arm64",
    "6.1": r"linux-image-6\.1\.0-\d+-cloud-arm64",
}
# What is built into 6.12 and a module of 6.1, in order.
_MODULES = (
    "virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
    "virtio_console",
)  # fmt: skip
# Not the closure of their dependencies, which nobody here needs.
_PACKAGES = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libgcc-s1",
    "libexpat1", "zlib1g", "libffi8", "liblz4-1", "busybox-static",
)  # fmt: skip
_NOT_INSIDE = (
    "usr/share", "usr/lib/aarch64-linux-gnu/gconv",
    "usr/lib/python3.11/lib2to3", "usr/lib/python3.11/pydoc_data", "usr/lib/python3.11/test",
)  # fmt: skip
_SITE = "usr/local/lib/python3.11/dist-packages"
_FOLDERS = ("hfsched", "guests", "tests", "bench", "examples", "qemu")
_AARCH64 = 183  # e_machine of ELF


class Image:
    """The parts of a machine, made when first asked for."""

    def __init__(self, cache: Cache, top: Path = TOP) -> None:
        self.cache = cache
        self._top = top

    def kernel(self, version: str) -> Path:
        """Return a directory with `vmlinuz` and `modules.cpio`."""
        pattern = KERNELS[version]

        def make(directory: Path) -> None:
            packages = debian.Packages(self.cache)
            name = debian.newest(packages.names(pattern))
            self.cache.report(f"fetching {name} ...")
            with tempfile.TemporaryDirectory(dir=directory) as aside:
                for package in packages.download([name], Path(aside)):
                    debian.unpack(package, Path(aside))
                (found,) = Path(aside).glob("boot/vmlinuz-*")
                found.rename(directory / "vmlinuz")
                with (directory / "modules.cpio").open("wb") as out:
                    _modules(Path(aside), cpio.Writer(out))
            (directory / "packages").write_text(f"{name}\n")

        return self.cache.entry(f"kernel-{version}", key_of(_FORMAT, pattern), make)

    def base(self) -> Path:
        """Return the archive of the file system without the project."""
        wanted = wheels.requirements(self._top / "pyproject.toml")
        key = key_of(_FORMAT, *_PACKAGES, *_NOT_INSIDE, *wanted, str(_python() is None))

        def make(directory: Path) -> None:
            self.cache.report("fetching Python and its packages for arm64 ...")
            with tempfile.TemporaryDirectory(dir=directory) as aside:
                root = Path(aside, "root")
                listed = self._fill(root, Path(aside), wanted)
                _compile(root, "unchecked-hash", self.cache)
                with (directory / "base.cpio").open("wb") as out:
                    _base(root, cpio.Writer(out))
            (directory / "packages").write_text("".join(f"{name}\n" for name in listed))

        return self.cache.entry("base", key, make, keep=3) / "base.cpio"

    def project(self, extra: Mapping[str, Path] | None = None) -> Path:
        """Return the archive of the project as it is now.

        `extra` adds or replaces files: a path in the project, and the file of the host to put there.
        """
        contents = {**_files(self._top), **(extra or {})}
        try:
            data = {name: contents[name].read_bytes() for name in sorted(contents)}
        except OSError as error:
            raise MachineError(f"cannot read {error.filename}: {error.strerror}") from error
        # The host's own compiled modules are of no use inside.
        data = {name: text for name, text in data.items() if not _is_foreign(name, text)}
        init = (self._top / "qemu" / "init.sh").read_bytes()
        key = key_of(_FORMAT, init, *(part for pair in data.items() for part in pair))

        def make(directory: Path) -> None:
            with tempfile.TemporaryDirectory(dir=directory) as aside:
                root = Path(aside)
                for name, text in data.items():
                    path = root / PROJECT / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(text)
                _compile(root, "checked-hash", self.cache, f"{PROJECT}/hfsched")
                _install(root, tomllib.loads(data["pyproject.toml"].decode())["project"])
                with (directory / "project.cpio").open("wb") as out:
                    archive = cpio.Writer(out)
                    archive.file("init", init, executable=True)
                    archive.tree(root)
                    archive.finish()

        return self.cache.entry("project", key, make, keep=8) / "project.cpio"

    def headers(self) -> Path:
        """Return the include directory of Debian's arm64 Python 3.11."""
        package = "libpython3.11-dev"

        def make(directory: Path) -> None:
            self.cache.report(f"fetching {package} ...")
            with tempfile.TemporaryDirectory(dir=directory) as aside:
                for found in debian.Packages(self.cache).download([package], Path(aside)):
                    debian.unpack(found, Path(aside))
                Path(aside, "usr/include").rename(directory / "include")

        return self.cache.entry("headers", key_of(_FORMAT, package), make) / "include"

    def _fill(self, root: Path, aside: Path, wanted: list[str]) -> list[str]:
        """Unpack Debian's and PyPI's packages; return the names of their files."""
        site = root / _SITE
        site.mkdir(parents=True)
        found = debian.Packages(self.cache).download(_PACKAGES, aside)
        for package in found:
            debian.unpack(package, root)
        for name in _NOT_INSIDE:
            shutil.rmtree(root / name, ignore_errors=True)
        got = wheels.download(wanted, aside)
        for wheel in got:
            wheels.unpack(wheel, site)
        return [path.name for path in [*found, *got]]


def _base(root: Path, archive: cpio.Writer) -> None:
    archive.device("dev/console", 5, 1)
    for name in ("proc", "sys", "run", "tmp", "root"):
        archive.directory(name)
    archive.tree(root)
    for name in ("python", "python3"):
        archive.link(f"usr/bin/{name}", "python3.11")
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    archive.file("etc/hosts", b"127.0.0.1 localhost qemu\n")
    archive.finish()


def _modules(root: Path, archive: cpio.Writer) -> None:
    """Archive the modules that the machine's ports need, named in the order to load them in."""
    for number, name in enumerate(_MODULES):
        for path in root.glob(f"lib/modules/*/kernel/**/{name}.ko*"):
            data = path.read_bytes()
            data = lzma.decompress(data) if path.suffix == ".xz" else data
            archive.file(f"modules/{number}-{name}.ko", data)
    archive.finish()


def _files(top: Path) -> dict[str, Path]:
    """Find the project's files, by their path in it; built guests too, caches and objects not."""
    found = {"pyproject.toml": top / "pyproject.toml"}
    for folder in _FOLDERS:
        for path in (top / folder).rglob("*"):
            parts = path.relative_to(top).parts
            if path.is_file() and not any(
                part.startswith(".") or part in ("__pycache__", "obj") for part in parts
            ):
                found["/".join(parts)] = path
    return found


def _is_foreign(name: str, data: bytes) -> bool:
    return name.endswith(".so") and int.from_bytes(data[18:20], "little") != _AARCH64


def _install(root: Path, project: dict[str, object]) -> None:
    """Do what pip would: the project on the path, its name known, its command."""
    site = root / _SITE
    information = site / f"{project['name']}-{project['version']}.dist-info"
    information.mkdir(parents=True)
    (site / f"{project['name']}.pth").write_text(f"/{PROJECT}\n")
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    text = io.StringIO()
    points = project.get("entry-points", {})
    assert isinstance(points, dict)
    for group, entries in {"console_scripts": project["scripts"], **points}.items():
        text.write(f"[{group}]\n")
        assert isinstance(entries, dict)
        text.writelines(f"{name} = {target}\n" for name, target in entries.items())
    (information / "entry_points.txt").write_text(text.getvalue())
    scripts = root / "usr/local/bin"
    scripts.mkdir(parents=True)
    assert isinstance(project["scripts"], dict)
    for name, target in project["scripts"].items():
        module, _, function = re.sub(r"\s", "", target).partition(":")
        (scripts / name).write_text(
            f"#!/usr/bin/python3\nimport sys\nfrom {module} import {function}\n"
            f"sys.exit({function}())\n"
        )
        (scripts / name).chmod(0o755)


def _compile(root: Path, mode: str, cache: Cache, under: str = "") -> None:
    """Write bytecode, which is the same on every processor, with a Python 3.11 of the host.

    Inside, compiling the standard library would take most of a short run.
    """
    python = _python()
    if python is None:
        cache.report("no Python 3.11 here to write bytecode with: programs will start slowly")
        return
    subprocess.run(
        [python, "-m", "compileall", "-q", "-j0", f"--invalidation-mode={mode}",
         "-s", str(root), "-p", "/", str(root / under)],
        check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _python() -> str | None:
    return sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
