"""Opaque calls: after one, the caller's history contains its result, and nothing else of it.

A search that compares states keeps for each task a digest of everything that it has observed.  The
intermediate observations of a call into another party no longer matter once it has returned: only the
result does.  `opaque_call` drops them without a change of the code explored.  It is trusted like
`Runtime.retain_only`: the party may keep data for the caller only in state that a lock reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["opaque_call"]

T = TypeVar("T")


def opaque_call(runtime: ExploreRuntime, party: T) -> T:
    """Return a wrapper of `party` whose method calls are opaque; `party` if states are not compared."""
    if not runtime.forgetting:
        return party
    return _Opaque(runtime, party)  # type: ignore[return-value]  # it has every attribute of it


class _Opaque:
    """A wrapper of a party; a method is wrapped on first use."""

    def __init__(self, runtime: ExploreRuntime, party: Any) -> None:
        self._runtime = runtime
        self._party = party

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._party, name)
        if name.startswith("_") or not callable(found):
            return found
        controller = self._runtime.controller
        place = f"what {type(self._party).__name__}.{name} returned"

        def call(*args: Any, **kwargs: Any) -> Any:
            task = controller.current
            if task is None:
                return found(*args, **kwargs)
            task.opaque_calls = (*task.opaque_calls, task.remember())
            try:
                result = found(*args, **kwargs)
                controller.forgotten = True
                task.recall(task.opaque_calls[-1])  # not our own: see `digests.recall`
            finally:
                task.opaque_calls = task.opaque_calls[:-1]
            controller.observe(result, place)
            return result

        self.__dict__[name] = call
        return call
