"""Divides a search into tasks that any worker can run.

- Random strategies: chunks of executions, each with its own seed, without end.
- Bounded search: one task a bound, 0, 1, 2 ...
- Exhaustive search: sub-trees.  Each worker caches the states that it has covered, so a state may be
  explored once by each; the search is complete when every sub-tree is.
- Portfolio: all of these in turn.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hfsched.explore.campaign.tasks import Found, Report, Task
from hfsched.explore.execution import execute
from hfsched.explore.registry import find
from hfsched.explore.strategies.choose import RANDOM

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task as RuntimeTask

__all__ = ["Plan", "roots"]

CHUNK = 500  # executions of a random strategy in one task
ROOTS = 8  # sub-trees for each worker


class _BranchProbe:
    """Follows choices, and records the alternatives at the next choice."""

    name = "probe"
    stateful = False
    every_point = False

    def __init__(self, root: tuple[int, ...]) -> None:
        self._root = root
        self._depth = 0
        self.next: tuple[int, ...] = ()

    def begin(self) -> bool:
        """See `Strategy`."""
        return True

    def pick(
        self, view: View, current: RuntimeTask | None, enabled: list[RuntimeTask]
    ) -> RuntimeTask:
        """See `Strategy`."""
        if len(enabled) == 1:
            return enabled[0]
        self._choices(tuple(task.index for task in enabled))
        if self._depth <= len(self._root):
            return view.tasks[self._root[self._depth - 1]]
        return current or enabled[0]

    def value(self, view: View, name: str, n: int) -> int:  # noqa: ARG002
        """See `Strategy`."""
        self._choices(tuple(range(n)))
        return self._root[self._depth - 1] if self._depth <= len(self._root) else 0

    def _choices(self, choices: tuple[int, ...]) -> None:
        if self._depth == len(self._root):
            self.next = choices
        self._depth += 1

    def end(self, outcome: Outcome) -> None:
        """See `Strategy`."""


def roots(
    spec: str, wanted: int, over: Callable[[], bool] = lambda: False
) -> list[tuple[int, ...]]:
    """Divide a scenario's tree into about `wanted` sub-trees; return the choices that lead to each.

    A branch that ends before it divides is a sub-tree too.  There are fewer if `over` returns True.
    """
    scenario = find(spec)
    open_: deque[tuple[int, ...]] = deque([()])
    closed: list[tuple[int, ...]] = []
    while open_ and len(open_) + len(closed) < wanted and not over():
        root = open_.popleft()
        probe = _BranchProbe(root)
        execute(scenario, probe)
        if probe.next:
            open_.extend((*root, choice) for choice in probe.next)
        else:
            closed.append(root)
    return closed + list(open_)


class Plan:
    """The tasks of one search, and their reports.

    `take` returns the next task, None if there is none at present; `give_back` takes one whose worker
    was lost; `note` takes a report.  `found` is the first failure, `error` the reason why a task could
    not be run; `full` says that a worker has used its `memory` (bytes).  `executions`, `steps` and `states` are sums over all tasks.
    """

    def __init__(
        self,
        spec: str,
        strategy: str,
        seed: int,
        bound: int | None,
        parallel: int,
        over: Callable[[], bool] = lambda: False,
        memory: int = 0,
    ) -> None:
        self.spec = spec
        self.strategy = strategy
        self.found: Found | None = None
        self.error: str | None = None
        self.full = False
        self._memory = memory
        self._seeds = random.Random(seed)  # noqa: S311 - schedules, no secrets
        self._campaign = random.SystemRandom().getrandbits(63)
        self._bound = bound
        self._returned: deque[Task] = deque()
        self._number = 0
        self._trees: set[int] | None = None  # sub-trees that are not complete yet
        self._bounds: dict[int, int] = {}  # task -> bound
        self._clean: dict[int, int] = {}  # bound that is complete -> its executions
        self._last_bound: int | None = None
        self._ended = [0, 0, 0]  # executions, steps and states of the tasks that have ended
        self._running: dict[int, Report] = {}  # the last report of those that have not
        self._streams = list(self._all_streams(parallel, over))

    def _all_streams(self, parallel: int, over: Callable[[], bool]) -> Iterator[Iterator[Task]]:
        if self.strategy in ("exhaustive", "portfolio"):
            found = roots(self.spec, ROOTS * parallel, over)
            trees = [self._task("exhaustive", root=root) for root in found]
            self._trees = {task.number for task in trees}
            yield iter(trees)
        if self.strategy in ("bounded", "portfolio"):
            yield self._bounded()
        if self.strategy in RANDOM or self.strategy == "portfolio":
            yield self._random()

    def _task(self, strategy: str, **more: int | tuple[int, ...]) -> Task:
        self._number += 1
        spec = os.fsencode(self.spec)
        known: dict[str, Any] = {"campaign": self._campaign, "memory": self._memory, **more}
        return Task(self._number, spec, strategy, **known)

    def _bounded(self) -> Iterator[Task]:
        bound = 0 if self._bound is None else self._bound
        while self._last_bound is None or bound <= self._last_bound:
            task = self._task("bounded", bound=bound)
            self._bounds[task.number] = bound
            yield task
            if self._bound is not None:
                return
            bound += 1

    def _random(self) -> Iterator[Task]:
        names = RANDOM if self.strategy == "portfolio" else (self.strategy,)
        while True:
            for name in names:
                yield self._task(name, seed=self._seeds.getrandbits(63), executions=CHUNK)

    def take(self) -> Task | None:
        """Return the next task."""
        if self._returned:
            return self._returned.popleft()
        while self._streams:
            stream = self._streams.pop(0)
            task = next(stream, None)
            if task is not None:
                self._streams.append(stream)
                return task
        return None

    def give_back(self, task: Task) -> None:
        """Take back a task whose worker was lost; its reports so far are discarded."""
        self._running.pop(task.number, None)
        self._returned.appendleft(task)

    def note(self, report: Report) -> None:
        """Take a report; a later one of the same task replaces it."""
        if not report.ended:
            self._running[report.number] = report
            return
        self._running.pop(report.number, None)
        for index, number in enumerate((report.executions, report.steps, report.states)):
            self._ended[index] += number
        if self.found is None:
            self.found = report.found
        if self.error is None:
            self.error = report.error
        self.full = self.full or report.full
        if not report.complete or report.found is not None or report.error is not None:
            return
        if self._trees is not None:
            self._trees.discard(report.number)
        bound = self._bounds.get(report.number)
        if bound is not None:
            self._note_bound(bound, report.executions)

    def _note_bound(self, bound: int, executions: int) -> None:
        self._clean[bound] = executions
        for lower in (bound - 1, bound):  # reports come in any order
            if lower in self._clean and self._clean[lower] == self._clean.get(lower + 1):
                self._last_bound = lower  # no interleaving has more preemptions

    @property
    def executions(self) -> int:
        """The number of schedules run."""
        return self._ended[0] + sum(report.executions for report in self._running.values())

    @property
    def steps(self) -> int:
        """The number of their steps."""
        return self._ended[1] + sum(report.steps for report in self._running.values())

    @property
    def states(self) -> int:
        """The number of states visited; a state counts once for each task that has visited it."""
        return self._ended[2] + sum(report.states for report in self._running.values())

    @property
    def complete(self) -> bool:
        """Whether every interleaving was covered, without a failure."""
        if self.found is not None or self.error is not None:
            return False
        return self._last_bound is not None or (self._trees is not None and not self._trees)

    @property
    def complete_to(self) -> int | None:
        """The highest preemption bound up to which every interleaving is covered."""
        if self._bound is not None:
            return self._bound if self._bound in self._clean else None
        bound = -1
        while bound + 1 in self._clean:
            bound += 1
        return bound if bound >= 0 else None

    @property
    def done(self) -> bool:
        """Whether no further task can change the result."""
        if self.found is not None or self.error is not None or self.complete or self.full:
            return True
        return self._bound is not None and self._bound in self._clean
