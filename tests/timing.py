"""A table at the end of a run: what the tests of each folder took.

Processor time is that of the test's process and of its children that have been waited for; what runs
in none of them is not in it: collecting the tests, and a child that outlives its test's process.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pytest

__all__ = ["Timing"]

_TAKEN = "taken"  # the attribute of a report: seconds of {processor, wall}
_BESIDES = "besides the tests"


@dataclass(slots=True)
class _Row:
    tests: int = 0
    processor: float = 0.0
    wall: float = 0.0

    def add(self, processor: float, wall: float) -> None:
        self.processor += processor
        self.wall += wall


def _now() -> tuple[float, float]:
    """Return seconds of {processor, wall}."""
    taken = os.times()
    return sum(taken[:4]), time.monotonic()


def _folder(nodeid: str) -> str:
    """Return the folder of a test, or its file if that has none."""
    parts = PurePosixPath(nodeid.partition("::")[0]).parts
    return "/".join(parts[:2])


class Timing:
    """The plug-in; it works in one process, and with pytest-xdist in several."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = defaultdict(_Row)
        self._last = self._began = _now()
        self._in_tests = 0.0  # seconds of the processor, of this process

    def pytest_runtest_logstart(self) -> None:
        """Begin to count: what came between two tests is no test's."""
        self._last = _now()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[Any]:  # a generator that returns the report
        """Note what a test's phase took, with the fixtures that it made or closed."""
        report = yield
        now = _now()
        taken = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        self._in_tests += taken[0]
        setattr(report, _TAKEN, taken)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a phase, wherever it ran."""
        row = self._rows[_folder(report.nodeid)]
        row.tests += report.when == "setup"
        row.add(*getattr(report, _TAKEN, (0.0, 0.0)))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell the controller what a worker took besides its tests."""
        besides = _now()[0] - self._in_tests
        if session.config.getoption("numprocesses", None):
            besides = sum(os.times()[:2])  # the children are workers, which tell of themselves
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[_BESIDES] = besides
        else:
            self._rows[_BESIDES].processor += besides

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Count what a worker took besides its tests."""
        self._rows[_BESIDES].processor += getattr(node, "workeroutput", {}).get(_BESIDES, 0.0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, the dearest folder first."""
        if not any(row.tests for row in self._rows.values()):
            return
        terminalreporter.section("what each folder took")
        rows = sorted(self._rows.items(), key=lambda row: -row[1].processor)
        total = _Row(sum(row.tests for _, row in rows), sum(row.processor for _, row in rows))
        total.wall = time.monotonic() - self._began[1]
        line = "{:<24}{:>7}{:>15}{:>10}".format
        terminalreporter.line(line("folder", "tests", "processor s", "wall s"))
        for name, row in [*rows, ("all", total)]:
            terminalreporter.line(line(name, row.tests, f"{row.processor:.1f}", f"{row.wall:.1f}"))
