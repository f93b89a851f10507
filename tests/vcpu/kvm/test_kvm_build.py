"""The C core compiles without a warning on both architectures, each file for itself."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hfsched.vcpu import kvm
from hfsched.vcpu.kvm.build_core import CFLAGS, sources

FOLDER = Path(kvm.__file__).parent
NATIVE = [shutil.which("gcc") or shutil.which("cc") or ""]
CROSS = [sys.executable, "-m", "ziglang", "cc", "-target"]


def compiler(machine: str) -> list[str]:
    if machine == platform.machine() and NATIVE[0]:
        return NATIVE
    if find_spec("ziglang") is None:
        pytest.skip("neither a C compiler nor the package ziglang")
    return [*CROSS, f"{machine}-linux-gnu.2.36"]


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_each_file_compiles_without_a_warning(machine: str, tmp_path: Path) -> None:
    files = [str(FOLDER / name) for name in sources(machine)]
    assert len(files) >= 6
    flags = [*CFLAGS, "-Werror", "-O1", "-c"]
    done = subprocess.run(
        [*compiler(machine), *flags, *files],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_no_file_is_left_out(machine: str) -> None:
    others = {"aarch64": "x86_64_", "x86_64": "arm64_"}[machine]
    found = {path.name for path in FOLDER.glob("*.c") if not path.name.startswith("_core")}
    assert set(sources(machine)) == {name for name in found if not name.startswith(others)}
