"""What is said of the mistakes of a guest's author: where, and what was probably meant."""

from __future__ import annotations

import os
import traceback
from collections.abc import Generator

from hfsched.errors import place_of
from hfsched.text import safe_repr

__all__ = ["no_generator", "raised", "yielded"]

_LIBRARY = "hfsched/programs/library.py"


def raised(error: BaseException) -> str:
    """Return what an exception is that left the guest; HFSCHED_TRACEBACK prints all of it."""
    if os.environ.get("HFSCHED_TRACEBACK"):
        traceback.print_exception(error)
    hint = ": a call of the library needs `yield from` before it" if _stepped(error) else ""
    return f"the guest function raised {safe_repr(error)}{place_of(error)}{hint}"


def no_generator(value: object) -> str:
    """Return what a guest function is that returned a value at once."""
    return (
        f"the guest function is no generator: it returned {safe_repr(value, 80)}:"
        " it has to `yield` hypercalls, or `yield from` calls of the library"
    )


def yielded(value: object) -> str:
    """Return what is said of a value that is no action."""
    if isinstance(value, Generator):
        name = getattr(value, "__name__", "...")
        return f"the guest function yielded a generator: write `yield from {name}(...)`"
    return f"the guest function yielded {safe_repr(value)}: it has to yield Hvc, Wfi, Load, ..."


def _stepped(error: BaseException) -> bool:
    """Return whether a generator was used as a value, or one of the library was run by something else."""
    if not isinstance(error, TypeError | ValueError | AttributeError):
        return False
    trace = error.__traceback__
    last = None
    while trace is not None:
        last, trace = trace.tb_frame, trace.tb_next
    library = last is not None and last.f_code.co_filename.endswith(_LIBRARY)
    return "generator" in safe_repr(error) or (library and "NoneType" in safe_repr(error))
