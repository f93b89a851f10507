"""The engine: one library, one turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.vcpu.turn import Turn
from hfsched.vcpu.unicorn.library import load
from hfsched.vcpu.unicorn.space import UnicornSpace

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["UnicornEngine"]


class UnicornEngine:
    """See `hfsched.vcpu.engine.Engine`.

    Raises `UserError` when the package `unicorn` is missing or unknown.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.name = "unicorn"
        self._runtime = runtime
        self._library = load()
        self._turn = Turn(runtime, "unicorn")
        self._spaces: set[UnicornSpace] = set()  # not closed

    def space(self, name: str, vcpus: int) -> UnicornSpace:
        """Return the machine of VM `name` with `vcpus` CPUs and no memory."""
        space = UnicornSpace(
            self._runtime, self._library, self._turn, name, vcpus, self._spaces.discard
        )
        self._spaces.add(space)
        return space

    def close(self) -> None:
        """Close every space that is still open; no vCPU may be inside `enter`."""
        for space in list(self._spaces):
            space.close()
