"""Level-triggered interrupt lines from devices to vCPUs.

A line is one source of one interrupt id of one vCPU; several sources may share an id.  While a line
is high its id is pending: taking it (HF_INTERRUPT_GET) leaves it pending, so a guest's handler makes
the device lower the line before it unmasks interrupts.  Lowering the last line of an id withdraws it;
what was injected under the same id meanwhile, as an edge, stays pending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.hypervisor.interface import Injection

if TYPE_CHECKING:
    from hfsched.hypervisor.vm import Vcpu

__all__ = ["InterruptLine"]


class InterruptLine:
    """The line of `source` (a device's name, unique for this vCPU and id); low at first."""

    def __init__(self, vcpu: Vcpu, source: str, intid: int) -> None:
        if not vcpu.interrupts.valid(intid):
            raise InternalError(f"vm {vcpu.vm.name}: {source}: no interrupt id {intid}")
        self.vcpu = vcpu
        self.source = source
        self.intid = intid

    def set_level(self, level: bool) -> Injection:  # noqa: FBT001
        """Raise or lower the line; any thread, with no VM's lock held.  Setting it again changes nothing.

        Returns what an injection would: WAKE if by this the vCPU has its first interrupt that is enabled
        and pending (the caller then has the scheduler wake it), DISABLED where it cannot take this one,
        else PENDING.
        """
        vcpu = self.vcpu
        with vcpu.vm.lock:
            rose = vcpu.interrupts.set_level(self.source, self.intid, level)
            vcpu.update_line()
            return vcpu.injection(self.intid, rose=rose)
