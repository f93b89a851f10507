"""Opaque calls: after one, the caller knows what it returned, and nothing else.

A search that compares states keeps for each task a digest of all that it has observed.  What a call
into another party has looked at on its way matters no longer once it has returned: only the result
does.  `opaque_call` puts that into effect without a word in the code explored.  It is trusted like
`Runtime.retain_only`: the party must keep nothing for the caller but in state that a lock reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["opaque_call"]

T = TypeVar("T")


def opaque_call(runtime: ExploreRuntime, party: T) -> T:
    """Return `party`, whose method calls are opaque; the party itself when states do not matter."""
    if not runtime.forgetting:
        return party
    return _Opaque(runtime, party)  # type: ignore[return-value]  # it has every attribute of it


class _Opaque:
    """Stands for a party; a method is wrapped when it is first asked for."""

    def __init__(self, runtime: ExploreRuntime, party: Any) -> None:
        self._runtime = runtime
        self._party = party

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._party, name)
        if name.startswith("_") or not callable(found):
            return found
        controller = self._runtime.controller

        def call(*args: Any, **kwargs: Any) -> Any:
            task = controller.current
            if task is None:
                return found(*args, **kwargs)
            task.opaque_calls = (*task.opaque_calls, (task.history, task.kept))
            try:
                result = found(*args, **kwargs)
                task.history, task.kept = task.opaque_calls[-1]  # not our own: see `digests.recall`
            finally:
                task.opaque_calls = task.opaque_calls[:-1]
            controller.observe_plain(result)
            return result

        self.__dict__[name] = call
        return call
