"""Run-down protection: explored, with who uses a thing beside who ends it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import pytest

from hfsched.explore.execution import search
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.client.errors import SwapError
from hfsched.swap.client.rundown import Rundown


@dataclass(frozen=True)
class Users:
    """Two use an event, while the third closes it as soon as nobody does."""

    protected: bool = True
    name: str = "users"

    def build(self, runtime: ExploreRuntime) -> World:
        thing, rundown = runtime.event("thing"), Rundown(runtime, "rundown", "it ends")
        ended: list[str] = []
        runtime.declare_records(ended, reason="what the oracles compare")

        def use() -> None:
            with suppress(SwapError), rundown.used():
                thing.set()
            ended.append("user")

        def close() -> None:
            assert rundown.end(runtime.now() + 1000) or not self.protected
            thing.close()
            rundown.close()
            ended.append("owner")

        for number in range(2):
            runtime.spawn(f"user.{number}", use)
        runtime.spawn("owner", close)

        def check() -> None:
            assert len(ended) == 3, f"only {ended}"

        return World(check, timers=not self.protected)


def test_nobody_uses_what_is_closed() -> None:
    result = search(Users(), Exhaustive())
    assert result.failure is None, result.failure
    assert result.complete


def test_an_owner_that_does_not_wait_is_found() -> None:
    result = search(Users(protected=False), Exhaustive())
    assert result.failure is not None
    assert "is used after close" in str(result.failure.failure)


def test_the_end_is_not_waited_for_beyond_the_deadline() -> None:
    runtime = ThreadRuntime()
    rundown = Rundown(runtime, "rundown", "it ends")
    assert rundown.enter()
    assert not rundown.end(runtime.now())
    assert not rundown.enter()
    with pytest.raises(SwapError, match=r"^it ends$"), rundown.used():
        pass
    rundown.leave()
    assert rundown.end(runtime.now())
    rundown.close()
