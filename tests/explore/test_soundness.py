"""What spares the exhaustive search work loses no outcome: against every schedule, one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, replace
from functools import partial

import pytest
from drawn import mortals, programs, spinning
from hypothesis import HealthCheck, given, settings
from small import Do, Program

from hfsched.explore.canonical import RefusedError
from hfsched.explore.execution import Outcome, execute
from hfsched.explore.registry import find
from hfsched.explore.replay import failure_text
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import Scenario, World
from hfsched.explore.strategies.exhaustive import Exhaustive, _Node
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.explore.strategy import Strategy, View
from hfsched.explore.task import Task

# Six times as many programs are drawn; `bench/explore.py soundness` draws thousands.
EXAMPLES = int(os.environ.get("HFSCHED_SOUNDNESS", "10"))
PLAIN_MAX = 400  # executions of one program: beyond it, those that there were are compared
SEARCH_MAX = 3000  # likewise; a search that has not come to its end may have lost anything


class Plain:
    """Every choice at every point, depth first, and nothing else."""

    name = "plain"
    stateful = False
    every_point = False

    def __init__(self) -> None:
        self._path: list[list[int]] = []  # what is still to be tried at each choice, the next last
        self._depth = 0
        self._began = False

    def begin(self) -> bool:
        if self._began:
            while self._path and len(self._path[-1]) == 1:
                self._path.pop()
            if not self._path:
                return False
            self._path[-1].pop()
        self._began = True
        self._depth = 0
        return True

    def _choose(self, options: list[int]) -> int:
        if self._depth == len(self._path):
            self._path.append(options[::-1])
        self._depth += 1
        return self._path[self._depth - 1][-1]

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        return view.tasks[self._choose([task.index for task in enabled])]

    def value(self, view: View, name: str, n: int) -> int:
        return self._choose(list(range(n)))

    def end(self, outcome: Outcome) -> None:
        pass


def verdicts(
    scenario: Scenario,
    strategy: Strategy,
    *,
    forgetting: bool = True,
    joining: bool = True,
    most: int = SEARCH_MAX,
) -> tuple[set[Hashable], bool]:
    """Return how executions ended, and whether that is all; a failure ends no search here."""
    found: set[Hashable] = set()
    for _ in range(most):
        if not strategy.begin():
            return found, True
        outcome = execute(scenario, strategy, forgetting=forgetting, joining=joining)
        strategy.end(outcome)
        if outcome.failure is not None:
            said = failure_text(outcome.failure).partition(":")[0]  # of a race: on what
            found.add((type(outcome.failure).__name__, said))
        elif not outcome.pruned:
            found.add(outcome.final)
    return found, False


Verdicts = tuple[set[Hashable], bool]

SEARCHES: dict[str, Callable[[Scenario], Verdicts]] = {
    "all": lambda scenario: verdicts(scenario, Exhaustive()),
    "no joins": lambda scenario: verdicts(scenario, Exhaustive(), joining=False),
    "no forgetting": lambda scenario: verdicts(scenario, Exhaustive(), forgetting=False),
    "no cache": lambda scenario: verdicts(scenario, Exhaustive(cache=False)),
    "no sleep": lambda scenario: verdicts(scenario, Exhaustive(sleep=False)),
    "a bound beyond reach": lambda scenario: verdicts(scenario, Exhaustive(bound=1000)),
}


def outcomes(program: Program, search: Callable[[Scenario], Verdicts]) -> Verdicts:
    """Return the verdicts of a search, and the values that were there at once."""
    watched = replace(program, seen=set())
    found, complete = search(watched)
    return found | {("seen", each) for each in watched.seen}, complete


def compare(
    program: Program,
    reference: Callable[[Scenario], Verdicts],
    searches: Collection[str] = SEARCHES.keys(),
) -> None:
    """Hold searches against one that is trusted, whether that has come to its end or not."""
    expected, complete = outcomes(program, reference)
    racy = any(isinstance(each, tuple) and each[0] == "RaceError" for each in expected)
    racy = racy or (program.shares() and not complete)
    for name in searches:
        if racy and name != "no cache":
            continue  # no state says what is ordered: see docs/exploration.md
        found, whole = outcomes(program, SEARCHES[name])
        assert not whole or not expected - found, f"{name}: lost {expected - found}"
        assert not complete or not found - expected, f"{name}: invented {found - expected}"


def plainly(scenario: Scenario, most: int = PLAIN_MAX) -> Verdicts:
    """Run every schedule, or the first ones, with nothing that spares any."""
    return verdicts(scenario, Plain(), joining=False, most=most)


def at_random(scenario: Scenario, most: int = PLAIN_MAX) -> Verdicts:
    """Run every schedule or, where there are more, the first ones and as many at random."""
    found, complete = plainly(scenario, most)
    if not complete:
        found |= verdicts(scenario, RandomWalk(1), joining=False, most=most)[0]
    return found, complete


def by_states(scenario: Scenario) -> Verdicts:
    """Go over all states: of a program that goes round, there are more schedules than can be run."""
    return verdicts(scenario, Exhaustive(sleep=False), joining=False)


@settings(max_examples=3 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_no_outcome_of_a_program_is_lost(program: Program) -> None:
    compare(program, plainly)


def test_a_wait_with_a_deadline_is_a_stop_of_the_clock_also_where_nobody_else_uses_the_event() -> (
    None
):
    """Of some thousand drawn programs one had lost an end: the time is 10, and the event was set before that."""
    waits = (Do("set", "e"),), (Do("now"),), (Do("wait", "e", 10),)
    compare(Program(waits, promises=True), plainly)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mortals())
def test_no_outcome_of_a_program_whose_processes_die_is_lost(program: Program) -> None:
    compare(program, at_random)


@settings(max_examples=2 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spinning())
def test_no_outcome_of_a_program_that_goes_round_is_lost(program: Program) -> None:
    compare(program, by_states, ["all", "no joins", "no sleep"])


def put(cell: str, value: int = 1) -> Do:
    return Do("put", cell, value)


def within(lock: str, *body: Do) -> Do:
    return Do("lock", lock, 0, body)


# What a search has lost, or would with one of its rules gone; each is as small as can be.
GET = Do("get", "c0")
EITHER = Do("either", "", 0, (GET, Do("get", "c1")))
STEP = Do("checkpoint")
NOW = Do("now")
AFTER = (Do("join", "0"), Do("join", "1"), Do("spawn", "", 0, (STEP,)), STEP)  # states are compared
SMALL = {
    "a step that reads what it chose": Program(((within("l0", EITHER),), (put("c0"),))),
    "a step that reads what it chose last": Program(((within("l0", EITHER),), (put("c1"),))),
    "a step within a lock": Program(((within("l0", GET),), (put("c0"),))),
    "a lock of one's own": Program(
        ((put("c0"), within("l0", put("c1"))), (GET, Do("get", "c1"))), promises=True
    ),
    "what nobody else uses any more": Program(
        ((put("c0"),), (GET, put("c1"), GET), (Do("get", "c1"),)), promises=True
    ),
    "send beside close within a lock": Program(
        ((within("l0", Do("close", "right")),), (Do("send", "left"),))
    ),
    "send beside close": Program(((Do("send", "left"),), (Do("close", "right"),))),
    "one of two is too late": Program(
        (
            (Do("send", "left"),),
            (Do("send", "left"),),
            (Do("recv", "right"), Do("close", "right"), *AFTER),
        )
    ),
    "a deadline that comes earlier": Program(
        ((GET, Do("sleep", "", 10), NOW), (put("c0"), Do("sleep", "", 20)))
    ),
    "a join that is too late": Program(((Do("sleep", "", 10), NOW), (Do("join", "0", 10),))),
    "time before a death": Program(((Do("sleep", "", 10),), (Do("recv", "left"), NOW)), dies=1),
    "a process that ends by itself or dies": Program(((GET,), (Do("reap"), STEP, STEP)), dies=1),
    "two that may be a process's last": Program(
        (
            (Do("spawn", "", 0, (Do("set", "e"),)), GET),
            (Do("clear", "e"), Do("send", "left")),
        ),
        dies=1,
    ),
    "a death before the last step, which is on a thing of its own": Program(
        ((put("c0"), Do("get", "c1")), (GET,), (GET,)), dies=1, promises=True
    ),
    "the same operation twice": Program(((STEP, STEP, put("c0")), (GET,))),
    "locks in two orders": Program(
        ((within("l0", within("l1", GET)),), (within("l1", within("l0", GET)),))
    ),
    "what a lock guards": Program(
        ((within("l0", GET, Do("bump", "l0")),), (within("l0", Do("bump", "l0"), put("c0")),))
    ),
    "calls through a door": Program(((Do("ask"),), (Do("ask"),), AFTER)),
    "a loop that forgets": Program(((Do("twice", "", 0, (GET,)), GET), (put("c0"), put("c0", 2)))),
}


@pytest.mark.parametrize("name", SMALL)
def test_no_outcome_is_lost(name: str) -> None:
    compare(SMALL[name], partial(plainly, most=5000))


class Remembering(Exhaustive):
    """Learns everything anew in each execution, and must then know what is recalled."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals = 0

    def take_prefix(self) -> None:
        return None  # the controller asks at every point

    def _repeat(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        chosen = super()._repeat(view, current, enabled)
        view.stateful = True
        return chosen

    def _recall(self, node: _Node, view: View) -> None:
        self.arrivals += 1
        assert view.knowledge() == node.knowledge
        super()._recall(node, view)


RECALLED = [
    "mailbox,messages=2",
    "mailbox,receiver=trusty,vcpus=2",
    "mailbox,receiver=reader-1,vcpus=2",
    "mailbox,messages=1,guests=1",
    "mailbox,boot=true",
    "events,event=death",
    "events,event=timer,messages=1",
    "swap,commands=enable,guests=0,deaths=1",
]


@pytest.mark.parametrize("name", RECALLED)
def test_what_is_recalled_is_what_would_be_learnt_again(name: str) -> None:
    again, search = Remembering(), Exhaustive()
    assert verdicts(find(name), again) == verdicts(find(name), search)
    assert again.states == search.states
    assert again.arrivals > 50


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mortals())
def test_a_program_learns_again_what_is_recalled(program: Program) -> None:
    again, search = Remembering(), Exhaustive()
    assert verdicts(program, again, most=200) == verdicts(program, search, most=200)
    assert again.states == search.states


