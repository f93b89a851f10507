"""Which VMs there are.  Filled before the first RUN, constant afterwards, so it needs no lock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from hfsched.abi.ffa import FIRST_SECONDARY_ID, PRIMARY_ID
from hfsched.errors import ConfigError
from hfsched.hypervisor.calls import table_of
from hfsched.hypervisor.vm import NIL_UUID, Primary, Vm

if TYPE_CHECKING:
    from hfsched.abi.dialect import Dialect
    from hfsched.hypervisor.mmio import Window
    from hfsched.hypervisor.party import Party
    from hfsched.mailbox.mailbox import Mailbox
    from hfsched.memory.guestmemory import GuestMemory
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.engine import Space

__all__ = ["Registry"]

IDS_MAX = 0xFFFF  # bit 15 marks secure partitions


class Registry:
    """The primary and the secondaries, by id.  `windows` are the devices that each secondary has."""

    def __init__(self, runtime: Runtime, windows: Sequence[Window] = ()) -> None:
        self._runtime = runtime
        self._windows = windows
        self.primary = Primary(runtime)
        self.vms: dict[int, Vm] = {}
        self._partitions: dict[UUID, list[tuple[int, int]]] = {}
        self._list(self.primary)

    def add(
        self,
        number: int,
        name: str,
        dialect: Dialect,
        space: Space,
        memory: GuestMemory,
        vcpus: int,
        uuid: UUID = NIL_UUID,
        mailbox: Mailbox | None = None,
    ) -> Vm:
        """Make a VM with an id of its own; its memory is mapped in its space already.

        Raises ConfigError for an id that is taken or is no secondary's, for a dialect that needs more
        argument registers than its engine has, and for memory at the address of a device.
        """
        if dialect.registers > space.argument_registers:
            raise ConfigError(
                f"vm {name}: dialect {dialect.name} passes x0 to x{dialect.registers - 1}, and this"
                f" engine has {space.argument_registers} argument registers: use an aarch64 image"
            )
        if not FIRST_SECONDARY_ID <= number <= IDS_MAX:
            raise ConfigError(f"vm {name}: id {number} is not in {FIRST_SECONDARY_ID}..{IDS_MAX}")
        if number in self.vms:
            raise ConfigError(f"vm {name}: id {number} is that of {self.vms[number].name}")
        table_of(dialect)  # an operation without a handler is found here, not by a guest
        vm = Vm(self._runtime, number, name, dialect, space, memory, vcpus, uuid, mailbox)
        for window in self._windows:
            vm.mmio.claim(*window)
        self.vms[number] = vm
        self._list(vm)
        return vm

    def find(self, number: int) -> Party | None:
        """Return the party with this id, the primary included."""
        return self.primary if number == PRIMARY_ID else self.vms.get(number)

    def partitions(self, uuid: UUID) -> list[tuple[int, int]]:
        """Return {id, vCPUs} of every party with this UUID, of all for the nil one."""
        return self._partitions.get(uuid, [])

    def _list(self, party: Party) -> None:
        for uuid in {NIL_UUID, party.uuid}:
            self._partitions.setdefault(uuid, []).append((party.id, party.vcpu_count))
