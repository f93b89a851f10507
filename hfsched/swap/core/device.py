"""Whether this process can swap: the extension, and the library of the compressed tier."""

from __future__ import annotations

import importlib
import mmap
from typing import Any

__all__ = ["core", "problem", "tier_problem"]


def core() -> Any:
    """Return the extension (`lib` and `ffi`); raises ImportError where it was not built."""
    return importlib.import_module("hfsched.swap.core._core")


def problem() -> str | None:
    """Return in a line why this process cannot swap guest memory at all; None: it can.

    `hfsched.swap.core.userfault` checks whether the guests' accesses can be served.
    """
    if mmap.PAGESIZE != 4096:
        return f"this kernel's pages have {mmap.PAGESIZE} bytes: swap needs 4096"
    try:
        core()
    except ImportError:
        return "its extension was not built: install gcc and Python's headers, then hfsched again"
    return None


def tier_problem() -> str | None:
    """Return in a line why there can be no compressed tier; None: there can."""
    why = problem()
    if why is not None:
        return why
    loaded = core()
    text = loaded.lib.hfs_tier_problem()
    return None if text == loaded.ffi.NULL else loaded.ffi.string(text).decode()
