"""A scenario as a test: search, and report a failure with its schedule and story.

::

    @hfsched.explore.test(strategy="exhaustive")
    def test_my_scheduler(runtime):
        ...
        return World(check)

pytest collects it like any other test function; its parameters behind `runtime` are fixtures and
parametrized values as usual.  A scenario's class (a dataclass with `build`) can be decorated too: it
remains unchanged, and pytest collects it as a test (by `hfsched.explore.pytest_plugin`, which an
installed hfsched registers).

A test is repeatable: its seed and its budget, counted in executions, are fixed.  ``pytest
--hfsched-seed N`` draws other schedules, ``pytest --hfsched-token TOKEN`` runs only that one.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hfsched.errors import InternalError
from hfsched.explore.execution import Result, search
from hfsched.explore.explain.story import record_story
from hfsched.explore.explain.text import draw
from hfsched.explore.races import Races
from hfsched.explore.replay import Finding, confirm, failure_text, replay, schedule_of, watcher_of
from hfsched.explore.schedule import Recording, Replay
from hfsched.explore.shrink import Shrunk, shrink
from hfsched.explore.strategies.choose import make
from hfsched.explore.watch.racepass import RacePass, race_pass
from hfsched.text import count

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.scenario import Scenario, World

__all__ = ["OPTIONS", "Options", "Report", "ScenarioFailedError", "Settings", "check", "test"]

T = TypeVar("T", bound=Callable[..., Any])

EXECUTIONS = 2000  # the budget of a search that need not be complete
SHRINK_MAX = 5000  # executions
WIDTH = 100  # columns of a story


class ScenarioFailedError(AssertionError):
    """A scenario's test failed; the text is the whole report."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a scenario is tested.

    `executions` is the budget: None for no limit with the strategies exhaustive and bounded, else
    2000.  `complete` is whether every interleaving must be covered (None: with those two).  Without
    `races` there is no race pass (`hfsched.explore.watch`) after the search.
    """

    strategy: str = "portfolio"
    bound: int | None = None
    seed: int = 0
    executions: int | None = None
    complete: bool | None = None
    races: bool = True

    @property
    def _searches_all(self) -> bool:
        return self.strategy == "exhaustive" or (
            self.strategy == "bounded" and self.bound is not None
        )

    @property
    def limit(self) -> int | None:
        """The budget in executions, None for none."""
        if self.executions is not None or self._searches_all:
            return self.executions
        return EXECUTIONS

    @property
    def must_be_complete(self) -> bool:
        """Whether the search must cover everything."""
        return self._searches_all if self.complete is None else self.complete


@dataclass(slots=True)
class Options:
    """Overrides from pytest's command line."""

    token: str | None = None
    seed: int | None = None


OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a scenario's test; `str` is readable."""

    spec: str
    result: Result
    shrunk: Shrunk | None = None
    found: Finding | None = None
    story: str = ""
    races: RacePass | None = None

    @property
    def complete(self) -> bool:
        """Whether every interleaving is covered, and the race pass has no doubts."""
        return self.result.complete and not (self.races is not None and self.races.doubts)

    def __str__(self) -> str:
        result = self.result
        if self.found is None or self.shrunk is None:
            how = "complete" if self.complete else "not complete"
            text = f"{self.spec}: no failure in {count(result.executions, 'schedule')} ({how})"
            if self.races is None:
                return text
            lines = [f"{text}; {self.races.text}"]
            lines += self.races.doubts
            return "\n".join(lines)
        best = self.shrunk.finding
        lines = [
            f"{self.spec}: {best.text}",
            f"found after {count(result.executions, 'schedule')}",
        ]
        if best.token:
            lines.append(f"{count(best.preemptions, 'preemption')} ({self.shrunk.proof})")
            lines.append(f"token: {best.token}")
            lines.append("reproduce: pytest --hfsched-token TOKEN, or hfsched fuzz replay TOKEN")
        lines += [best.detail, self.story]
        return "\n".join(line for line in lines if line)


