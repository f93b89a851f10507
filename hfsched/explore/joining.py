"""Which operations belong to the step before them, and so are no points of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hfsched.explore.task import Task, Touched
    from hfsched.explore.thing import Thing

__all__ = ["joins"]


def joins(
    task: Task,
    thing: Thing,
    write: bool,  # noqa: FBT001 - positional: this is called at most points
    condition: Callable[[], bool] | None,
    also: Sequence[Thing],
    touched: Touched,
) -> bool:
    """Return whether an operation belongs to the step before it; add its accesses to `touched`.

    An operation on a thing that no other task uses is invisible to other tasks.  And taking a lock
    can be delayed until just before the first operation inside that never blocks, since no other
    task observes the difference: lock, operation and unlock are one step (R. Lipton, "Reduction",
    CACM 18(12), 1975).  Neither holds for a task of a process, which may die in between.
    """
    if thing.private:
        if thing.user is not None and thing.user is not task:
            raise InternalError(f"{thing.name} is private, and {task.name} uses it too")
        thing.user = task
    if task.group is not None:
        return False
    if not thing.private:
        exclusive = thing.exclusive
        if exclusive is not None and exclusive[0] == task.name and exclusive[1]():
            if condition is not None and not condition():
                return False
        elif condition is None and task.entered:
            task.entered = False
            touched += [(each.name, write) for each in (thing, *also)]
        else:
            return False
    return True
