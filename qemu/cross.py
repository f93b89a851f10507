"""Compiled modules of Python for the machine: C code of cffi's API mode, cross-compiled.

The compiler is the PyPI package *ziglang*, which has the C library's and the kernel's headers for
arm64; Python's are Debian's. To take such a module into the machine::

    code = ffi.emit_c_code(...)              # ffi.set_source("hfsched.x", ...)
    module = cross_build(image, Path("x.c"), "hfsched.x")
    run(image, settings, words, extra={"hfsched/" + module.name: module}, ...)

`extensions` makes all that the project has.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import MachineError
from .cache import key_of
from .image import TOP, Image

__all__ = ["cross_build", "extensions"]

# Debian 12's C library. The lowest common Armv8.0: every CPU model runs it.
_FLAGS = (
    "-target", "aarch64-linux-gnu.2.36", "-O2", "-g0", "-s", "-shared", "-fPIC", "-fvisibility=hidden",
    "-fno-sanitize=all", "-Wall",
)  # fmt: skip


def cross_build(
    image: Image,
    source: Path,
    module: str,
    includes: Sequence[Path] = (),
    flags: Sequence[str] = (),
    sources: Sequence[Path] = (),
) -> Path:
    """Compile one module and return its file, ``NAME.abi3.so``, which stays in the cache.

    `source` is C as cffi writes it, `sources` more C to go into the module, `includes` directories
    of what these include (each header and C file in them counts as used), `flags` go to the
    compiler. `module` may be dotted: its last part names the file. Raises :class:`MachineError` with what the compiler says.
    """
    if find_spec("ziglang") is None:
        raise MachineError(f"no C compiler: {sys.executable} -m pip install ziglang==0.13.0.post1")
    name = module.rpartition(".")[2]
    python = image.headers()
    every = [source, *sources]
    inputs = [*every, *(path for folder in includes for path in sorted(folder.rglob("*.[ch]")))]
    compiler = _zig(image, "version")
    contents = [path.read_bytes() for path in inputs]
    key = key_of(compiler, str(python), module, *_FLAGS, *flags, *contents)

    def make(directory: Path) -> None:
        words = ["-I", str(python), "-I", str(python / "python3.11")]
        for folder in includes:
            words += ["-I", str(folder)]
        words += [*flags, *(str(path) for path in every)]
        _zig(image, "cc", *_FLAGS, *words, "-o", str(directory / f"{name}.abi3.so"))
        for left in directory.glob("*.o"):
            left.unlink()

    return image.cache.entry(f"module-{name}", key, make, keep=4) / f"{name}.abi3.so"


def extensions(image: Image) -> dict[str, Path]:
    """Return the project's own compiled modules, by their paths in it."""
    kvm, swap = TOP / "hfsched" / "vcpu" / "kvm", TOP / "hfsched" / "swap" / "core"
    kvm_build, swap_build = (_load(folder / "build_core.py") for folder in (kvm, swap))
    return dict(
        _extension(image, package, ffi, sources)
        for package, ffi, sources in (
            (
                "hfsched.vcpu.kvm",
                kvm_build.builder(TOP, "aarch64"),
                [kvm / name for name in kvm_build.sources("aarch64")],
            ),
            ("hfsched.swap.core", swap_build.builder(TOP), sorted(swap.glob("*.c"))),
        )
    )


def _extension(image: Image, package: str, ffi: Any, sources: Sequence[Path]) -> tuple[str, Path]:
    folders = sorted({path.parent for path in sources})
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "_core.c"
        with redirect_stdout(None):  # stdout is the command's
            ffi.emit_c_code(str(source))
        module = cross_build(image, source, f"{package}._core", folders, ["-std=gnu17"], sources)
    return f"{package.replace('.', '/')}/{module.name}", module


def _load(path: Path) -> Any:
    """Import a file by its path: its package may not be installed here."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise MachineError(f"{path}: not to be imported")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise MachineError(f"{error}: {sys.executable} -m pip install cffi") from error
    return module


def _zig(image: Image, *words: str) -> str:
    cache = str(image.cache.directory / "zig")
    result = subprocess.run(
        [sys.executable, "-m", "ziglang", *words],
        env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if result.returncode:
        raise MachineError(f"{result.stdout.strip()}\ncannot cross-compile: zig {words[0]}")
    return result.stdout
