"""A watched execution: its controller, and the exchange of codes around it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hfsched.errors import UserError
from hfsched.explore.controller import Controller
from hfsched.explore.watch import hooks
from hfsched.explore.watch.codes import Codes
from hfsched.runtime.declared import UNORDERED

if TYPE_CHECKING:
    from hfsched.explore.strategy import Strategy
    from hfsched.explore.task import Group, Task
    from hfsched.explore.thing import Thing
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["WatchedController", "reporting_to", "watched_codes"]


_FRAMES = 3  # of watched code for one of plain code, at most, and of what a hook calls


class WatchedController(Controller):
    """A controller whose conditions are not watched, but the functions of tasks are."""

    def __init__(self, strategy: Strategy, watcher: Watcher, **options: Any) -> None:
        options["races"] = options.get("races") or watcher.races()
        super().__init__(strategy, **options)
        self._watcher = watcher
        watcher.controller = self

    def point(
        self,
        kind: str,
        thing: Thing | None,
        *,
        write: bool = False,
        condition: Callable[[], bool] | None = None,
        deadline: int | None = None,
        also: Sequence[Thing] = (),
    ) -> None:
        """See `Controller.point`."""
        if condition is not None:
            condition = self._watcher.exempt(condition)
        self._watcher.end_step()
        super().point(kind, thing, write=write, condition=condition, deadline=deadline, also=also)

    def end(self, task: Task) -> None:
        """See `Controller.end`."""
        self._watcher.end_step()
        super().end(task)

    def spawn(self, name: str, fn: Callable[[], None], group: Group | None) -> Task:
        """See `Controller.spawn`."""
        site = (f"the start of {name}", 0)
        return super().spawn(name, lambda: hooks.call(site, fn), group)


class _Session:
    """Whether watched codes are in place."""

    def __init__(self) -> None:
        self.codes = Codes(hooks.HOOKS)
        self.depth = 0
        self.modules = 0  # how many there were when functions were last looked for


_session = _Session()


def _check_declared(codes: Codes) -> None:
    """Refuse a declaration of a field that decides control flow, by its name; raises UserError."""
    for each in UNORDERED:
        found = codes.deciding(each.field)
        if found is not None:
            raise UserError(
                f"{each.owner.__qualname__}.{each.field} is declared unordered, but {found[0]}:{found[1]}"
                " decides by a field of this name: its accesses need an order"
            )


@contextmanager
def watched_codes() -> Iterator[Codes]:
    """Give every function its watched code, for as long as this lasts; it may be nested.

    Raises UserError for a field that is declared unordered and decides control flow.
    """
    session = _session
    session.depth += 1
    try:
        if session.depth == 1 or session.modules != len(sys.modules):
            session.codes.watch()
            session.modules = len(sys.modules)
            _check_declared(session.codes)
        yield session.codes
    finally:
        session.depth -= 1
        if session.depth == 0:
            session.codes.restore()


@contextmanager
def reporting_to(watcher: Watcher) -> Iterator[None]:
    """Let watched code report to this watcher.

    Garbage is collected between executions alone: destructors are watched code too, and would run at
    another place in each execution.
    """
    with watched_codes():
        collecting = gc.isenabled()
        depth = sys.getrecursionlimit()
        gc.disable()
        sys.setrecursionlimit(_FRAMES * depth)
        hooks.install(watcher)
        try:
            yield
        finally:
            hooks.install(None)
            sys.setrecursionlimit(depth)
            if collecting:
                gc.enable()
