"""Plans: tasks that together are the whole search, whoever does them, in whatever order."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.errors import UserError
from hfsched.explore.campaign.plan import Plan, roots
from hfsched.explore.campaign.tasks import Found, Report, Task, perform
from hfsched.explore.execution import Outcome, search
from hfsched.explore.registry import find
from hfsched.explore.schedule import Recording
from hfsched.explore.statecache import StateCache
from hfsched.explore.strategies.bounded import Bounded
from hfsched.explore.strategies.exhaustive import Exhaustive

from .worlds import CLEAN, HERE, UPSTREAM

DICE = f"{HERE}::Dice"
COUNTER = "worlds::Counter,locked=true"
SPECS = [DICE, COUNTER, f"{COUNTER},tasks=1"]


def schedules(spec: str, root: tuple[int, ...] = ()) -> list[tuple[tuple[int, int], ...]]:
    """Return the schedule of every execution below a root, with nothing spared."""
    recording = Recording(Exhaustive(root=root, cache=False, sleep=False))
    found: list[tuple[tuple[int, int], ...]] = []
    result = search(
        find(spec), recording, on_end=lambda _outcome: found.append(tuple(recording.deviations))
    )
    assert result.complete
    assert result.failure is None
    return found


def below(spec: str, found: list[tuple[int, ...]]) -> list[tuple[tuple[int, int], ...]]:
    return sorted(chain.from_iterable(schedules(spec, root) for root in found))


def finals(spec: str, root: tuple[int, ...] = (), seen: StateCache | None = None) -> set[object]:
    found: set[object] = set()

    def on_end(outcome: Outcome) -> None:
        if not outcome.pruned:
            found.add(outcome.final)

    result = search(find(spec), Exhaustive(root=root, seen=seen), on_end=on_end)
    assert result.complete
    assert result.failure is None
    return found


def planned(spec: str = CLEAN, strategy: str = "exhaustive", bound: int | None = None) -> Plan:
    return Plan(spec, strategy, 1, bound, parallel=1)


def take_all(plan: Plan) -> list[Task]:
    tasks = []
    while (task := plan.take()) is not None:
        tasks.append(task)
    return tasks


def clean(task: Task, executions: int = 1) -> Report:
    return Report(task.number, executions, 2, 3, complete=True, ended=True)


# Sub-trees.


@pytest.mark.parametrize("wanted", [1, 2, 5, 16, 10_000])
@pytest.mark.parametrize("spec", SPECS)
def test_every_schedule_is_in_one_sub_tree(spec: str, wanted: int) -> None:
    assert below(spec, roots(spec, wanted)) == sorted(schedules(spec))


@pytest.mark.parametrize(("spec", "wanted"), [("mailbox", 8), (COUNTER, 2), (COUNTER, 64)])
def test_sub_trees_have_all_ends_though_their_searches_share_a_cache(
    spec: str, wanted: int
) -> None:
    whole, found = finals(spec), roots(spec, wanted)
    assert set().union(*(finals(spec, root) for root in found)) == whole
    for order in (found, found[::-1]):
        cache = StateCache()
        assert set().union(*(finals(spec, root, cache) for root in order)) == whole


def test_there_are_about_as_many_as_wanted() -> None:
    assert roots(CLEAN, 1) == [()]
    assert 16 <= len(roots(CLEAN, 16)) < 24
    assert len(roots(DICE, 10_000)) == len(schedules(DICE))  # a branch that ends is one too


def test_dividing_can_be_cut_short_anywhere() -> None:
    whole = sorted(schedules(DICE))
    for asked in range(8):
        answers = iter([False] * asked)
        found = roots(DICE, 16, lambda: next(answers, True))  # noqa: B023 - called at once
        assert below(DICE, found) == whole
        if not asked:
            assert found == [()]


# What is done, given back, and known.


def test_a_tree_is_complete_with_its_last_part_in_any_order() -> None:
    for last in range(3):
        plan = planned()
        tasks = take_all(plan)
        tasks.append(tasks.pop(last))
        for task in tasks:
            assert not plan.complete
            assert not plan.done
            plan.note(clean(task))
        assert plan.complete
        assert plan.done
        assert (plan.executions, plan.steps, plan.states) == tuple(
            len(tasks) * each for each in (1, 2, 3)
        )


def test_a_part_that_was_not_searched_to_its_end_proves_nothing() -> None:
    plan = planned()
    for task in take_all(plan):
        plan.note(Report(task.number, 1, ended=True))
    assert not plan.complete
    assert plan.take() is None


def test_a_task_that_is_given_back_is_the_next_and_counts_once() -> None:
    plan = planned()
    tasks = take_all(plan)
    plan.note(Report(tasks[0].number, 100, 200, 300))
    plan.note(Report(tasks[0].number, 110, 210, 310))
    plan.note(Report(tasks[1].number, 7, 8, 9))
    assert (plan.executions, plan.steps, plan.states) == (117, 218, 319)
    plan.give_back(tasks[0])
    assert (plan.executions, plan.steps, plan.states) == (7, 8, 9)
    for task in tasks[1:]:
        plan.note(clean(task))
    assert not plan.complete
    assert plan.take() == tasks[0]
    assert plan.take() is None
    plan.note(clean(tasks[0]))
    assert plan.complete
    assert plan.executions == len(tasks)


def test_a_failure_ends_it_and_the_first_is_kept() -> None:
    plan = planned()
    tasks = take_all(plan)
    for task in tasks[1:]:
        plan.note(clean(task))
    plan.note(Report(tasks[0].number, 1, complete=True, ended=True, found=Found("one")))
    assert plan.done
    assert not plan.complete
    plan.note(Report(tasks[0].number, 1, ended=True, found=Found("two")))
    assert plan.found == Found("one")


def test_a_task_that_cannot_be_done_ends_it() -> None:
    plan = planned()
    tasks = take_all(plan)
    for task in tasks:
        plan.note(Report(task.number, complete=True, ended=True, error=f"no {task.number}"))
    assert plan.done
    assert not plan.complete
    assert plan.error == f"no {tasks[0].number}"


# Bounds.


def test_one_bound_is_one_task() -> None:
    plan = planned(strategy="bounded", bound=2)
    (task,) = take_all(plan)
    assert task.bound == 2
    assert plan.complete_to is None
    assert not plan.done
    plan.note(clean(task))
    assert plan.complete_to == 2
    assert plan.done
    assert not plan.complete  # others have more preemptions


@given(st.permutations(range(5)))
def test_bounds_end_where_one_more_finds_nothing_more(order: list[int]) -> None:
    plan = planned(strategy="bounded")
    tasks = [task for task in (plan.take() for _ in range(5)) if task is not None]
    assert [task.bound for task in tasks] == list(range(5))
    known: set[int] = set()
    for bound in order:
        assert plan.complete == ({3, 4} <= known)
        low = {each for each in known if set(range(each)) <= known}
        assert plan.complete_to == (max(low) if low else None)
        plan.note(clean(tasks[bound], executions=(1, 5, 9, 11, 11)[bound]))
        known.add(bound)
    assert plan.complete
    assert plan.complete_to == 4
    assert plan.take() is None


def test_bounds_that_are_done_come_to_what_one_search_comes_to() -> None:
    strategy = Bounded()
    alone = search(find(COUNTER), strategy)
    assert alone.complete
    plan = planned(COUNTER, "bounded")
    while not plan.done:
        task = plan.take()
        assert task is not None
        plan.note(perform(task))
    assert plan.complete
    assert plan.complete_to == strategy.complete_to
    assert plan.executions == alone.executions


# Random strategies and all together.


@pytest.mark.parametrize("strategy", ["random", "pct", "pos", "urw"])
def test_random_tasks_go_on_without_end_each_with_its_own_seed(strategy: str) -> None:
    plan, again = planned(strategy=strategy), planned(strategy=strategy)
    tasks = [plan.take() for _ in range(100)]
    seeds = {task.seed for task in tasks if task is not None and task.strategy == strategy}
    assert len(seeds) == 100
    other = [again.take() for _ in range(100)]
    assert seeds == {task.seed for task in other if task is not None}
    for task in tasks:
        assert task is not None
        assert task.executions > 0
        plan.note(clean(task))
    assert not plan.done
    assert plan.complete_to is None


def test_a_portfolio_begins_with_some_of_each() -> None:
    plan = planned(strategy="portfolio")
    first = [task.strategy for task in (plan.take() for _ in range(12)) if task is not None]
    assert set(first) == {"exhaustive", "bounded", "pos", "urw", "random", "pct"}


@given(st.data())
def test_whatever_happens_to_workers_the_search_is_the_same(data: st.DataObject) -> None:
    """Tasks are lost and done by turns; in the end each was done, and is counted once."""
    plan, alone = planned(DICE), take_all(planned(DICE))
    running: list[Task] = []
    done, losses = 0, 0
    while (task := plan.take()) is not None or running:
        running += [] if task is None else [task]
        chosen = running.pop(data.draw(st.integers(0, len(running) - 1)))
        plan.note(Report(chosen.number, 1000, 1000, 1000))
        if losses < 20 and data.draw(st.booleans()):
            losses += 1
            plan.give_back(chosen)
        else:
            done += 1
            plan.note(perform(chosen))
        assert plan.complete == (done == len(alone))
    assert plan.complete
    assert plan.executions == sum(perform(task).executions for task in alone)


def test_tasks_of_a_failing_scenario_find_it() -> None:
    plan = planned(UPSTREAM)
    found = [perform(task).found for task in take_all(plan)]
    assert {each.text for each in found if each is not None} == {
        "lost wake-up: unread message, all vCPUs asleep"
    }


def test_a_scenario_that_is_not_known_is_no_plan() -> None:
    with pytest.raises(UserError, match="no scenario 'nobody'"):
        planned("nobody")
