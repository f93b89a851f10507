"""blkio-bench, blkio-copy and blkio-info: examples of libblkio, of which Debian has the source alone."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from progress import run

from qemu import MachineError
from qemu.cache import key_of

from .child import FrontEndError
from .packages import Programs, programs

__all__ = ["DRIVER", "bench", "copy", "tool"]

DRIVER = "virtio-blk-vhost-user"
_NAMES = ("blkio-bench", "blkio-copy", "blkio-info")
_FLAGS = ("-O2",)


def tool(name: str) -> str:
    """Return the path of a tool, compiled now if need be; skips the test where there is no compiler."""
    made = _made()
    if isinstance(made, str):
        pytest.skip(made)
    return str(made / name)


def bench(socket: Path, *options: str, pattern: str = "randread", seconds: int = 1) -> Any:
    """Return blkio-bench's result (JSON); `aggregate` has the sums."""
    words = [f"--runtime={seconds}", f"--readwrite={pattern}", *options]
    return json.loads(_run("blkio-bench", [*words, DRIVER, f"path={socket}"]))


def copy(source: Path, target: Path, *, to_socket: bool = False) -> None:
    """Copy a disk behind a socket into a file, or a file to a disk."""
    if to_socket:
        words = [f"--input-file={source}", f"--output-blkio={DRIVER}", f"path={target}"]
    else:
        target.touch()  # it opens an existing one
        words = [f"--input-blkio={DRIVER}", f"path={source}", f"--output-file={target}"]
    _run("blkio-copy", words)


def _run(name: str, words: Sequence[str]) -> str:
    result = run([tool(name), *words], env={**os.environ})
    if result.returncode:
        raise FrontEndError(f"{name} ended with status {result.returncode}: {result.stderr}")
    return result.stdout


@functools.cache
def _made() -> Path | str:
    found = programs()
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return "no C compiler, so no blkio-bench (apt-get install gcc libc6-dev)"
    try:
        return found.cache.entry(
            "blkio-tools",
            key_of(compiler, *_FLAGS, found.version),
            lambda directory: _compile(found, compiler, directory),
            keep=2,
        )
    except MachineError as error:
        return str(error)


def _compile(found: Programs, compiler: str, directory: Path) -> None:
    usr, libraries = found.root / "usr", found.libraries[0]
    for name in _NAMES:
        source = usr / "share/doc/libblkio-dev/examples" / f"{name}.c"
        command = [compiler, *_FLAGS, f"-I{usr / 'include'}", "-o", str(directory / name)]
        command += [
            str(source),
            f"-L{libraries}",
            f"-Wl,-rpath,{libraries}",
            "-lblkio",
            "-lpthread",
        ]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode:
            raise MachineError(f"{compiler} cannot build {name}: {result.stderr[-500:]}")