class Job:
    """Equal to no other; another one in each execution."""


@dataclass
class Queue:
    """A lock guards a list of what `job` makes; with `torn`, one task changes it without the lock."""

    job: Callable[[], object] = int
    torn: bool = False
    name: str = "queue"

    def build(self, runtime: ExploreRuntime) -> World:
        jobs = [self.job()]
        lock = runtime.lock("queue", state=lambda: tuple(jobs))
        cells = [runtime.cell(f"c{number}", 0) for number in range(2)]

        def work(number: int) -> None:
            with lock:
                jobs.append(self.job())
            cells[number].set(1)
            if self.torn and number == 1:
                jobs.clear()
            if cells[1 - number].get():
                with lock:
                    jobs.clear()

        runtime.spawn("a", partial(work, 0))
        runtime.spawn("b", partial(work, 1))
        return World()


def test_what_a_lock_guards_must_be_comparable_with_another_execution() -> None:
    assert verdicts(Queue(), Exhaustive()) == ({None}, True)
    with pytest.raises(RefusedError, match=r"^lock queue: a Job "):
        verdicts(Queue(Job), Exhaustive())


def test_what_changes_without_its_lock_is_found_however_the_search_comes_there() -> None:
    def ends(strategy: Exhaustive) -> list[str]:
        found = []
        while strategy.begin():
            outcome = execute(Queue(int, torn=True), strategy)
            strategy.end(outcome)
            found.append(type(outcome.failure).__name__)
        return found

    found = ends(Exhaustive())
    assert "UnguardedChangeError" in found
    assert found == ends(Remembering())


