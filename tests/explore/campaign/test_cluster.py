"""Clusters: a Dask scheduler with two workers on this machine, and schedulers that are of no use."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hfsched.errors import UserError
from hfsched.explore.campaign import cluster as clusters
from hfsched.explore.campaign.run import Campaign, Summary
from hfsched.explore.replay import failure_text, replay

from .worlds import CLEAN, UPSTREAM, deaths, mortal

distributed: Any = pytest.importorskip(
    "distributed", reason="no clusters without the package 'distributed'"
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the scheduler listens."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address
    # A worker that was killed may have been replaced while the cluster was closed.
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def search(address: str, spec: str, strategy: str = "exhaustive", budget: float = 30) -> Summary:
    return Campaign(spec, strategy, seed=1, budget=budget, cluster=address).run()


def refusal(address: str, spec: str = CLEAN) -> str:
    """Return the one line that a campaign is refused with."""
    with pytest.raises(UserError) as caught:
        search(address, spec)
    said = str(caught.value)
    assert said.isprintable()
    return said


def test_a_failure_has_a_token_that_replays_here(address: str) -> None:
    found = search(address, UPSTREAM, "portfolio").found
    assert found is not None
    scenario, outcome = replay(found.token)
    assert scenario.name == UPSTREAM
    assert outcome.failure is not None
    assert failure_text(outcome.failure) == found.text


def test_a_clean_scenario_is_proved(address: str) -> None:
    summary = search(address, CLEAN)
    assert summary.complete
    assert summary.found is None
    assert summary.states >= Campaign(CLEAN, "exhaustive").run().states


def test_it_ends_when_the_time_is_over(address: str) -> None:
    summary = search(address, CLEAN, "pos", budget=0.5)
    assert not summary.complete
    assert summary.found is None


def test_a_killed_worker_loses_nothing(address: str, tmp_path: Path) -> None:
    summary = search(address, mortal(tmp_path, at=5, deaths=1))
    assert deaths(tmp_path) > 1  # others came as far, and lived
    assert summary.complete
    assert summary.found is None


def test_workers_with_other_code_are_refused(address: str, tmp_path: Path) -> None:
    spec = mortal(tmp_path, deaths=0)
    assert search(address, spec).complete
    with (tmp_path / "mortal.py").open("a") as file:
        file.write("# changed\n")
    clusters.fingerprint.cache_clear()
    assert "has different code: restart it" in refusal(address, spec)


@pytest.mark.parametrize(
    "nowhere", ["foo", "foo:8786", "http://localhost:8786", "tcp://localhost", "tcp://a:b", ""]
)
def test_what_is_no_address_is_refused_at_once(nowhere: str) -> None:
    said = refusal(nowhere)
    assert said == f"--cluster {nowhere}: not an address such as tcp://host:8786"


def test_nobody_listens_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "CONNECT", 0.2)
    assert refusal("tcp://127.0.0.1:1").startswith("--cluster tcp://127.0.0.1:1: ")


def test_a_cluster_without_workers() -> None:
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty:
        where = empty.scheduler_address
        said = refusal(where)
    assert said == f"--cluster {where}: it has no workers"
