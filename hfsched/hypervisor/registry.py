"""Which VMs there are.  Filled before the first RUN, constant afterwards, so it needs no lock."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from hfsched.abi.ffa import FIRST_SECONDARY_ID, PRIMARY_ID
from hfsched.errors import ConfigError
from hfsched.hypervisor.vm import NIL_UUID, Primary, Vm

if TYPE_CHECKING:
    from hfsched.abi.dialect import Dialect
    from hfsched.memory.ram import Ram
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.engine import Space

__all__ = ["Registry"]

IDS_MAX = 0x7FFF  # bit 15 marks secure partitions


class Registry:
    """The primary and the secondaries, by id."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.primary = Primary(runtime)
        self.vms: dict[int, Vm] = {}

    def add(
        self,
        name: str,
        dialect: Dialect,
        space: Space,
        ram: Ram,
        base: int,
        vcpus: int,
        uuid: UUID = NIL_UUID,
    ) -> Vm:
        """Make a VM with the next id; its RAM is at IPA `base` of its space already."""
        number = FIRST_SECONDARY_ID + len(self.vms)
        if number > IDS_MAX:
            raise ConfigError(f"vm {name}: more than {IDS_MAX - FIRST_SECONDARY_ID + 1} VMs")
        vm = Vm(self._runtime, number, name, dialect, space, ram, base, vcpus, uuid)
        self.vms[number] = vm
        return vm

    def find(self, number: int) -> Vm | Primary | None:
        """Return the party with this id, the primary included."""
        return self.primary if number == PRIMARY_ID else self.vms.get(number)

    def partitions(self, uuid: UUID) -> list[tuple[int, int]]:
        """Return {id, vCPUs} of every party with this UUID, of all for the nil one."""
        everyone: list[tuple[int, int, UUID]] = [(PRIMARY_ID, 1, Primary.uuid)]
        everyone += [(vm.id, len(vm.vcpus), vm.uuid) for vm in self.vms.values()]
        return [(vm, vcpus) for vm, vcpus, its in everyone if uuid in (NIL_UUID, its)]