@dataclass
class Unaided:
    """A scenario without what it says of things that one task alone uses."""

    scenario: Scenario

    @property
    def name(self) -> str:
        return self.scenario.name

    def build(self, runtime: ExploreRuntime) -> World:
        world = self.scenario.build(runtime)
        for thing in runtime.controller.table.things:
            thing.exclusive = None
            thing.private = False
        return world


@pytest.mark.parametrize("receiver", ["echo", "disabled", "trusty"])
@pytest.mark.parametrize("senders", ["hosts=1", "hosts=0,guests=1"])
@pytest.mark.parametrize("variant", ["", "+upstream"])
def test_what_spares_states_changes_no_verdict_of_a_mailbox(
    variant: str, senders: str, receiver: str
) -> None:
    scenario = find(f"mailbox{variant},receiver={receiver},vcpus=1,messages=1,{senders}")
    expected = by_states(scenario)
    assert expected[1]
    for name, search in SEARCHES.items():
        for each in (scenario, Unaided(scenario)):
            assert search(each) == expected, name


def test_a_sender_that_is_kept_alone_meets_what_others_do() -> None:
    """Beside a host: what it is spared is more than what is left."""
    scenario = find("mailbox,messages=1,guests=1")
    found, whole = verdicts(scenario, Exhaustive())
    assert whole
    assert (found, True) == verdicts(Unaided(scenario), Exhaustive())
