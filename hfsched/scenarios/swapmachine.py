"""What `MachineSwap` is made of in scenarios: a model of the kernel, and the commands that are given to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hfsched.scenarios.swapmain import MainModel
from hfsched.scenarios.swapstore import Monitor
from hfsched.swap.client.arrivals import candidate
from hfsched.swap.core.resources import Resources
from hfsched.swap.pages.entries import State
from hfsched.vmm.swapping import MachineSwap

if TYPE_CHECKING:
    from hfsched.scenarios.swapmemory import Memory
    from hfsched.swap.client.member import Member

__all__ = ["COMMANDS", "KernelModel"]

COMMANDS: Mapping[str, Callable[[MachineSwap], object]] = {
    "enable": MachineSwap.enable,
    "status": MachineSwap.status,
    "trim": lambda swap: swap.client.trim(),
    "out": MachineSwap.swap_out,
    "disable": lambda swap: swap.client.disable(),
}


class _Footprint:
    """Measures nothing; see `hfsched.swap.report.footprint.Footprint`."""

    def mark(self) -> None:
        """See `Footprint`."""


class KernelModel:
    """See `hfsched.vmm.swapkernel.SwapKernel`."""

    candidate = staticmethod(candidate)

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.program = Monitor(memory)
        self.resources = Resources()
        self.needed = memory.needed

    def main(self) -> Member:
        """Return main as a member."""
        return MainModel(self._memory)

    def footprint(self, _monitor: Callable[[], int | None]) -> _Footprint:
        """Return what measures memory."""
        return _Footprint()

    def staged(self, page: int) -> bool:
        """Return whether a page is staged or out."""
        return self._memory.pages[page].entry.state is not State.RESIDENT

    def close(self) -> None:
        """Free everything: who waits for a page finds an empty one, as when a userfaultfd is closed."""
        for page in self._memory.pages:
            self._memory.at("close", page)
            page.discarding = page.discarding or page.memory is None
            page.registered.clear()
            self._memory.wake(page)
