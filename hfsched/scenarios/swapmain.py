"""Main's side of the scenarios with swap: main as a member, and a runtime whose processes die."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfsched.runtime.base import SpawnerLostError
from hfsched.scenarios.swapmemory import Memory
from hfsched.swap.protocol.messages import Region

if TYPE_CHECKING:
    from hfsched.explore.handles import ProcessHandle
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.memory.writeprotect import Run
    from hfsched.runtime.base import End

__all__ = ["FailingRuntime", "MainModel"]


class FailingRuntime:
    """A runtime whose first `deaths` processes may die, and with `spawner_dies` its spawner too.

    Then it may not exec another spawner.  The first `failing_starts` processes cannot be started, from
    `begin` on.
    """

    def __init__(
        self,
        runtime: ExploreRuntime,
        deaths: int,
        *,
        spawner_dies: bool = False,
        failing_starts: int = 0,
    ) -> None:
        self._runtime = runtime
        self._failing_starts = failing_starts
        self._left = deaths
        self._spawner_dies = spawner_dies
        self._early: list[ProcessHandle] | None = []
        for name in {*dir(type(runtime))} - {*vars(type(self))}:  # what a search calls all the time
            if not name.startswith("_") and callable(getattr(type(runtime), name)):
                self.__dict__[name] = getattr(runtime, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def process(
        self, name: str, main: Callable[..., None], ends: Sequence[End], *, outlives: bool = False
    ) -> ProcessHandle:
        """See `Runtime.process`."""
        if self._spawner_dies and self._runtime.spawner_lost.is_set():
            raise SpawnerLostError("the spawner is dead")
        if self._early is None and self._failing_starts:
            self._failing_starts -= 1
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        process = self._runtime.process(name, main, ends, outlives=outlives)
        if self._early is not None:
            self._early.append(process)
        else:
            self._arm(process)
        return process

    def begin(self) -> None:
        """Allow deaths from here on."""
        early, self._early = self._early, None
        for process in early or ():
            self._arm(process)
        if self._spawner_dies:
            self._runtime.event_of("death of the spawner", self._runtime.lose_spawner)

    def _arm(self, process: ProcessHandle) -> None:
        if self._left:
            self._left -= 1
            self._runtime.may_die(process)


@dataclass(frozen=True)
class MainModel:
    """Main as a member: its guests access the memory."""

    memory: Memory
    number: int = 0
    dynamic: bool = False
    dead: bool = False
    regions: tuple[Region, ...] = (Region(0, 0, 1),)
    tracked: int | None = None

    def descriptors(self) -> Sequence[int]:
        """See `Member`."""
        return ()

    def still_mapped(self, matters: Callable[[int], bool]) -> int | None:
        """See `Member`."""
        del matters
        return None  # `memory` checks what an unzapped page would do

    def zap(self) -> None:
        """See `Member`."""
        self.memory.zap()

    def zap_mapped(self, pages: Sequence[Run] | None = None) -> None:
        """See `Member`."""
        self.memory.zap(only=pages)
