"""Scenarios as tests of pytest: what passes, what fails, and what is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from progress import run

from hfsched.explore.registry import find
from hfsched.explore.testing import Settings, check

TOP = Path(__file__).resolve().parents[2]
EXAMPLE = TOP / "examples" / "own_scheduler.py"

TESTS = """
from dataclasses import dataclass
import pytest
import hfsched.explore
from hfsched.explore import World


def counter(runtime, locked, tasks=2):
    cell, lock = runtime.cell("n", 0), runtime.lock("lock", state=lambda: None)

    def add():
        if locked:
            with lock:
                cell.set(cell.get() + 1)
        else:
            cell.set(cell.get() + 1)

    for number in range(tasks):
        runtime.spawn(f"add.{number}", add)

    def check():
        assert cell.get() == tasks, "an update was lost"

    return World(check)


@hfsched.explore.test(strategy="exhaustive")
@pytest.mark.parametrize("tasks", [2, 3])
def test_locked(runtime, tasks):
    return counter(runtime, True, tasks)


@hfsched.explore.test()
def test_lost(runtime):
    return counter(runtime, False)


@hfsched.explore.test(strategy="exhaustive", executions=1)
def test_too_few(runtime):
    return counter(runtime, True)


@hfsched.explore.test(strategy="bounded", bound=0)
@dataclass(frozen=True)
class Calm:
    tasks: int = 2
    name = "test_mine.py::Calm"

    def build(self, runtime):
        return counter(runtime, False, self.tasks)
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(TOP), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "hfsched.explore.pytest_plugin", "-v"]
    return run([*command, "-p", "no:cacheprovider", *arguments], cwd=folder, env=env)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_mine.py").write_text(TESTS)
    return tmp_path


def test_scenarios_are_collected_and_say_how_they_ended(folder: Path) -> None:
    done = pytest_in(folder)
    for line in (
        "test_mine.py::test_locked[2] PASSED",
        "test_mine.py::test_locked[3] PASSED",
        "test_mine.py::test_lost FAILED",
        "test_mine.py::test_too_few FAILED",
        "test_mine.py::Calm PASSED",
    ):
        assert line in done.stdout
    assert "an update was lost" in done.stdout
    assert "1 preemption" in done.stdout
    assert "raise executions=1" in done.stdout


def test_the_token_of_a_failure_is_run_alone_and_by_the_command(folder: Path) -> None:
    token = re.search(r"token: (hf1-\S+)", pytest_in(folder, "-k", "lost").stdout)
    assert token is not None
    again = pytest_in(folder, "-k", "lost", "--hfsched-token", token[1])
    assert again.returncode == 1
    assert "an update was lost" in again.stdout
    command = [sys.executable, "-m", "hfsched", "fuzz", "replay", token[1]]
    env = {**os.environ, "PYTHONPATH": str(TOP)}
    replayed = run(command, cwd=folder, env=env)
    assert replayed.returncode == 1, replayed.stderr
    assert "an update was lost" in replayed.stdout


def test_the_example_finds_the_fault_and_proves_the_mended_one() -> None:
    assert pytest_in(TOP, "-c", os.devnull, str(EXAMPLE)).returncode == 0
    report = check(find(f"{EXAMPLE}::sleepy"))
    assert report.shrunk is not None
    assert report.shrunk.finding.preemptions == 1
    assert report.shrunk.minimal
    assert "asleep with" in str(report)
    assert check(find(f"{EXAMPLE}::test_careful"), Settings("exhaustive")).result.complete


def test_a_plug_in_that_nobody_uses_imports_nothing_of_the_explorer(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n\ndef test_none():\n"
        "    assert not any(name == 'greenlet' for name in sys.modules)\n"
    )
    assert pytest_in(tmp_path).returncode == 0


def test_the_api_is_what_the_package_lists() -> None:
    import hfsched.explore as api  # noqa: PLC0415

    assert set(api.__all__) <= set(dir(api))
    for name in api.__all__:
        assert getattr(api, name) is not None
