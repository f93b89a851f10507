"""What operations are done on: the base class of locks, events, cells and all else that tasks share.

Every operation first calls `Controller.point`, at which other tasks may run; what follows is atomic
up to the task's next operation.

`key` of a thing is its state (see `hfsched.explore.canonical`); it is computed only for strategies that
compare states.  `peek` is its value for display.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from hfsched.explore.canonical import encode
from hfsched.explore.misuse import used_after_close
from hfsched.explore.places import Place, caller

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.task import Task

__all__ = ["Thing"]


class Thing:
    """The object of an operation."""

    what = "thing"  # in messages

    def __init__(self, runtime: ExploreRuntime, name: str) -> None:
        self.runtime = runtime
        self.controller = runtime.controller
        self.name = name
        self.clock: dict[int, int] = {}  # vector clock, for the race detector
        self.unordered = False  # it orders no accesses to shared values
        self.private = False  # only one task uses it: `user`, after its first use
        self.user: Task | None = None
        self.exclusive: tuple[str, Callable[[], bool]] | None = None  # see `declare_exclusive`
        self.closer: tuple[str, Place | None] | None = None  # who has closed it, and where
        table = self.controller.table
        table.things.append(self)
        table.note_created(name, self.controller.current)

    @property
    def place(self) -> str:
        """What it is and its name, for messages."""
        return f"{self.what} {self.name}"

    def note_closed(self) -> None:
        """Record that the current task closes it, for `check_open`."""
        task = self.controller.current
        self.closer = ("the scenario" if task is None else task.name, caller())

    def check_open(self, kind: str) -> None:
        """Fail if it was closed; for the operation `kind` of the current task."""
        task = self.controller.current
        if self.closer is not None and task is not None:
            self.controller.fail(used_after_close(task, kind, self, *self.closer))

    def key(self) -> Hashable:
        """Return the state."""
        return None

    def whole(self) -> object:
        """Return the state, computed anew."""
        return self.key()

    def plain_key(self) -> object:
        """Return the state as a value of built-in types; raises NoCanonicalFormError."""
        return encode(self.key(), self.place)

    def peek(self) -> object:
        """Return the value, without a point; None for a thing that has none."""
        return None
