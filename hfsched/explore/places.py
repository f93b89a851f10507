"""Where in the explored code something is done: "file.py:12 in function"."""

from __future__ import annotations

import os
import sys
from contextlib import _GeneratorContextManager
from pathlib import Path
from types import CodeType, FrameType

__all__ = ["Place", "caller", "place_of_frame", "text_of"]

Place = tuple[CodeType, int]  # the code and the line

_OWN = str(Path(__file__).parent) + os.sep
_LIBRARY = {_GeneratorContextManager.__enter__.__code__.co_filename}


def _is_machinery(code: CodeType) -> bool:
    return code.co_filename in _LIBRARY or code.co_filename.startswith(_OWN)


def place_of_frame(frame: FrameType | None) -> Place | None:
    """Return the place of the innermost frame that is not the explorer's own; None: there is none."""
    while frame is not None and _is_machinery(frame.f_code):
        frame = frame.f_back
    return None if frame is None else (frame.f_code, frame.f_lineno)


def caller() -> Place | None:
    """Return where the explored code is now, in the running task."""
    return place_of_frame(sys._getframe(1))


def text_of(place: Place | None) -> str:
    """Return a place as text, empty for None."""
    if place is None:
        return ""
    code, line = place
    return f" at {Path(code.co_filename).name}:{line}"
