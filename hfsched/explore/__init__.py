"""The exploring runtime: production code under every interleaving.

`runtime` implements `hfsched.runtime.base.Runtime` with greenlets; each operation is a scheduling
point at which a strategy (`strategies`) chooses the next task: `controller` has that, over an
`executionstate`; `scenarioside` is what only scenarios call of the runtime.  `objects` are
its locks, events, cells and channels; `task` its tasks and `handles` their public handles;
`execution` runs one schedule of a scenario and returns the outcome; `canonical` says when values are the same.
`misuse`, `deadlocks`, `races`, `cycles`, `again` and `watchdog` have what is a failure in every scenario.
`schedule`, `token`, `replay` and `shrink` make failures reproducible, `explain` displays them, and
`campaign` distributes a search over processes; `registry` finds scenarios by name.  The only layer
below is `hfsched.runtime`: the code under test, hfsched's own scheduler too, is imported by scenarios.

Users can explore their own schedulers with it: the names below are public, and each is imported on
first use.  It needs the package greenlet (the extra `explore`).  It uses no terminal, and nothing in
production imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome, Result, execute, search
    from hfsched.explore.explain.html import page
    from hfsched.explore.explain.story import record_story
    from hfsched.explore.explain.text import draw
    from hfsched.explore.opaque import opaque_call
    from hfsched.explore.registry import Variant, find
    from hfsched.explore.replay import Finding, confirm, replay
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.scenario import Scenario, World
    from hfsched.explore.shrink import shrink
    from hfsched.explore.stepwise import Stepwise
    from hfsched.explore.strategies.choose import make
    from hfsched.explore.testing import Report, check, test

__all__ = [
    "ExploreRuntime",
    "Finding",
    "Outcome",
    "Report",
    "Result",
    "Scenario",
    "Stepwise",
    "Variant",
    "World",
    "check",
    "confirm",
    "draw",
    "execute",
    "find",
    "make",
    "opaque_call",
    "page",
    "record_story",
    "replay",
    "search",
    "shrink",
    "test",
]

_WHERE = {
    "ExploreRuntime": "runtime",
    "Finding": "replay",
    "Outcome": "execution",
    "Report": "testing",
    "Result": "execution",
    "Scenario": "scenario",
    "Stepwise": "stepwise",
    "Variant": "registry",
    "World": "scenario",
    "check": "testing",
    "confirm": "replay",
    "opaque_call": "opaque",
    "draw": "explain.text",
    "execute": "execution",
    "find": "registry",
    "make": "strategies.choose",
    "page": "explain.html",
    "replay": "replay",
    "search": "execution",
    "shrink": "shrink",
    "record_story": "explain.story",
    "test": "testing",
}


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"{__name__}.{where}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
