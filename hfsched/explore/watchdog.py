"""Ends a step that does not come back: a task that blocks, or spins, outside the runtime.

Between two points a task runs alone.  Where it waits there for what only another task could give it, a real
`threading.Lock` for example, no task runs any more, and no search comes to its budget's end.  So
`hfsched.runtime.threads.stalls` looks at the controller's steps, and raises `StuckError` where the task
blocks: the end of that execution, and its failure.
"""

from __future__ import annotations

import linecache
import os
import sysconfig
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from hfsched.explore.places import place_of_frame
from hfsched.runtime.threads.stalls import watching_for_stalls

if TYPE_CHECKING:
    from hfsched.explore.controller import Controller

__all__ = ["StuckError", "watching"]

_LIBRARY = sysconfig.get_path("stdlib") + os.sep


class StuckError(BaseException):
    """A task does not come back to a point of the runtime; no code under test is to catch this."""


class _Execution:
    """See `hfsched.runtime.threads.stalls.Work`."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def mark(self) -> int:
        return id(self._controller) ^ self._controller.steps

    def stalled(self, frame: FrameType | None) -> StuckError:
        """Return who does not come back, from where."""
        current = self._controller.current
        who = "the scenario" if current is None else f"task {current.name}"
        inside = ""
        while frame is not None and frame.f_code.co_filename.startswith(_LIBRARY):
            inside = f" (in {Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname})"
            frame = frame.f_back
        place = place_of_frame(frame)
        if place is None:
            return StuckError(f"{who} does not come back to the runtime")
        code, line = place
        source = linecache.getline(code.co_filename, line).strip()
        return StuckError(
            f"{who} does not come back to the runtime: it blocks or spins outside it, at"
            f" {Path(code.co_filename).name}:{line}: {source}{inside}"
        )


def watching(controller: Controller) -> AbstractContextManager[None]:
    """Watch an execution, which this thread runs."""
    return watching_for_stalls(_Execution(controller))
