"""The generation id of a VM: 16 random bytes that are others after every restore of a snapshot.

They are in a page of their own at `GENERATION_BASE`, which a guest can read alone; a device tree that is made
for the VM names it, compatible with "microsoft,vmgenid".  When they have changed, interrupt `GENERATION_INTID`
is pending for each vCPU of the VM: one that has enabled it takes it, another does when it enables it, so that no
change is missed between a guest's look at the id and its enabling.

A VM has one if it has a device tree, or its guest is a Python program; others are as under Hafnium, where accesses
that low fault at another level of the tables.

An id says "this state of mine may run elsewhere, too".  A snapshot can be restored any number of times, one that
a machine hibernated into as well, and who restores it cannot know which time is the first.  So each restore
changes the id.  A suspension does not, nor does what the guest does itself.

Source: Microsoft, Virtual Machine Generation ID (2012), which asks for a change "every time" a VM runs from a
snapshot or a copy, and for an 8-byte aligned buffer outside of what a memory map lists; Linux,
Documentation/devicetree/bindings/rng/microsoft,vmgenid.yaml.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hfsched.abi.vmgenid import GENERATION_BASE, GENERATION_INTID, GENERATION_SIZE
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.vcpu.engine import Permissions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hfsched.vcpu.engine import Space
    from hfsched.vmm.assembly import AssembledVm

__all__ = [
    "GENERATION_PAGE",
    "Generations",
    "signal_change",
]

GENERATION_PAGE = PAGE_SIZE


class Generations:
    """The pages of some of a machine's VMs, one each, in a memory of their own.

    `draw(bytes)` makes an id, `ram(name, bytes)` the memory.  Raises OSError if there is none.
    """

    def __init__(
        self,
        vms: int,
        draw: Callable[[int], bytes] = os.urandom,
        ram: Callable[[str, int], Ram] = Ram,
    ) -> None:
        self._ram = ram("generation", vms * GENERATION_PAGE)
        for number in range(vms):
            self._ram.write(number * GENERATION_PAGE, draw(GENERATION_SIZE))

    def map(self, number: int, space: Space) -> None:
        """Let the guest of the `number`-th of these VMs read its id."""
        offset = number * GENERATION_PAGE
        space.map(GENERATION_BASE, self._ram, offset, GENERATION_PAGE, Permissions.READ)

    def close(self) -> None:
        """Free the memory, once no space has it."""
        self._ram.close()


def signal_change(vms: Iterable[AssembledVm]) -> None:
    """Make the interrupt pending in VMs that have other ids than before; before the machine's start."""
    for vm in vms:
        with vm.record.lock:
            for vcpu in vm.record.vcpus:
                vcpu.interrupts.inject(GENERATION_INTID)
                vcpu.update_line()
