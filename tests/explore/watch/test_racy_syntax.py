"""Programs whose races are in syntax and attributes: found in each order, and their correct twins complete."""

from __future__ import annotations

from types import FunctionType

import programs_attributes
import programs_syntax
import pytest
from test_racy_programs import PAIR, Program

from hfsched.explore.execution import execute
from hfsched.explore.races import RaceError
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.explore.testing import Settings, check
from hfsched.explore.watch.control import watched_codes
from hfsched.explore.watch.watcher import Watcher

PROGRAMS = [
    pytest.param(each, id=each.__name__)
    for module in (programs_syntax, programs_attributes)
    for each in module.PROGRAMS
]


@pytest.mark.parametrize("function", PROGRAMS)
def test_a_race_is_found_in_each_schedule(function: FunctionType) -> None:
    """Whichever task comes first."""
    with watched_codes():  # which takes longer than the executions
        for seed in range(8):
            outcome = execute(Program(function, correct=False), RandomWalk(seed), watcher=Watcher())
            assert isinstance(outcome.failure, RaceError), outcome.failure
            assert PAIR.search(str(outcome.failure)), outcome.failure


@pytest.mark.parametrize("function", PROGRAMS)
def test_its_correct_twin_is_complete(function: FunctionType) -> None:
    report = check(Program(function, correct=True), Settings("exhaustive"))
    assert report.found is None, report
    assert report.complete, report
    assert report.races is not None
    assert report.races.unruled_lines == []


def test_a_variable_of_a_module_is_named_after_it() -> None:
    scenario = Program(programs_syntax.import_of_name, correct=False)  # type: ignore[arg-type]
    outcome = execute(scenario, RandomWalk(0), watcher=Watcher())
    assert "data race on settings_of_programs.limit: " in str(outcome.failure)
