"""A plug-in for pytest inside a machine: a failure is told at once, for nothing may come after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print the text of a failure."""
    if report.failed:
        print(f"\n{report.longreprtext}", flush=True)
