"""The extension, and what of userfaultfd this process has.  Nothing here raises."""

from __future__ import annotations

import importlib
import mmap
from typing import Any

__all__ = ["core", "problem", "tier_problem"]


def core() -> Any:
    """Return the extension (`lib` and `ffi`); raises ImportError where it was not built."""
    return importlib.import_module("hfsched.swap.core._core")


def problem() -> str | None:
    """Say in a line why guest memory cannot be swapped by this process at all; None: it can.

    `hfsched.memory.userfault` says of which guests.
    """
    if mmap.PAGESIZE != 4096:
        return f"this kernel's pages have {mmap.PAGESIZE} bytes: swap needs 4096"
    try:
        core()
    except ImportError:
        return "its extension was not built: install gcc and Python's headers, then hfsched again"
    return None


def tier_problem() -> str | None:
    """Say in a line why there can be no compressed tier; None: there can."""
    why = problem()
    if why is not None:
        return why
    loaded = core()
    text = loaded.lib.hfs_tier_problem()
    return None if text == loaded.ffi.NULL else loaded.ffi.string(text).decode()
