"""The portfolio: turns that are fair in steps, and an end that is that of the exhaustive member."""

from __future__ import annotations

import pytest
from worlds import Counter

from hfsched.explore.execution import Outcome, search
from hfsched.explore.registry import find, kind_of, variants_of
from hfsched.explore.scenario import Scenario
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategies.portfolio import Portfolio
from hfsched.scenarios.mailbox import MailboxScenario

from .worlds import run


@pytest.mark.parametrize("variant", sorted(variants_of(kind_of("mailbox"))))
def test_each_fault_is_found_from_any_seed(variant: str) -> None:
    for seed in range(5):
        strategy = Portfolio(seed)
        scenario = find("mailbox", variant)
        result = search(scenario, strategy, until=lambda result: result.executions == 3000)
        assert result.failure is not None
        assert strategy.found_by is not None


@pytest.mark.parametrize("scenario", [Counter(locked=True, tasks=3), MailboxScenario("echo", 1, 1)])
def test_it_is_complete_when_the_search_without_a_bound_is(scenario: Scenario) -> None:
    alone, strategy = Exhaustive(), Portfolio(1)
    search(scenario, alone)
    result = search(scenario, strategy)
    assert result.complete
    assert result.failure is None
    assert strategy.complete
    assert not strategy.begin()
    assert strategy.states == alone.states
    assert strategy.complete_to is not None
    assert strategy.found_by is None


def test_a_member_that_ends_leaves_the_others_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, strategy = Exhaustive(), Portfolio(1)
    monkeypatch.setattr(strategy._bounded, "begin", lambda: False)
    search(Counter(locked=True, tasks=3), alone)
    assert search(Counter(locked=True, tasks=3), strategy).complete
    assert strategy.states == alone.states
    assert "bounded" not in strategy.steps


def test_members_get_the_same_number_of_steps() -> None:
    strategy = Portfolio(1)
    lengths = [outcome.steps for outcome in run(MailboxScenario("trusty", 2, 2), strategy, 200)]
    assert len(strategy.steps) == 7
    assert sum(strategy.steps.values()) == sum(lengths)
    assert max(strategy.steps.values()) - min(strategy.steps.values()) <= max(lengths)


def test_each_member_learns_how_its_executions_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = Portfolio(1)
    learnt: dict[str, list[Outcome]] = {}
    for member in strategy._members:
        monkeypatch.setattr(member.strategy, "end", learnt.setdefault(member.name, []).append)
    outcomes = list(run(Counter(locked=True, tasks=3), strategy, 30))
    assert sum(map(len, learnt.values())) == len(outcomes)
    for name, theirs in learnt.items():
        assert sum(outcome.steps for outcome in theirs) == strategy.steps[name]


def test_the_runtime_is_asked_for_what_the_member_needs() -> None:
    strategy = Portfolio(1)
    asked = set()
    for _ in run(Counter(locked=True, tasks=3), strategy, 30):
        asked.add((strategy.stateful, strategy.every_point))
    alone = Exhaustive()
    assert (False, False) in asked  # the random walk
    assert (False, True) in asked  # POS
    assert (alone.stateful, alone.every_point) in asked


def test_it_says_who_has_found_it() -> None:
    found = set()
    for seed in range(10):
        strategy = Portfolio(seed)
        search(find("mailbox+upstream"), strategy)
        found.add(strategy.found_by)
    assert len(found) > 1
    assert found <= {"bounded 1", "exhaustive", "pos", "urw", "random", "pct 2", "pct 3"}
    strategy = Portfolio(1)
    search(find("mailbox+wake-vcpu0"), strategy)
    assert strategy.found_by == "bounded 0"
