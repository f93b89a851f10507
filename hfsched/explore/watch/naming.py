"""How messages name objects and files."""

from __future__ import annotations

import os
from collections.abc import Hashable
from types import CellType, ModuleType
from typing import Any

from hfsched.explore.watch.places import dict_of

__all__ = ["name_of", "shortened", "text_of"]


def name_of(of: Any, serial: int) -> str:
    """Return what an object is, for a message."""
    if issubclass(type(of), type):
        return str(of.__qualname__)
    if type(of) is dict and isinstance(of.get("__name__"), str) and "__builtins__" in of:
        return str(of["__name__"])  # a module's
    if issubclass(type(of), ModuleType):
        return str(of.__name__)
    if type(of) is CellType:
        return "variable"
    kind = type(of).__qualname__
    name = (dict_of(of) or {}).get("name")
    return f"{kind} {name}" if isinstance(name, str) else f"{kind}#{serial}"


def text_of(key: Hashable) -> str:
    """Return a key's text; its `__repr__` may be the program's, and fail."""
    try:
        return repr(key)
    except Exception:  # noqa: BLE001 - of any type
        return f"a {type(key).__qualname__}"


def shortened(file: str) -> str:
    """Return a path as it is seen from the working directory, if it is below that."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative
