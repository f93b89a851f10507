"""Requests by command to suspend a machine and to resume it, beside one that keeps it as it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.scheduler.suspension import Step, SuspendError, Suspension
from hfsched.scheduler.userhold import UserHold

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["UserHoldScenario"]


@dataclass(frozen=True)
class UserHoldScenario:
    """Each of some `users` suspends a machine by command and resumes it, `rounds` times; with `keeps` another request keeps it meanwhile.

    The machine is paused exactly while the user holds it; every request ends, and whoever is told of a change
    finds at last that nothing stands.  Who `looks` so many times learns of each hold that has begun since.
    The first `failing` times the machine does not pause in time, and who asked asks again.
    """

    users: int = 2
    rounds: int = 1
    keeps: bool = False
    looks: int = 0
    failing: int = 0
    variant: str = ""

    variants: ClassVar[Mapping[str, Variant]] = {
        "untold": Variant("the end of a request that keeps it is not told", {"keeps": True}),
    }

    def __post_init__(self) -> None:
        check_ranges(self, ("users", 1, 4), ("rounds", 1, 4), ("looks", 0, 4), ("failing", 0, 4))

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("userhold", self)

    def small(self) -> UserHoldScenario:
        """Return the size whose every interleaving a race pass runs."""
        return replace(
            self, users=min(self.users, 2), rounds=1, looks=min(self.looks, 1), failing=0
        )

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the suspension, its hold by command, and the requests."""
        failed = runtime.cell("failed", value=0)  # pauses that did not end in time
        paused: list[str] = []
        ended: list[str] = []
        told: list[bool] = []
        began: list[str] = []  # the holds since the last look
        runtime.declare_records(paused, ended, told, began, reason="what the oracles compare")

        def pause(_deadline: int | None) -> bool:
            assert not paused, "it is paused twice"
            runtime.checkpoint("pauses")
            paused.append("guests")
            if failed.get() < self.failing:
                failed.set(failed.get() + 1)
                return False
            return True

        def note() -> None:
            task = runtime.current
            if self.variant and task is not None and task.name == "keeper":
                return
            told[:] = [hold.stands()]

        suspension = Suspension(runtime, [Step("guests", pause, paused.clear)])
        hold = UserHold(runtime, suspension, note)

        def ask(user: str) -> None:
            for count in range(self.rounds):
                runtime.retain_only(count)
                while True:
                    with suppress(SuspendError):
                        if hold.suspend():
                            began.append(user)
                        break
                    runtime.retain_only(count)
                runtime.retain_only(count, level=1)
                hold.resume()
            ended.append(user)

        def keep() -> None:
            hold.keep()
            assert hold.stands(), "it is kept, and does not stand"
            hold.let_go()
            ended.append("keeper")

        def look() -> None:
            for count in range(self.looks):
                runtime.retain_only(count)
                stands, stood = hold.look()
                assert stood or not stands, "it stands, and has not stood"
                if began:
                    assert stood, f"{began} have begun since the last look, and it has not stood"
                began.clear()
            ended.append("looker")

        users = [f"user.{number}" for number in range(self.users)]
        for user in users:
            runtime.spawn(user, partial(ask, user))
        if self.keeps:
            runtime.spawn("keeper", keep)
        if self.looks:
            runtime.spawn("looker", look)

        def invariant() -> None:
            if hold.peek():
                assert paused, "the user holds it, and it is not paused"

        def check() -> None:
            assert len(ended) == self.users + self.keeps + bool(self.looks), (
                f"only {ended} have ended"
            )
            assert not paused, "it stays paused"
            assert told == [False], "who is told of changes finds that something stands"

        return World(
            check,
            invariant=invariant,
            remembers=False,
            final=lambda: tuple(sorted(ended)),
            timers=False,
        )
