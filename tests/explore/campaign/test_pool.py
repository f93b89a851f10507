"""Pools: fresh worker processes, of which any may end at any time."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from progress import QUIET

from hfsched.errors import UserError
from hfsched.explore.campaign.plan import Plan
from hfsched.explore.campaign.pool import Pool
from hfsched.explore.campaign.run import Campaign, Summary
from hfsched.explore.replay import failure_text, replay

from . import worlds
from .worlds import CLEAN, HERE, UPSTREAM, deaths, mortal

BUDGET = 3600.0  # seconds: every search here ends by itself


def search(spec: str, strategy: str = "exhaustive", bound: int | None = None) -> Summary:
    return Campaign(spec, strategy, bound, seed=1, budget=BUDGET, jobs=2).run()


@pytest.fixture
def handles() -> Iterator[list[int]]:
    """Descriptors of processes; at the end those that still run are ended."""
    found: list[int] = []
    yield found
    for handle in found:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)


def is_ready(descriptor: int) -> bool:
    """Wait until there is something to read, or a process has ended; False: not in time."""
    return bool(select.select([descriptor], [], [], QUIET)[0])


# What is found, and proved.


@pytest.mark.parametrize("strategy", ["portfolio", "exhaustive"])
def test_a_failure_has_a_token_that_replays_here(strategy: str) -> None:
    summary = search(UPSTREAM, strategy)
    assert summary.found is not None
    assert summary.found.text == "lost wake-up: unread message, all vCPUs asleep"
    assert not summary.complete
    scenario, outcome = replay(summary.found.token)
    assert scenario.name == UPSTREAM
    assert outcome.failure is not None
    assert failure_text(outcome.failure) == summary.found.text


def test_a_clean_scenario_is_proved() -> None:
    summary = search(CLEAN)
    assert summary.complete
    assert summary.found is None
    alone = Campaign(CLEAN, "exhaustive").run()
    assert summary.states >= alone.states
    assert summary.executions >= alone.executions


def test_bounds_are_proved_one_by_one() -> None:
    assert search(CLEAN, "bounded", bound=1).complete_to == 1
    summary = search("worlds::Counter,locked=true", "bounded")
    assert summary.complete


def test_it_ends_when_it_is_told_to(handles: list[int]) -> None:
    with Pool(2) as pool:
        plan = Plan(CLEAN, "pos", 1, None, pool.jobs)
        pool.run(plan, lambda: plan.executions > 0)
        assert plan.executions > 0
        assert len(pool.pids) == 2
        handles += map(os.pidfd_open, pool.pids)
    assert all(map(is_ready, handles))
    assert plan.found is None


def test_what_cannot_be_done_is_the_users_error() -> None:
    with pytest.raises(UserError, match="no scenario 'nobody'"):
        search("nobody")


# Workers that end.


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    """In the middle of its task, whose counts begin anew."""
    spec = mortal(tmp_path, at=5, deaths=1)
    summary = search(spec)
    assert deaths(tmp_path) > 1  # others came as far, and lived
    assert summary.complete
    assert summary.found is None


def test_a_lost_task_counts_once(tmp_path: Path) -> None:
    alone = Campaign(mortal(tmp_path), "bounded", bound=2).run()
    summary = search(mortal(tmp_path, at=7, deaths=2), "bounded", bound=2)
    assert deaths(tmp_path) == 3
    assert summary.complete_to == 2
    assert summary.executions == alone.executions


def test_a_failure_is_found_whoever_is_killed(tmp_path: Path) -> None:
    """Each worker ends in its first task, before it can find anything, until two have."""
    summary = search(mortal(tmp_path, at=1, deaths=2, exact=1))
    assert deaths(tmp_path) > 2
    assert summary.found is not None
    assert summary.found.text == "an update is lost"
    assert summary.found.token


@pytest.mark.parametrize(("how", "said"), [("SIGKILL", "signal SIGKILL"), ("7", "status 7")])
def test_what_ends_its_workers_is_a_finding(tmp_path: Path, how: str, said: str) -> None:
    summary = search(mortal(tmp_path, how=how), "pos")
    assert summary.found is not None
    assert (
        summary.found.text
        == f"the worker process ended ({said}) 3 times during pos of this scenario"
    )
    assert not summary.found.token
    assert not summary.complete
    assert deaths(tmp_path) >= 3


# Processes.


def test_workers_are_no_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "touched", True)
    assert search(f"{HERE}::Fresh", "bounded", bound=1).complete_to == 1
    found = Campaign(f"{HERE}::Fresh", "bounded", bound=1).run().found
    assert found is not None
    assert found.text == "this process is a fork"


PARENT = """
import sys
from hfsched.explore.campaign.plan import Plan
from hfsched.explore.campaign.pool import Pool

with Pool(2) as pool:
    pool.run(Plan(sys.argv[1], "pos", 1, None, 2), lambda: False)
"""


@pytest.mark.parametrize("how", ["busy", "stuck"])
def test_workers_end_with_their_parent(tmp_path: Path, handles: list[int], how: str) -> None:
    """Also in the middle of something that has no end."""
    spec = mortal(tmp_path, how=how, at=20, deaths=0 if how == "busy" else 2)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, spec], stderr=subprocess.PIPE, bufsize=0, env=environment
    ) as parent:
        assert parent.stderr is not None
        try:
            while len(handles) < 2:
                assert is_ready(parent.stderr.fileno())
                handles.append(os.pidfd_open(int(parent.stderr.readline())))
        finally:
            parent.kill()
    assert all(map(is_ready, handles))
