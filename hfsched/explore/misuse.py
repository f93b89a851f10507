"""What no program may do with the things of a runtime, and the errors that say so.

Each is a failure of the schedule in which it happens, and ends it: the code under test cannot catch it.
"""

from __future__ import annotations

from inspect import isasyncgen, iscoroutine, isgenerator
from typing import TYPE_CHECKING

from hfsched.explore.canonical import RefusedError
from hfsched.explore.places import caller, text_of

if TYPE_CHECKING:
    from hfsched.explore.lock import XLock
    from hfsched.explore.places import Place
    from hfsched.explore.task import Task
    from hfsched.explore.thing import Thing

__all__ = [
    "DeadlockError",
    "LockMisuseError",
    "MisuseError",
    "UseAfterCloseError",
    "check_ran",
    "handed_over",
    "in_foreign_thread",
    "used_after_close",
    "wrongly_released",
]


class MisuseError(Exception):
    """A thing is used as none may be; the text names the task, the operation, the thing and the place."""


class UseAfterCloseError(MisuseError):
    """A thing is used after it was closed."""


class LockMisuseError(MisuseError):
    """A lock is released by a task that does not hold it."""


class DeadlockError(Exception):
    """Tasks wait for each other, or for a lock that nobody will release."""


def used_after_close(
    task: Task, kind: str, thing: Thing, closer: str, closed: Place | None
) -> UseAfterCloseError:
    """Return the error of an operation on a thing that `closer` has closed at `closed`."""
    return UseAfterCloseError(
        f"{thing.place} is used after close: {task.name} does {kind}{text_of(caller())};"
        f" {closer} has closed it{text_of(closed)}"
    )


def handed_over(task: Task, kind: str, thing: Thing, process: str) -> UseAfterCloseError:
    """Return the error of an operation on an end that `Runtime.process` has given away."""
    return UseAfterCloseError(
        f"{thing.place} is used after close: {task.name} does {kind}{text_of(caller())};"
        f" it was handed over to process {process}"
    )


def wrongly_released(task: Task, lock: XLock) -> LockMisuseError:
    """Return the error of a release by a task that does not hold the lock."""
    owner = lock.owner
    whose = (
        "nobody holds it" if owner is None else f"{owner.name} has taken it{text_of(lock.taken)}"
    )
    return LockMisuseError(
        f"{lock.place} is released by {task.name}{text_of(caller())}, but {whose}"
    )


def check_ran(task: Task, made: object) -> None:
    """Raise RefusedError for a task whose function has only made something that is to be run."""
    if iscoroutine(made):
        made.close()  # or Python warns of it
    elif not isgenerator(made) and not isasyncgen(made):
        return
    raise RefusedError(
        f"task {task.name}: its function returns a {type(made).__name__}, which nobody runs:"
        " give a function that runs to its end"
    )


def in_foreign_thread(kind: str, thing: Thing | None) -> RefusedError:
    """Return the refusal of an operation on a thread that is no task."""
    what = kind if thing is None else f"{kind} {thing.name}"
    return RefusedError(f"a thread that is no task does '{what}': start it by Runtime.spawn")
