"""What is known of functions and classes in Python that are not watched."""

from __future__ import annotations

import sys
from types import FunctionType

from hfsched.explore.watch.rules import COPIES, NOTHING, READS, WRITES_FIRST

__all__ = ["field_names", "has_own_init", "is_known", "is_made", "is_named_tuple", "prints_fields"]


def is_known(function: FunctionType) -> bool:
    """Return whether a function of the standard library has a rule by its name."""
    name, module = function.__name__, function.__module__.partition(".")[0]
    known = any(name in rules for rules in (READS, WRITES_FIRST, COPIES, NOTHING))
    return known and module in sys.stdlib_module_names and module != "ctypes"


def is_made(file: str) -> bool:
    """Return whether code was made without a file; some of the standard library's is frozen."""
    return not file.endswith(".py") and not file.startswith("<frozen ")


def prints_fields(kind: type) -> bool:
    """Return whether a class's `__repr__` is a dataclass's, and its `__str__` that."""
    made = getattr(kind, "__repr__", None)
    made = getattr(made, "__wrapped__", made)
    return (
        hasattr(kind, "__dataclass_fields__")
        and isinstance(made, FunctionType)
        and is_made(made.__code__.co_filename)
    )


def has_own_init(kind: type) -> bool:
    """Return whether a class has an `__init__` or `__new__` with a source."""
    for name in ("__init__", "__new__"):
        made = getattr(kind, name, None)
        if isinstance(made, FunctionType) and made.__code__.co_filename.endswith(".py"):
            return True
    return False


def is_named_tuple(kind: type) -> bool:
    """Return whether a class is a named tuple, whose constructor only keeps its arguments."""
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def field_names(kind: type) -> list[str]:
    """Return the names of the fields that a class's constructor stores its arguments in."""
    return [*getattr(kind, "__struct_fields__", ()), *getattr(kind, "__dataclass_fields__", ())]
