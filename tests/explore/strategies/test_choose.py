"""Strategies by name: each finds a lost update, and the same seed is the same search anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from worlds import Counter

from hfsched.errors import UserError
from hfsched.explore.execution import search
from hfsched.explore.strategies.choose import NAMES, make
from hfsched.scenarios.mailbox import MailboxScenario

from .worlds import trace_hashes


@pytest.mark.parametrize("name", NAMES)
def test_a_lost_update_is_found(name: str) -> None:
    strategy = make(name, 3)
    assert strategy.name == name
    result = search(Counter(), strategy, until=lambda result: result.executions == 200)
    assert result.failure is not None
    assert "an update was lost" in str(result.failure.failure)


@pytest.mark.parametrize("name", NAMES)
def test_no_update_is_lost_under_a_lock(name: str) -> None:
    result = search(
        Counter(locked=True, tasks=3),
        make(name, 3),
        until=lambda result: result.executions == 500,
    )
    assert result.failure is None
    assert result.complete == (name in {"bounded", "exhaustive", "portfolio"})


def searches() -> dict[str, list[str]]:
    """Return the beginning of each search, as trace hashes."""
    found = {}
    for name in NAMES:
        found[name] = trace_hashes(Counter(tasks=3), make(name, 7))
        found[f"{name} mailbox"] = trace_hashes(MailboxScenario("trusty", 2, 2), make(name, 7))
    return found


def test_the_same_seed_is_the_same_search_in_every_process() -> None:
    here = searches()
    code = "import json; from strategies.test_choose import searches; print(json.dumps(searches()))"
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(Path.cwd()), *sys.path])
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            check=True,
        )
        assert json.loads(there.stdout) == here


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"bounded", "exhaustive"}])
def test_another_seed_is_another_search(name: str) -> None:
    world = Counter(tasks=3)
    assert trace_hashes(world, make(name, 1)) == trace_hashes(world, make(name, 1))
    assert trace_hashes(world, make(name, 1)) != trace_hashes(world, make(name, 2))


def test_a_bound_and_a_depth_go_to_those_that_have_one() -> None:
    assert search(Counter(), make("bounded", 1, bound=0)).complete
    assert search(Counter(), make("bounded", 1, bound=1)).failure is not None
    shallow = make("pct", 1, depth=1)
    result = search(Counter(), shallow, until=lambda result: result.executions == 100)
    assert result.failure is None


@pytest.mark.parametrize(
    ("name", "bound", "depth", "words"),
    [
        ("dfs", None, None, "no strategy 'dfs': known: pos, urw, random, pct, bounded"),
        ("dfs", 1, None, "no strategy 'dfs': known: "),
        ("random", 1, None, "strategy random has no bound: bounded has"),
        ("exhaustive", 1, None, "strategy exhaustive has no bound: bounded has"),
        ("portfolio", 1, None, "strategy portfolio has no bound: bounded has"),
        ("pos", None, 2, "strategy pos has no depth: pct has"),
        ("bounded", -1, None, "strategy bounded: bound -1: at least 0"),
        ("pct", None, 0, "strategy pct: depth 0: at least 1"),
    ],
)
def test_misuse_is_named(name: str, bound: int | None, depth: int | None, words: str) -> None:
    with pytest.raises(UserError) as found:
        make(name, 1, bound=bound, depth=depth)
    assert str(found.value).startswith(words)
