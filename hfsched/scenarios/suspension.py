"""Holders of a suspension: several plain ones, one that freezes memory, one that writes memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.scheduler.suspension import Step, SuspendError, Suspension

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["SuspensionScenario"]


class _Unchecked(Suspension):
    """Writes to memory do not wait for the end of a frozen hold."""

    @contextmanager
    def writing(self, holder: str, deadline: int | None = None) -> Iterator[None]:  # noqa: ARG002
        yield


class _ResumesForAll(Suspension):
    """The end of a hold resumes the machine although others hold it too."""

    def resume(self, holder: str) -> None:
        for each in self.holders or (holder,):
            super().resume(each)


@dataclass(frozen=True)
class SuspensionScenario:
    """`holders` hold a machine suspended, `rounds` times each; one freezes memory, one writes it.

    The machine is paused while any of them holds it, and runs otherwise; memory is not written while it
    is frozen; all tasks end.  The first `failing` times the second step does not end in time, and who asked tries
    again.  Holders of the same name hold the machine in turn.  With `together` two others
    hold it until both do, who freezes memory until one of them does, and who writes memory until it has been frozen.
    """

    holders: int = 1
    rounds: int = 1
    together: bool = False
    failing: int = 0
    variant: str = ""

    variants: ClassVar[Mapping[str, Variant]] = {
        "unchecked": Variant("writes to guest memory do not wait for a frozen hold"),
        "alone": Variant("the end of the first hold resumes the machine", {"holders": 2}),
    }

    def __post_init__(self) -> None:
        check_ranges(self, ("holders", 0, 4), ("rounds", 1, 4), ("failing", 0, 4))

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("suspension", self)

    def small(self) -> SuspensionScenario:
        """Return the size whose every interleaving a race pass runs."""
        return replace(self, holders=0, rounds=1, together=False, failing=0)

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the suspension and its holders."""
        kind = {"": Suspension, "unchecked": _Unchecked, "alone": _ResumesForAll}[self.variant]
        paused: list[str] = []
        inside: list[str] = []  # the tasks that hold it
        writing: list[str] = []
        ended: list[str] = []

        def pause(name: str, _deadline: int | None) -> bool:
            assert name not in paused, f"{name} is paused twice"
            runtime.checkpoint(f"{name} pauses")
            paused.append(name)
            if name == "b" and failed.get() < self.failing:
                failed.set(failed.get() + 1)
                return False
            return True

        failed = runtime.cell("failed", value=0)  # pauses that did not end in time
        runtime.declare_records(inside, writing, ended, reason="what the oracles compare")

        steps = [Step(name, partial(pause, name), partial(paused.remove, name)) for name in "ab"]
        suspension = kind(runtime, steps)

        tasks = [(f"holder.{n}", "holder") for n in range(self.holders)]
        partners = {"left": "right", "right": "left"} if self.together else {}
        tasks += [(task, task) for task in partners]
        if self.together:
            partners["freezer"] = "left"
        been_inside = {
            task: runtime.event(f"{task}.inside")
            for task in ("freezer", *(name for name, _ in tasks))
        }

        def wait_for(other: str) -> None:
            if self.together:
                been_inside[other].wait()

        def hold(task: str, holder: str, *, frozen: bool = False, writes: bool = False) -> None:
            count = 0
            while count < self.rounds:
                runtime.retain_only(count)
                with suppress(SuspendError), suspension.held(holder, frozen=frozen):
                    count += 1
                    inside.append(task)
                    if writes:
                        with suspension.writing(holder):
                            writing.append(task)
                            runtime.checkpoint(f"{task} writes")
                            writing.clear()
                        wait_for("freezer")
                    else:
                        runtime.checkpoint(f"{task} holds it")
                        if self.together:
                            been_inside[task].set()
                        wait_for(partners.get(task, task))
                    inside.remove(task)
            ended.append(task)

        for task, holder in tasks:
            runtime.spawn(task, partial(hold, task, holder))
        runtime.spawn("freezer", partial(hold, "freezer", "freezer", frozen=True))
        runtime.spawn("writer", partial(hold, "writer", "writer", writes=True))

        def invariant() -> None:
            if inside:
                assert paused == ["a", "b"], f"held by {inside}, but only {paused} paused"
            assert not (writing and "freezer" in inside), "memory is written while it is frozen"
            same = [task for task in inside if task.startswith("holder")]
            assert len(same) < 2, "two holders of the same name at once"

        def check() -> None:
            assert len(ended) == len(tasks) + 2, f"only {ended} have ended"
            assert paused == [], f"{paused} stay paused"
            *_, (left, _spare) = cast("Any", suspension.key())
            assert left == 0, f"{left} are known as waiting, and have ended"

        return World(
            check,
            invariant=invariant,
            remembers=False,
            final=lambda: tuple(sorted(ended)),
            timers=False,
        )
