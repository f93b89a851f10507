"""What looks at the frames of its callers does not see the hook that calls it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any

__all__ = ["hide", "looked_from", "looks_at_frames"]

_LOOKING = frozenset(map(id, (sys._getframe, inspect.currentframe, inspect.stack)))
_hidden: set[CodeType] = set()


def hide(hook: Callable[..., Any]) -> None:
    """Note a function that calls for watched code."""
    assert isinstance(hook, FunctionType)
    _hidden.add(hook.__code__)


def looks_at_frames(function: Any) -> bool:
    """Return whether a function returns frames of its callers."""
    return id(function) in _LOOKING


def looked_from(frame: FrameType, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what such a function returns to plain code in `frame`."""
    if function is inspect.currentframe:
        return frame
    if function is inspect.stack:
        found = inspect.getouterframes(frame, *args, **kwargs)
        return [each for each in found if each.frame.f_code not in _hidden]
    for _ in range(args[0] if args else 0):
        frame = _caller(frame)
    return frame


def _caller(frame: FrameType) -> FrameType:
    caller = frame.f_back
    while caller is not None and caller.f_code in _hidden:
        caller = caller.f_back
    if caller is None:
        raise ValueError("call stack is not deep enough")
    return caller
