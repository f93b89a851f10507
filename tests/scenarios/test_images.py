"""Real guest images, interrupted after any number of instructions."""

from __future__ import annotations

import os
import sys

import pytest
from progress import run

from hfsched.errors import UserError
from hfsched.explore.execution import execute, search
from hfsched.explore.registry import find
from hfsched.explore.replay import confirm, replay, schedule_of
from hfsched.explore.schedule import Recording
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategies.pos import POS
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.scenarios import images
from hfsched.scenarios.images import GUESTS
from hfsched.vcpu.unicorn.cpu import SLICE

SCHEDULES = 40  # of each strategy; `hfsched fuzz images` runs as many as there is time for


@pytest.mark.parametrize("guest", sorted(GUESTS))
def test_every_text_is_answered(guest: str) -> None:
    scenario = find(f"images,guest={guest},hosts=2")
    for strategy in (RandomWalk(1), POS(1), Exhaustive()):
        result = search(scenario, strategy, until=lambda r: r.executions >= SCHEDULES)
        assert result.failure is None


def hashes(guest: str, seeds: range) -> list[str | None]:
    scenario = find(f"images,guest={guest},hosts=2")
    return [execute(scenario, RandomWalk(seed), tracing=True).trace_hash for seed in seeds]


@pytest.mark.parametrize("guest", ["trusty", "smp", "relay"])
def test_a_machine_put_back_is_as_good_as_a_new_one(guest: str) -> None:
    images._booted.cache_clear()
    used = hashes(guest, range(12))
    assert len(set(used)) > 6, "the schedules are all the same"
    for seed in (11, 5, 0):  # each on a machine just booted
        images._booted.cache_clear()
        assert hashes(guest, range(seed, seed + 1)) == used[seed : seed + 1]


def test_guests_that_are_not_built_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "bundled_images", dict)
    with pytest.raises(
        UserError, match=r"^scenario images: echo.bin, relay.bin: not built: script/"
    ):
        find("images,guest=relay")


def test_without_unicorn_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UserError("engine unicorn: not installed")

    monkeypatch.setattr(images, "load", missing)
    with pytest.raises(UserError, match=r"^scenario images: engine unicorn: not installed$"):
        find("images")


def test_guests_are_cut_where_the_strategy_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    real = images._Cuts.__call__

    def call(self: images._Cuts) -> int:
        count = real(self)
        seen.add(count)
        return count

    monkeypatch.setattr(images._Cuts, "__call__", call)
    search(find("images,cuts=4"), RandomWalk(1), until=lambda r: r.executions >= 60)
    assert len(seen) > 40
    assert SLICE in seen


def test_the_lost_wake_up_shows_on_a_real_image_and_its_token_repeats_it() -> None:
    scenario = find("images+upstream")
    recording = Recording(RandomWalk(1))
    result = search(scenario, recording, until=lambda r: r.executions >= 3000)
    assert result.failure is not None
    assert "lost wake-up" in str(result.failure.failure)
    token = confirm(scenario, schedule_of(recording, result.failure)).token
    _, outcome = replay(token)
    assert outcome.failure is not None
    env = {**os.environ, "PYTHONHASHSEED": "5"}
    command = [sys.executable, "-m", "hfsched", "fuzz", "replay", token, "--engine", "unicorn"]
    again = run(command, env=env)
    assert again.returncode == 1
    assert "lost wake-up" in again.stdout


@pytest.mark.parametrize(
    ("spec", "name"), [("guest=nobody", "guest"), ("hosts=0", "hosts"), ("cuts=17", "cuts")]
)
def test_sizes_that_cannot_be_are_named(spec: str, name: str) -> None:
    with pytest.raises(UserError, match=f"scenario images: {name}="):
        find(f"images,{spec}")
