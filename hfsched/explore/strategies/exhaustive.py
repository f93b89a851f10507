"""Stateful depth-first search with sleep sets: every interleaving, once.

Sources: P. Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", LNCS
1032 (sleep sets, and how they go with a state cache: section 5.3); G. Holzmann's hash compaction.

States are visited by running each schedule from the beginning.  A node of the path knows which
tasks were enabled, which are asleep (what they would do was explored before, from here or from
above, and nothing since has touched it) and which remain.  The cache holds for each state, by a
64-bit digest, the sleep set with which it was explored: coming again with a sleep set that holds all
of that one, nothing is left to do; else only what slept then and does not sleep now.

With a `bound`, no schedule has more than that many preemptions (M. Musuvathi and S. Qadeer,
"Iterative Context Bounding", PLDI 2007); the count is then part of the state, and sleep sets are
off, for a task that sleeps may have been explored at a higher price.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfsched.explore.runtime import Cut
from hfsched.explore.task import dependent, touches

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.task import Task

__all__ = ["Exhaustive"]


Touched = tuple[tuple[str, bool], ...]  # what a step touches besides its first operation
Sleepers = dict[int, Touched]  # tasks by index, with what their next step touches


class _Node:
    __slots__ = ("asleep", "choice", "done", "left", "touched")

    def __init__(self, left: list[int], asleep: Sleepers) -> None:
        self.left = left  # what is still to be explored, the next one last
        self.asleep = asleep
        self.done: Sleepers = {}  # what was explored from here
        self.choice = left.pop()
        self.touched: Touched = ()  # by the step of `choice`


class Exhaustive:
    """Every interleaving (`bound` None), or every one with at most `bound` preemptions.

    `states` counts the different states seen at points where there was a choice.  Without `cache`
    no state is remembered, and without `sleep` no task sleeps: slower, for comparison.
    """

    def __init__(self, bound: int | None = None, *, cache: bool = True, sleep: bool = True) -> None:
        self.name = "exhaustive" if bound is None else "bounded"
        self.bound = bound
        self._caching = cache
        self._sleeping = sleep and bound is None
        self.every_point = self._sleeping  # every step can wake a sleeper
        self.stateful = cache
        self._cache: dict[int, frozenset[int]] = {}
        self._path: list[_Node] = []
        self._depth = 0
        self._preemptions = 0
        self._asleep: Sleepers = {}
        self._node: _Node | None = None  # the one that the last step was chosen at
        self._runtime: ExploreRuntime | None = None
        self.began = False

    @property
    def states(self) -> int:
        """How many states were seen."""
        return len(self._cache)

    def begin(self) -> bool:
        if self.began and not self._advance():
            return False
        self.began = True
        self._depth = 0
        self._preemptions = 0
        self._asleep = {}
        self._node = None
        return True

    def _advance(self) -> bool:
        """Take the next choice of the deepest node that has one; False: none has."""
        while self._path:
            node = self._path[-1]
            node.done[node.choice] = node.touched
            if node.left:
                node.choice = node.left.pop()
                return True
            self._path.pop()
        return False

    def pick(self, runtime: ExploreRuntime, current: Task | None, enabled: list[Task]) -> Task:
        self._runtime = runtime
        if self._sleeping:
            self._look_back(runtime)
        if len(enabled) == 1:
            if enabled[0].index in self._asleep:
                raise Cut
            if self._asleep:
                self._fall_asleep(runtime, self._asleep, enabled[0])
            return enabled[0]
        if self._depth < len(self._path):
            node = self._path[self._depth]
        else:
            node = self._visit(runtime, current, enabled)
            self._path.append(node)
        self._depth += 1
        chosen = runtime.tasks[node.choice]
        if current is not None and chosen is not current:
            self._preemptions += 1
        if self._sleeping:
            self._node = node
            self._fall_asleep(runtime, node.asleep | node.done, chosen)
        return chosen

    def _look_back(self, runtime: ExploreRuntime) -> None:
        """Learn what the last step has touched besides its first operation; wake whom it concerns."""
        touched = runtime.touched
        if self._node is not None:
            self._node.touched = tuple(touched)
            self._node = None
        if touched and self._asleep:
            self._asleep = {
                index: theirs
                for index, theirs in self._asleep.items()
                if not touches(runtime.tasks[index], touched) and not _meet(theirs, touched)
            }

    def _fall_asleep(self, runtime: ExploreRuntime, candidates: Sleepers, chosen: Task) -> None:
        """Keep asleep what the step of `chosen` does not touch, as far as its operation tells."""
        self._asleep = {
            index: theirs
            for index, theirs in candidates.items()
            if not dependent(runtime.tasks[index], chosen) and not touches(chosen, theirs)
        }

    def _visit(self, runtime: ExploreRuntime, current: Task | None, enabled: list[Task]) -> _Node:
        asleep = frozenset(self._asleep)
        candidates = [task.index for task in enabled if task.index not in asleep]
        if self._caching:
            key = runtime.state_key()
            if self.bound is not None:
                last = -1 if current is None else current.index
                key = hash((key, self._preemptions, last))
            known = self._cache.get(key)
            if known is None:
                self._cache[key] = asleep
            else:
                candidates = [index for index in candidates if index in known]
                self._cache[key] = known & asleep
        if self.bound is not None and self._preemptions >= self.bound and current is not None:
            candidates = [index for index in candidates if index == current.index]
        if not candidates:
            raise Cut
        # The one that keeps the current task comes first, that is last in the list.
        candidates.sort(key=lambda index: (current is not None and index == current.index, -index))
        return _Node(candidates, self._asleep)

    def value(self, runtime: ExploreRuntime, name: str, n: int) -> int:  # noqa: ARG002
        if self._depth < len(self._path):
            node = self._path[self._depth]
        else:
            node = _Node(list(range(n - 1, -1, -1)), {})
            self._path.append(node)
        self._depth += 1
        return node.choice

    def end(self, outcome: Outcome) -> None:  # noqa: ARG002
        if self._sleeping and self._runtime is not None:
            self._look_back(self._runtime)
            self._runtime = None


def _meet(one: Sequence[tuple[str, bool]], two: Sequence[tuple[str, bool]]) -> bool:
    """Tell whether two steps access the same thing, one of them writing."""
    return any(a == b and (write or writes) for a, write in one for b, writes in two)
