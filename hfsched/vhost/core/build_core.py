"""Builds the extension `_core` (cffi, API mode): the compiler checks `_CDEF` against the headers.

pip runs it through ``setup.py``; ``python -m hfsched.vhost.core.build_core`` builds in the source tree.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from cffi import FFI

__all__ = ["builder"]

_HERE = Path(__file__).resolve().parent
_TOP = _HERE.parents[2]

_CDEF = """
int hfv_open(void);
int hfv_read(uint8_t *to, uint64_t from, uint64_t size);
int hfv_write(uint64_t to, const uint8_t *from, uint64_t size);
int hfv_fill(uint64_t to, int byte, uint64_t size);
int hfv_load16(uint64_t from);
int hfv_store16(uint64_t to, uint16_t value);
int hfv_or8(uint64_t to, uint8_t bits);
void hfv_fence(void);
"""


def builder(top: Path = Path()) -> FFI:
    """Return the description of the extension for cffi; its files are named relative to `top`."""
    folder = top / "hfsched" / "vhost" / "core"
    ffi = FFI()
    ffi.cdef(_CDEF)
    ffi.set_source(
        "hfsched.vhost.core._core",
        '#include "core.h"\n',
        sources=[str(folder / path.name) for path in sorted(_HERE.glob("*.c"))],
        depends=[str(folder / path.name) for path in sorted(_HERE.glob("*.h"))],
        include_dirs=[str(folder)],
        libraries=["pthread"],
        extra_compile_args=["-std=gnu17", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
        optional=True,  # without a compiler the rest of hfsched works
    )
    return ffi


def main() -> None:
    """Build it into the source tree."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # a directory without a pyproject.toml
        made = builder(_TOP).compile(tmpdir=folder)
        shutil.copy2(made, _HERE)


if __name__ == "__main__":
    main()