def check(scenario: Scenario, settings: Settings | None = None) -> Report:
    """Search a scenario; shrink and explain a failure.  A failure is returned, not raised."""
    settings = Settings() if settings is None else settings
    seed = settings.seed if OPTIONS.seed is None else OPTIONS.seed
    recording = Recording(make(settings.strategy, seed, bound=settings.bound))
    limit = settings.limit
    result = search(
        scenario, recording, until=lambda r: limit is not None and r.executions >= limit
    )
    failure, races = result.failure, None
    if failure is None and settings.races:
        races = race_pass(scenario, seed, bound=settings.bound, merging=recording.stateful)
        if races.failure is not None:
            result.complete = False
            scenario, recording = races.failure.scenario, races.failure.recording
            result.failure = failure = races.failure.outcome
    if failure is None:
        return Report(scenario.name, result, races=races)
    found = confirm(scenario, schedule_of(recording, failure), failure.failure)
    shrunk = Shrunk(found, -1, 0)
    story = ""
    if found.token:
        shrunk = shrink(scenario, found, lambda executions: executions >= SHRINK_MAX)
        story = _story(scenario, shrunk.finding)
    return Report(scenario.name, result, shrunk, found, story, races)


def _story(scenario: Scenario, finding: Finding) -> str:
    races = Races if finding.schedule.races else None
    strategy = Replay(finding.schedule)
    watcher = watcher_of(finding.schedule)
    story = record_story(scenario, strategy, token=finding.token, races=races, watcher=watcher)
    return draw(story, WIDTH)


def run(scenario: Scenario, settings: Settings) -> None:
    """Run a test; raises `ScenarioFailedError` with the report."""
    __tracebackhide__ = True
    if OPTIONS.token is not None:
        _, outcome = replay(OPTIONS.token, scenario)
        if outcome.failure is not None:
            raise ScenarioFailedError(f"{scenario.name}: {failure_text(outcome.failure)}")
        return
    report = check(scenario, settings)
    if report.found is not None:
        raise ScenarioFailedError(str(report))
    if not settings.must_be_complete or report.complete:
        return
    if report.result.complete:  # but for doubts
        raise ScenarioFailedError(f"{report}\npass complete=False, or races=False")
    raise ScenarioFailedError(
        f"{report}: raise executions={settings.limit}, or pass complete=False"
    )


def test(
    strategy: str = "portfolio",
    *,
    bound: int | None = None,
    seed: int = 0,
    executions: int | None = None,
    complete: bool | None = None,
    races: bool = True,
) -> Callable[[T], T]:
    """Make a test of a scenario: of a class, or of a function that builds a `World`.

    See `Settings`, and the module's docstring.
    """
    settings = Settings(strategy, bound, seed, executions, complete, races)
    make(strategy, seed, bound=bound)  # raises for options that do not combine

    def decorate(scenario: T) -> T:
        if isinstance(scenario, type):
            if not is_dataclass(scenario) or not hasattr(scenario, "build"):
                raise InternalError(f"{scenario.__name__} is not a dataclass with a method build")
            scenario.hfsched_settings = settings  # type: ignore[attr-defined]
            return scenario
        made: T = _function(scenario, settings)
        return made

    return decorate


test.__test__ = False  # type: ignore[attr-defined]  # pytest: this is no test


def _function(build: Callable[..., World], settings: Settings) -> Any:
    """Return a test function without the first parameter, which is the runtime."""
    signature = inspect.signature(build)
    parameters = list(signature.parameters.values())
    if not parameters:
        raise InternalError(f"{build.__name__} takes no runtime")

    @functools.wraps(build)
    def wrapper(**arguments: Any) -> None:
        __tracebackhide__ = True
        run(_FunctionScenario(build, _spec(build), arguments), settings)

    wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters[1:], return_annotation=None
    )
    wrapper.hfsched_scenario = _class_of(build)  # type: ignore[attr-defined]
    return wrapper


class _FunctionScenario:
    """A scenario made of a function."""

    def __init__(self, build: Callable[..., World], name: str, arguments: dict[str, Any]) -> None:
        self._build = build
        self._arguments = arguments
        given = ",".join(f"{key}={value}" for key, value in arguments.items())
        self.name = f"{name},{given}" if given else name

    def build(self, runtime: ExploreRuntime) -> World:
        return self._build(runtime, **self._arguments)


def _class_of(function: Callable[..., World]) -> type:
    """Return a dataclass by which the registry can create the scenario, without arguments."""

    @dataclass(frozen=True)
    class Scenario:
        @property
        def name(self) -> str:
            return _spec(function)

        def build(self, runtime: ExploreRuntime) -> World:
            return function(runtime)

    return Scenario


def _spec(function: Callable[..., Any]) -> str:
    """Return FILE.py::NAME, relative to the working directory."""
    file = Path(inspect.getsourcefile(function) or "")
    return f"{os.path.relpath(file)}::{function.__name__}"
