"""A runtime for tests that control every step of every task.

`Stepwise.go` runs one task until it sleeps, ends, or reaches an operation whose label begins with the
given text, and stops it there.  So a test forces an interleaving by naming its operations::

    world = Stepwise()
    ...
    world.go("echo.0", until="ran 2.0 WaitForMessage")
    host.send(b"now")
    world.settle()

The test itself is no task: its own operations never pause, and raise `WouldSleepError` if they would
sleep; so no task is stopped while it holds a lock, which the test could not take.  Only `advance`
changes the time.  A label is an operation of `Runtime`, as in "lock g.mirror", "wait g.turn",
"get g.kick", "checkpoint NAME", or the kind that the test's own code passes to `point`.
(Prior art: trio.testing's `Sequencer` and `MockClock`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from hfsched.explore.controller import Pause, StepsExceededError
from hfsched.explore.handles import TaskHandle
from hfsched.explore.runtime import ExploreRuntime

if TYPE_CHECKING:
    import random

    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task
    from hfsched.explore.thing import Thing

__all__ = ["StepsExceededError", "Stepwise", "WouldSleepError"]

START = 1_000_000  # ns


class WouldSleepError(Exception):
    """The test itself called an operation that sleeps."""


class _StepwiseStrategy:
    """Follows the test's last request."""

    name = "stepwise"
    stateful = True  # locks check that guarded state changes only under them
    every_point = True

    def __init__(self) -> None:
        self.target: Task | None = None  # the one task that may run; None: all
        self.until: str | None = None
        self.order: random.Random | None = None
        self.moved = False
        self.holds_lock: Callable[[Task], bool] = lambda _task: False

    def begin(self) -> bool:
        """See `Strategy`; there is one execution."""
        return True

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:  # noqa: ARG002
        """See `Strategy`."""
        target = self.target
        if target is None:
            if self.order is not None:
                return self.order.choice(enabled)
            return current or enabled[0]
        reached = self.until is not None and label_of(target).startswith(self.until)
        if target not in enabled or (self.moved and reached and not self.holds_lock(target)):
            raise Pause
        self.moved = True
        return target

    def value(self, view: View, name: str, n: int) -> int:  # noqa: ARG002
        """See `Strategy`."""
        return 0

    def end(self, outcome: Outcome) -> None:
        """See `Strategy`."""


def label_of(task: Task) -> str:
    """Return the label of a task's pending operation: its kind, and the thing's name."""
    return task.kind if task.thing is None else f"{task.kind} {task.thing.name}"


class _Handle(TaskHandle):
    """A task's handle; `join` by the test, which cannot sleep, settles all tasks."""

    def __init__(self, world: Stepwise, task: Task) -> None:
        super().__init__(world.controller, task)
        self._world = world

    def join(self, deadline: int | None = None) -> bool:
        if self._world.current is None:
            self._world.settle()
            return self.task.done
        return super().join(deadline)


class Stepwise(ExploreRuntime):
    """A runtime under a test's control; see the module's docstring.

    After `steps_max` operations of the whole test `StepsExceededError` is raised.  Use it in a
    ``with``, or call `close`: tasks that have not ended are unwound.
    """

    def __init__(self, steps_max: int = 20_000) -> None:
        self._strategy = _StepwiseStrategy()
        super().__init__(self._strategy, joining=False, steps_max=steps_max)
        self._strategy.holds_lock = lambda task: any(
            lock.owner is task for lock in self.controller.table.locks()
        )
        self.controller.time = START
        self.controller.on_outside = self._check_outside
        self.stop_clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def go(self, name: str, until: str | None = None) -> str:
        """Run one task; return the label at which it stopped, "asleep THING" or "done"."""
        task = self.task(name)
        self._strategy.target, self._strategy.until, self._strategy.moved = task, until, False
        self._run()
        if task.done:
            return "done"
        label = label_of(task)
        if task.enabled(self.time) or (until is not None and label.startswith(until)):
            return label
        return "asleep" if task.thing is None else f"asleep {task.thing.name}"

    def settle(self) -> None:
        """Run every task until all of them sleep or have ended."""
        self.shuffle(None)

    def shuffle(self, order: random.Random | None) -> None:
        """Like `settle`, but `order` chooses the task at every operation."""
        self._strategy.target, self._strategy.order = None, order
        self.controller.previous = None  # in order of creation
        self._run()

    def advance(self, ns: int) -> None:
        """Advance the time: tasks whose deadline it reaches are no longer asleep."""
        self.controller.time += ns

    def spawn(self, name: str, fn: Callable[[], None]) -> TaskHandle:
        """Create a task, not started yet; its `join` by the test settles all tasks first."""
        return _Handle(self, super().spawn(name, fn).task)

    def interrupt(self, name: str, error: type[BaseException]) -> None:
        """Raise an exception in a task that sleeps, as a signal handler may, and run it."""
        task = self.task(name)
        task.condition, task.kind, task.thing = None, "interrupted", None
        self._strategy.target, self._strategy.until, self._strategy.moved = task, None, False
        self.controller.throw(task, error)
        self._raise_failure()

    def task(self, name: str) -> Task:
        """Return the task of this name; LookupError without one."""
        for task in self.tasks:
            if task.name == name and task.act is None:
                return task
        raise LookupError(f"no task {name}")

    def asleep(self) -> list[str]:
        """Return the names of the tasks that sleep."""
        return [
            task.name
            for task in self.tasks
            if task.act is None and not task.done and not task.enabled(self.time)
        ]

    def close(self) -> None:
        """Unwind every task that has not ended."""
        self.controller.close()

    def _run(self) -> None:
        self.controller.explore()
        self._raise_failure()

    def _raise_failure(self) -> None:
        controller = self.controller
        failure, failed = controller.failure, controller.failed_task
        if failure is not None:
            controller.failure = controller.failed_task = None
            if failed is not None and failed.glet.dead:
                controller.end(failed)
            raise failure

    def _check_outside(
        self, thing: Thing | None, condition: Callable[[], bool] | None, deadline: int | None
    ) -> None:
        if condition is None or condition() or (deadline is not None and deadline <= self.time):
            return
        raise WouldSleepError("a sleep" if thing is None else thing.name)
