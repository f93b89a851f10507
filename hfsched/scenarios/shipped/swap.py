"""Swap in the scenario `machine`: `MachineSwap` over models of the kernel and of the copying of pages.

All guest memory is one page of the model: each access to it may fault, on the task that accesses it, also
under a VM's lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hfsched.scenarios.swapmachine import COMMANDS, KernelModel
from hfsched.scenarios.swapmemory import Memory
from hfsched.scheduler.suspension import SuspendError
from hfsched.swap.client.errors import SwapError
from hfsched.vmm.swapping import MachineSwap

if TYPE_CHECKING:
    from pathlib import Path

    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.memory.ram import Ram

__all__ = ["SwapModel", "Swapper"]


class SwapModel:
    """The memory of a machine's VMs, and what makes its `MachineSwap`."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        self._runtime = runtime
        self.memory = Memory(runtime, 1)

    def make(self, *args: Any, **kwargs: Any) -> MachineSwap:
        """Return what `MachineSwap` would."""

        def backing(
            _directory: Path | None, _rams: Mapping[str, Ram], *, kernel: bool, stored: object
        ) -> Any:
            assert not kernel
            assert stored is None
            return KernelModel(self.memory)

        return MachineSwap(*args, backing=backing, **kwargs)

    def touch(self) -> None:
        """Access the memory, on the current task: it may have to wait for a fault to be served."""
        task = self._runtime.current
        if task is not None and not self._runtime.settling:
            self.memory.touch(task.name, self.memory.pages[0])

    def check(self) -> None:
        """Check, at the end, that no task waits for a page."""
        for page in self.memory.pages:
            assert not page.waiting, f"a fault on {page.name} is never served"


class Swapper:
    """Gives commands, one after the other; one that is refused is left."""

    name = "swapper"

    def __init__(self, runtime: ExploreRuntime, swap: MachineSwap, words: Sequence[str]) -> None:
        self._runtime = runtime
        self._swap = swap
        self._words = words
        self.refused: list[str] = []
        self.stopped = False
        self.ended = False

    def run(self) -> None:
        """Be its task."""
        for index, word in enumerate(self._words):
            self._runtime.retain_only(index, tuple(self.refused))
            try:
                COMMANDS[word](self._swap)
            except (SwapError, SuspendError) as exc:
                self.refused.append(f"{word}: {exc}")
        self.ended = True
