"""What objects and files are called in messages, and what a weak proxy stands for."""

from __future__ import annotations

import os
import weakref
from types import CellType
from typing import Any

__all__ = ["name_of", "referent", "shortened"]


def referent(of: Any) -> Any:
    """Return what a weak proxy stands for; of another object, itself."""
    if type(of) not in weakref.ProxyTypes:
        return of
    bound = getattr(of, "__reduce_ex__", None)  # the proxy has none, so it is the referent's
    return getattr(bound, "__self__", of)


def name_of(of: Any, serial: int) -> str:
    """Return what an object is, for a message."""
    if isinstance(of, type):
        return of.__qualname__
    if isinstance(of, dict) and isinstance(of.get("__name__"), str) and "__builtins__" in of:
        return str(of["__name__"])  # a module's
    if isinstance(of, CellType):
        return "variable"
    kind = type(of).__qualname__
    name = getattr(of, "__dict__", {}).get("name")
    return f"{kind} {name}" if isinstance(name, str) else f"{kind}#{serial}"


def shortened(file: str) -> str:
    """Return a path as it is seen from the working directory, if it is below that."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative
