"""A driver's rings: checked, and what a back-end is given of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hfsched.vhost.frontend.backend import Ring

if TYPE_CHECKING:
    from hfsched.abi.virtio import RingLayout
    from hfsched.runtime.base import EventFd
    from hfsched.vhost.frontend.backend import SharedRegion

__all__ = ["ActiveRing", "problem_of"]

_INDEX = 2  # offset of the index in the device's area


def problem_of(layout: RingLayout, memory: Sequence[SharedRegion]) -> str | None:
    """Return why a split ring cannot be served, None if it can."""
    size = layout.size
    if not size or size & size - 1:
        return f"queue {layout.index}: size {size}: not a power of 2"
    for what, address, alignment, length in (
        ("descriptors", layout.descriptors, 16, 16 * size),
        ("driver area", layout.driver, 2, 6 + 2 * size),
        ("device area", layout.device, 4, 6 + 8 * size),
    ):
        if address % alignment:
            return f"queue {layout.index}: {what} at {address:#x}: not a multiple of {alignment}"
        if not any(
            region.guest <= address and address + length <= region.guest + region.size
            for region in memory
        ):
            return f"queue {layout.index}: {what} at {address:#x}: not in the VM's memory"
    return None


class ActiveRing:
    """A ring that the driver uses, and its eventfds {kick, call} with their descriptors, which are the caller's."""

    def __init__(
        self, layout: RingLayout, kick: tuple[EventFd, int], call: tuple[EventFd, int]
    ) -> None:
        self.layout = layout
        self.kick, self._kick_fd = kick
        self.call, self._call_fd = call
        self.base: int | None = 0  # where it goes on; None: a back-end has ended without saying it

    def ring(self, read: Callable[[int, int], bytes]) -> Ring:
        """Return what a back-end is given.

        Where none has said it, it goes on behind the last request that the driver has got back.
        """
        base = self.base
        if base is None:
            base = int.from_bytes(read(self.layout.device + _INDEX, 2), "little")
        return Ring(self.layout, base, self._kick_fd, self._call_fd)
