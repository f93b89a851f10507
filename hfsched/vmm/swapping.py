"""Swap for the memory of a machine's VMs: what `hfsched.swap` needs of a machine.

One monitor serves all VMs, and a command moves the memory of all: the guests are suspended together.
Nothing moves by itself; whoever runs the machine says when.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfsched.errors import UserError
from hfsched.swap import device
from hfsched.swap.entries import Staging
from hfsched.swap.guestpages import open_userfault, zap
from hfsched.swap.messages import Region
from hfsched.swap.monitor import monitor
from hfsched.swap.owner import Owner, Standstill, SwapError
from hfsched.swap.picture import picture
from hfsched.swap.resources import pack
from hfsched.swap.stores import Stores
from hfsched.swap.table import table_size

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram
    from hfsched.runtime.base import Runtime
    from hfsched.swap.messages import Status

__all__ = ["MachineSwap"]

_PAGE = 4096
_TIER_PART = 4  # the compressed tier may have this part of the guests' memory
_ENABLE_WITHIN = 10_000_000_000  # ns
_CLOSE_WITHIN = 5_000_000_000  # ns


@dataclass(frozen=True, slots=True)
class _Main:
    """This process as a member: vCPUs and host senders touch guest memory here."""

    uffd: int
    regions: Sequence[Region]
    number: int = 0
    dynamic: bool = False

    def descriptors(self) -> Sequence[int]:
        """See `hfsched.swap.owner.Member`."""
        return (self.uffd,)

    def zap(self) -> None:
        """See `hfsched.swap.owner.Member`."""
        for region in self.regions:
            zap(region.base, region.size)


class MachineSwap:
    """Made before the guests run; `close` it when they have stopped.

    The swap file is in `directory`.  `standstill` stops whoever touches the memory; `kernel`: some of
    them do it inside the kernel (KVM), which takes more privileges to serve.  Raises UserError for
    what this machine does not have.  A monitor that is lost, with no other to take its place, ends
    the owner's task with a UserError, which the runtime reports.
    """

    def __init__(
        self,
        runtime: Runtime,
        directory: Path,
        rams: Mapping[str, Ram],
        standstill: Standstill,
        *,
        kernel: bool,
    ) -> None:
        why_not = device.problem()
        if why_not is not None:
            raise UserError(f"swap: {why_not}")
        self._runtime = runtime
        self._pages = {name: ram.size // _PAGE for name, ram in rams.items()}
        total = sum(self._pages.values())
        tier = 0 if device.tier_problem() is not None else total * _PAGE // _TIER_PART
        with ExitStack() as stack:
            self._uffd = _userfault(kernel=kernel)
            stack.callback(os.close, self._uffd)
            self._stores = Stores.create(directory, total, Staging.MINOR, tier)
            stack.callback(self._stores.close)
            resources = pack(self._stores, [ram.fd for ram in rams.values()])
            self.owner = Owner(runtime, monitor, standstill, resources, on_lost=_lost)
            try:
                self.owner.start()
            except SwapError as exc:
                raise UserError(str(exc)) from exc
            self._stack = stack.pop_all()
        try:
            self.owner.add(_Main(self._uffd, _regions(list(rams.values()))))
        except SwapError as exc:
            self.close()
            raise UserError(str(exc)) from exc

    def close(self) -> None:
        """End the monitor, and forget what is swapped out.

        Should the owner's task still be busy, the descriptors that it may give to a monitor stay.
        """
        with suppress(SwapError):  # it is lost, or busy
            self.owner.close(self._runtime.now() + _CLOSE_WITHIN, discard=True)
        if self.owner.join(self._runtime.now() + _CLOSE_WITHIN):
            self._stack.close()

    def enable(self, deadline: int | None = None) -> int:
        """Suspend the machine and stage its memory; return how many pages.

        Raises SwapError or SuspendError; then the guests run on.
        """
        if deadline is None:
            deadline = self._runtime.now() + _ENABLE_WITHIN
        return self.owner.enable(deadline)

    def status(self, deadline: int | None = None) -> Status:
        """Say how things are; see `Owner.status`."""
        return self.owner.status(deadline)

    def pictures(self) -> dict[str, str]:
        """Return for each VM where its memory is, a character for 2 MiB."""
        with mmap.mmap(
            self._stores.table, table_size(self._stores.pages), prot=mmap.PROT_READ
        ) as table:
            states = table[table_size(0) :: 8]  # the lowest byte of each entry has its state
        made, first = {}, 0
        for name, pages in self._pages.items():
            made[name] = picture(states[first : first + pages])
            first += pages
        return made


def _userfault(*, kernel: bool) -> int:
    try:
        return open_userfault()
    except UserError as exc:
        if kernel:
            raise UserError(f"swap: for guests under KVM: {exc}") from None
    try:
        return open_userfault(user_mode_only=True)
    except UserError as exc:
        raise UserError(f"swap: {exc}") from None


def _regions(rams: Sequence[Ram]) -> tuple[Region, ...]:
    made, offset = [], 0
    for ram in rams:
        made.append(Region(ram.address, offset, ram.size))
        offset += ram.size
    return tuple(made)


def _lost(why: str) -> None:
    raise UserError(f"{why}: guests that touch memory which is out wait for ever")
