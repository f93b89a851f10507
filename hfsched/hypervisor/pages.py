"""Ownership of the pages of a VM's address space, and the VM's permissions.

Plain state: the VM's lock guards it.  All memory of a VM is its own at first; what
differs from that is kept page by page.
"""

from __future__ import annotations

from msgspec import Struct

from hfsched.hypervisor.records import PagesRecord
from hfsched.mailbox.records import check
from hfsched.memory.guestmemory import GuestMemory
from hfsched.memory.ram import PAGE_SIZE
from hfsched.runtime.declared import uncompared
from hfsched.vcpu.engine import Permissions

__all__ = ["Mode", "Pages"]


class Mode(Struct, frozen=True):
    """What a VM may do with a page, whether it owns it, and whether it alone can access it."""

    permissions: Permissions
    owned: bool = True
    exclusive: bool = True


OWN = Mode(Permissions.RWX)


@uncompared(changes="whether a fault was before the last one is compared, where there is a fault")
class Pages:
    """The modes of the pages of a VM's memory."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.changes = 0  # how often a mode was set
        self._overrides: dict[int, Mode] = {}

    def mode(self, ipa: int) -> Mode | None:
        """Return the mode of the page that holds `ipa`, None where the VM has no memory."""
        if self._memory.find(ipa) is None:
            return None
        return self._overrides.get(ipa // PAGE_SIZE, OWN)

    def set(self, ipa: int, mode: Mode) -> None:
        """Give the page at `ipa` (in the VM's memory) a mode."""
        self.changes += 1
        if mode == OWN:
            self._overrides.pop(ipa // PAGE_SIZE, None)
        else:
            self._overrides[ipa // PAGE_SIZE] = mode

    def allows(self, ipa: int, wanted: Permissions) -> bool:
        """Return whether the VM may access `ipa` so."""
        mode = self.mode(ipa)
        return mode is not None and wanted in mode.permissions

    def exclusive(self, ipa: int, wanted: Permissions) -> bool:
        """Return whether the page is owned and exclusive, and accessible so."""
        mode = self.mode(ipa)
        return mode is not None and mode.owned and mode.exclusive and wanted in mode.permissions

    def save(self) -> PagesRecord:
        """Return the modes of the pages whose mode is not `OWN`."""
        return PagesRecord(
            tuple(
                (page, mode.permissions.value, mode.owned, mode.exclusive)
                for page, mode in self.key()
            )
        )

    def restore(self, record: PagesRecord) -> None:
        """Put back what `save` returned; raises UserError for a page that the VM does not have.

        The space's tables are not touched: see `hfsched.hypervisor.vm.Vm.restore`.
        """
        overrides: dict[int, Mode] = {}
        for page, permissions, owned, exclusive in record.overrides:
            check(self._memory.find(page * PAGE_SIZE) is not None, f"page {page:#x} is no memory")
            check(0 <= permissions <= Permissions.RWX, f"page {page:#x}: permissions {permissions}")
            overrides[page] = Mode(Permissions(permissions), owned=owned, exclusive=exclusive)
        self._overrides = overrides
        self.changes += 1

    def key(self) -> tuple[tuple[int, Mode], ...]:
        """Return what differs from the beginning, hashable."""
        return tuple(sorted(self._overrides.items(), key=lambda item: item[0]))
