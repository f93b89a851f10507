"""aarch64 wheels of PyPI for the machine's Python 3.11, fetched by pip and unpacked."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from . import MachineError

__all__ = ["download", "requirements", "unpack"]

# Debian 12 has glibc 2.36.
_PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_28_aarch64", "manylinux_2_34_aarch64")
# Not the emulator: it wants more memory than the machine has, and its engine here knows x86-64 only.
_EXTRAS = ("explore", "fdt", "test")
_NOT_INSIDE = ("mypy", "pytest-xdist", "ruff")


def requirements(pyproject: Path) -> list[str]:
    """Return what the project needs inside: its own list, cffi, and what its tests need."""
    project = tomllib.loads(pyproject.read_text())["project"]
    wanted = ["cffi>=1.16", *project["dependencies"]]
    for extra in _EXTRAS:
        wanted += project["optional-dependencies"][extra]
    names = {name: re.match(r"[\w.-]+", name) for name in wanted}
    return sorted({name for name, match in names.items() if match and match[0] not in _NOT_INSIDE})


def download(wanted: list[str], directory: Path) -> list[Path]:
    """Fetch the wheels and those they need into a directory."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--dest", str(directory), "--only-binary=:all:", "--python-version=3.11"]
    command += ["--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none"]
    command += [f"--platform={platform}" for platform in _PLATFORMS]
    result = subprocess.run([*command, *wanted], check=False, capture_output=True, text=True)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        raise MachineError("pip cannot fetch the machine's packages: " + "; ".join(
            said[-2:] or result.stderr.splitlines()[-1:] or ["it does not say why"]
        ))  # fmt: skip
    return sorted(directory.glob("*.whl"))


def unpack(wheel: Path, directory: Path) -> None:
    """Unpack a wheel into a directory of modules; scripts, headers and static libraries stay out."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inside = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", name)
            if inside.endswith(("/", ".a", ".h")) or re.match(r"[^/]+\.data/", inside):
                continue
            target = directory / inside
            if not target.resolve().is_relative_to(directory.resolve()):
                raise MachineError(f"{wheel.name} has a file outside: {name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
