"""Thirty programs with a data race in plain state, found with both lines, and their correct twins."""

from __future__ import annotations

import gc
import re
from dataclasses import dataclass
from types import FunctionType, ModuleType

import programs_check_then_act
import programs_lost_update
import programs_publication
import pytest

from hfsched.explore.races import RaceError
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.testing import Settings, check

MODULES = (programs_lost_update, programs_check_then_act, programs_publication)
PROGRAMS = [
    pytest.param(
        module, function, id=f"{module.__name__.removeprefix('programs_')}-{function.__name__}"
    )
    for module in MODULES
    for function in module.PROGRAMS
]
SITE = r"(?:read|written) by [\w.]+ at \S+:(\d+) \([^\n]+?\)"
PAIR = re.compile(rf"data race on .+: {SITE}, and {SITE}, are not ordered")


@dataclass(frozen=True)
class Program:
    function: FunctionType
    correct: bool

    @property
    def name(self) -> str:
        return f"{self.function.__name__},correct={self.correct}"

    def build(self, runtime: ExploreRuntime) -> World:
        self.function(runtime, self.correct)
        return World()


@pytest.fixture(scope="module", autouse=True)
def _thawed(_frozen: None) -> None:
    """Let the collector find all functions: what is frozen is looked for by way of all modules.

    That takes longer, and the other files here do it.
    """
    gc.unfreeze()


def test_there_are_ten_of_each_kind() -> None:
    assert [len(module.PROGRAMS) for module in MODULES] == [10, 10, 10]


@pytest.mark.parametrize(("module", "function"), PROGRAMS)
def test_a_race_is_found_with_both_lines(module: ModuleType, function: FunctionType) -> None:
    report = check(Program(function, correct=False), Settings("exhaustive"))
    assert report.shrunk is not None, report
    finding = report.shrunk.finding
    assert isinstance(finding.failure, RaceError)
    assert finding.schedule.watched
    assert PAIR.search(str(finding.failure)), finding.text
    assert finding.token


@pytest.mark.parametrize(("module", "function"), PROGRAMS)
def test_its_correct_twin_is_complete(module: ModuleType, function: FunctionType) -> None:
    report = check(Program(function, correct=True), Settings("exhaustive"))
    assert report.found is None, report
    assert report.complete, report
    assert report.races is not None
    assert report.races.covered
    assert report.races.unruled_lines == []
