"""Stateful depth-first search with sleep sets: every interleaving, once.

Sources: P. Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", LNCS
1032 (sleep sets, and how they go with a state cache: section 5.3); G. Holzmann's hash compaction.

States are visited by running each schedule from the beginning.  A node of the path has the enabled
tasks, the sleep set (tasks whose operation was explored before, from this node or an ancestor, with
no dependent step since) and the tasks that remain.  The cache holds for each state, by a 128-bit
digest, the sleep set with which it was explored: a later visit with a superset of that is pruned;
else it explores only the tasks that were in the cached set and are not in the current one.

A schedule that returns to a state of its own path has a cycle: a livelock if the cycle is fair
(`hfsched.explore.cycles`).  An unfair cycle may be part of a fair one that the search, which does
not explore a state twice, would not see: so once for each such state all tasks run in turn (a fair
run), and the cycle either ends or closes fairly.

With a `bound`, no schedule has more than that many preemptions, and `Runtime.choose` other than 0
counts as one: it stands for an interrupted guest (M. Musuvathi and S. Qadeer, "Iterative Context
Bounding", PLDI 2007); the count is then part of the state, and sleep sets are off, since a task in
one may have been explored with more preemptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfsched.explore.canonical import digest
from hfsched.explore.controller import Prune
from hfsched.explore.cycles import Cycles, LivelockError, fair, livelock_text
from hfsched.explore.schedule import Prefix
from hfsched.explore.statecache import StateCache
from hfsched.explore.task import dependent, touches

if TYPE_CHECKING:
    from hfsched.explore.digests import Knowledge
    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task

__all__ = ["Exhaustive"]


FAIR_RUN_MAX = 400  # points

Touched = tuple[tuple[str, bool], ...]  # accesses of a step besides its first operation
SleepSet = dict[int, Touched]  # tasks by index, with the further accesses of their next step


class _Node:
    __slots__ = (
        "before",
        "choice",
        "default",
        "done",
        "enabled",
        "fair_run_done",
        "key",
        "knowledge",
        "left",
        "preemptions",
        "preempts",
        "sleep_set",
        "steps",
        "touched",
    )

    def __init__(self, left: list[int], sleep_set: SleepSet) -> None:
        self.left = left  # choices to be explored, the next one last
        self.sleep_set = sleep_set
        self.done: SleepSet = {}  # explored from here
        self.choice = left.pop()
        self.touched: Touched = ()  # by the step of `choice`, for all numbers that it chose
        self.enabled: frozenset[int] | None = (
            None  # the enabled tasks; None: the choice of a number
        )
        self.default = 0  # the choice that is no deviation
        self.preempts = True  # whether another one is a preemption
        self.preemptions = 0  # before it
        self.key = b""  # of the state
        self.steps = 0  # of the execution before it
        self.knowledge: Knowledge | None = None  # the digests here, if the node is visited again
        self.before: _Node | None = None  # of the choice of a number: see `Exhaustive._node`
        self.fair_run_done = False


class Exhaustive:
    """Every interleaving (`bound` None), or every one with at most `bound` preemptions.

    `states` counts the distinct states visited at points with a choice.  Without `cache` there is no
    state cache, and without `sleep` there are no sleep sets: slower, for comparison.  States
    have digests with a cache, or if it is said so (`stateful`).

    `root` are the choices at the first points with one: the search stays in that sub-tree.  `seen` is
    the cache of complete searches of other sub-trees.
    """

    every_point = True  # every step may remove a task from the sleep set, and is one of a cycle

    def __init__(
        self,
        bound: int | None = None,
        *,
        cache: bool = True,
        stateful: bool | None = None,
        sleep: bool = True,
        root: Sequence[int] = (),
        seen: StateCache | None = None,
    ) -> None:
        self.name = "exhaustive" if bound is None else "bounded"
        self.bound = bound
        self._caching = cache
        self._sleeping = sleep and bound is None
        self.stateful = cache if stateful is None else stateful
        self._root = root
        self._cache = StateCache() if seen is None else seen
        self._path: list[_Node] = []
        self._depth = 0
        self._preemptions = 0
        self._sleep_set: SleepSet = {}
        self._node: _Node | None = None  # the node of the last step
        self._view: View | None = None
        self._on_path: dict[bytes, int] = {}  # state's key -> its node's position on the path
        self._ran: list[int] = []  # the tasks that ran in this execution, step by step,
        self._ran_before: list[int] = []  # and in the one before
        self._fair_run: Cycles | None = None
        self._fair_steps = 0
        self.began = False

    @property
    def states(self) -> int:
        """The number of states visited."""
        return len(self._cache)

    @property
    def memory(self) -> int:
        """The bytes that the cache of states takes."""
        return self._cache.size

    def take_prefix(self) -> Prefix | None:
        """Return the beginning of the next execution, up to the last node; see `Prefix`.

        Who takes it follows it without asking the strategy.
        """
        if not self._path:
            return None
        *nodes, last = self._path
        self._depth = len(nodes)
        self._preemptions = last.preemptions
        self._ran = self._ran_before[: last.steps]
        return Prefix(
            self._ran.copy(),
            [node.choice for node in nodes if node.enabled is None],
            [(at, node.choice) for at, node in enumerate(nodes) if node.choice != node.default],
            len(nodes),
            sum(node.preempts and node.choice != node.default for node in nodes),
        )

    def begin(self) -> bool:
        if self.began and not self._advance():
            return False
        self.began = True
        self._depth = 0
        self._preemptions = 0
        self._sleep_set = {}
        self._node = None
        self._ran_before, self._ran = self._ran, []
        self._fair_run = None
        self._fair_steps = 0
        return True

    def _advance(self) -> bool:
        """Take the next choice of the deepest node that has one; return False if there is none."""
        while self._path:
            node = self._path[-1]
            node.done[node.choice] = node.touched
            if node.left:
                node.choice = node.left.pop()
                node.touched = ()
                return True
            self._path.pop()
            if node.enabled is not None and self._on_path.get(node.key) == len(self._path):
                del self._on_path[node.key]
        return False

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        self._view = view
        if self._fair_run is not None:
            return self._step_fairly(self._fair_run, view, enabled)
        if self._depth < len(self._path):
            return self._repeat(view, current, enabled)
        if self._sleeping:
            self._apply_touched(view)
        if len(enabled) == 1:
            self._ran.append(enabled[0].index)
            if enabled[0].index in self._sleep_set:
                raise Prune
            if self._sleep_set:
                self._update_sleep_set(view, self._sleep_set, enabled[0])
            return enabled[0]
        if self._depth < len(self._root):
            node = _Node([self._root[self._depth]], {})
        else:
            node = self._visit(view, current, enabled)
            if self._fair_run is not None:
                return self._step_fairly(self._fair_run, view, enabled)
        node.enabled = frozenset(task.index for task in enabled)
        node.default = (current or enabled[0]).index
        node.preempts = current is not None
        self._push(node, view)
        return self._choose(node, view, current)

    def _push(self, node: _Node, view: View) -> None:
        """Add a node to the path; keep the digests if another choice is left."""
        node.steps = len(self._ran)
        node.preemptions = self._preemptions
        if self.stateful and node.left:
            node.knowledge = view.knowledge()
        self._path.append(node)

    def _repeat(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        """Repeat the previous execution up to the last node: all states before it are known."""
        view.stateful = False
        if len(enabled) == 1:
            self._ran.append(enabled[0].index)
            return enabled[0]
        node = self._path[self._depth]
        if self._depth + 1 == len(self._path):
            self._recall(node, view)
            return self._choose(node, view, current)
        return self._note_choice(node, view, current)

    def _recall(self, node: _Node, view: View) -> None:
        """Restore, at the last node of the path, the digests of the first visit."""
        if node.knowledge is not None:
            view.recall(node.knowledge)

    def _choose(self, node: _Node, view: View, current: Task | None) -> Task:
        """Run a node's choice for the first time."""
        chosen = self._note_choice(node, view, current)
        if self._sleeping:
            self._node = node
            self._update_sleep_set(view, node.sleep_set | node.done, chosen)
        return chosen

    def _note_choice(self, node: _Node, view: View, current: Task | None) -> Task:
        """Record that a node's choice runs."""
        self._depth += 1
        self._ran.append(node.choice)
        chosen = view.tasks[node.choice]
        if current is not None and chosen is not current:
            self._preemptions += 1
        return chosen

    def _step_fairly(self, fair_run: Cycles, view: View, enabled: list[Task]) -> Task:
        """Run all tasks in turn, beyond the states that the search covers."""
        self._fair_steps += 1
        if self._fair_steps > FAIR_RUN_MAX:
            raise Prune
        fair_run.check(view, enabled)
        chosen = fair_run.least_recently_run(enabled)
        fair_run.note_ran(chosen)
        return chosen

    def _apply_touched(self, view: View) -> None:
        """Record the last step's further accesses; remove dependent tasks from the sleep set."""
        touched = view.touched
        if self._node is not None:
            self._node.touched = tuple({*self._node.touched, *touched})
            self._node = None
        if touched and self._sleep_set:
            self._sleep_set = {
                index: theirs
                for index, theirs in self._sleep_set.items()
                if not touches(view.tasks[index], touched) and not _conflict(theirs, touched)
            }

    def _update_sleep_set(self, view: View, candidates: SleepSet, chosen: Task) -> None:
        """Keep in the sleep set the candidates that are independent of the operation of `chosen`."""
        self._sleep_set = {
            index: theirs
            for index, theirs in candidates.items()
            if not dependent(view.tasks[index], chosen) and not touches(chosen, theirs)
        }

    def _visit(self, view: View, current: Task | None, enabled: list[Task]) -> _Node:
        sleep_set = frozenset(self._sleep_set)
        candidates = [task.index for task in enabled if task.index not in sleep_set]
        key = b""
        if self._caching:
            key = view.state_key()
            if self.bound is not None:
                last = -1 if current is None else current.index
                key = digest((key, self._preemptions, last), "a state")
            known = self._cache.get(key)
            if known is None:
                self._cache.put(key, sleep_set)
            else:
                self._check_cycle(view, key)
                if self._fair_run is not None:
                    return _Node([0], {})  # not used: the search is cut off here
                candidates = [index for index in candidates if index in known]
                if not known <= sleep_set:
                    self._cache.put(key, known & sleep_set)
        if self.bound is not None and self._preemptions >= self.bound and current is not None:
            candidates = [index for index in candidates if index == current.index]
        if not candidates:
            raise Prune
        # The one that keeps the current task comes first, that is last in the list.
        candidates.sort(key=lambda index: (current is not None and index == current.index, -index))
        node = _Node(candidates, self._sleep_set)
        node.key = key
        self._on_path[key] = len(self._path)
        return node

    def _check_cycle(self, view: View, key: bytes) -> None:
        """Raise LivelockError if a known state closes a fair cycle; begin a fair run for another."""
        start = self._on_path.get(key)
        if start is None or self._path[start].fair_run_done:
            return
        nodes = self._path[start:]
        ran = self._ran[nodes[0].steps :]
        if fair([node.enabled for node in nodes if node.enabled is not None], ran, view):
            raise LivelockError(livelock_text(view, ran))
        nodes[0].fair_run_done = True
        self._fair_run = Cycles()

    def value(self, view: View, name: str, n: int) -> int:  # noqa: ARG002
        if self._fair_run is not None:
            return 0
        if self._depth < len(self._path):
            node = self._path[self._depth]
            if self._depth + 1 == len(self._path):
                self._recall(node, view)
                self._sleep_set, self._node = node.sleep_set, node.before
        else:
            rooted = self._depth < len(self._root)
            most = n if self.bound is None or self._preemptions < self.bound else 1
            left = [self._root[self._depth]] if rooted else list(range(most - 1, -1, -1))
            node = _Node(left, self._sleep_set)
            node.before = self._node
            self._push(node, view)
        self._depth += 1
        if node.choice:
            self._preemptions += 1
        return node.choice

    def end(self, outcome: Outcome) -> None:  # noqa: ARG002
        if self._sleeping and self._view is not None:
            self._apply_touched(self._view)
            self._view = None


def _conflict(one: Sequence[tuple[str, bool]], two: Sequence[tuple[str, bool]]) -> bool:
    """Return whether two steps access the same thing, one of them writing."""
    return any(a == b and (write or writes) for a, write in one for b, writes in two)
