"""Stage-2 translation tables of one VM: IPA to the machine's physical addresses, with permissions.

Pure: the tables live in memory that the caller provides, a page at a time.  4 KiB granule, 44 bits
of IPA, levels 0 to 3; blocks of 2 MiB where both addresses are aligned, else pages.

Descriptor format: Arm ARM D8.3, "VMSAv8-64 translation table format descriptors", stage 2.
"""

from __future__ import annotations

from array import array
from typing import Protocol

from hfsched.errors import InternalError
from hfsched.vcpu.engine import Permissions

__all__ = ["IPA_BITS", "VTCR", "Pages", "Stage2"]

IPA_BITS = 44

_PAGE = 4096
_BLOCK = 2 << 20
_ENTRIES = 512
_OUTPUT = (1 << 48) - _PAGE

# T0SZ = 20, start at level 0, write-back walks, inner shareable, 4 KiB, 44 bits out, RES1.
VTCR = 20 | 2 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 4 << 16 | 1 << 31

_TABLE = 0b11
_LEAF_PAGE = 0b11
_LEAF_BLOCK = 0b01
_NOTHING = array("Q", [0])
# Normal memory, write-back; inner shareable; the access flag.
_ATTRIBUTES = 0xF << 2 | 3 << 8 | 1 << 10
_READ, _WRITE, _NO_EXECUTE = 1 << 6, 1 << 7, 1 << 54


def _bits(permissions: Permissions) -> int:
    bits = _ATTRIBUTES
    if permissions & Permissions.READ:
        bits |= _READ
    if permissions & Permissions.WRITE:
        bits |= _WRITE
    if not permissions & Permissions.EXECUTE:
        bits |= _NO_EXECUTE
    return bits


def _permissions(descriptor: int) -> Permissions:
    permissions = Permissions(0)
    if descriptor & _READ:
        permissions |= Permissions.READ
    if descriptor & _WRITE:
        permissions |= Permissions.WRITE
    if not descriptor & _NO_EXECUTE:
        permissions |= Permissions.EXECUTE
    return permissions


class Pages(Protocol):
    """Zeroed pages of table memory, by their physical address."""

    def take(self) -> int:
        """Return the physical address of a page of zeros."""

    def give(self, page: int) -> None:
        """Take back a page that `take` returned."""

    def entries(self, page: int) -> memoryview:
        """Return the 512 descriptors of `page`, a memoryview of format "Q"."""


class Stage2:
    """The tables; `root` is what VTTBR_EL2 gets.  Addresses and sizes are multiples of 4096."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self.root = pages.take()

    def map(self, ipa: int, physical: int, size: int, permissions: Permissions) -> None:
        """Map `size` bytes at `ipa` to `physical`, replacing what was there."""
        self._check(ipa, size)
        bits = _bits(permissions)
        end = ipa + size
        while ipa < end:
            level2, index = self._level2(ipa)
            if not (ipa | physical) % _BLOCK and end - ipa >= _BLOCK:
                step = min((end - ipa) // _BLOCK, _ENTRIES - index) * _BLOCK
                leaf = physical | bits | _LEAF_BLOCK
                self._replace(level2, index, array("Q", range(leaf, leaf + step, _BLOCK)))
            else:
                step = min(end, (ipa | (_BLOCK - 1)) + 1) - ipa
                page = self._level3(level2, index)
                first = ipa % _BLOCK // _PAGE
                leaf = physical | bits | _LEAF_PAGE
                self._pages.entries(page)[first : first + step // _PAGE] = array(
                    "Q", range(leaf, leaf + step, _PAGE)
                )
            ipa += step
            physical += step

    def unmap(self, ipa: int, size: int) -> None:
        """Make `size` bytes at `ipa` fault; holes in the range stay holes."""
        for level2, index, first, last in self._parts(ipa, size):
            if last - first == _ENTRIES:
                self._replace(level2, index, _NOTHING)
                continue
            page = self._level3(level2, index)
            entries = self._pages.entries(page)
            entries[first:last] = array("Q", bytes(8 * (last - first)))
            if not any(entries):
                self._replace(level2, index, _NOTHING)

    def protect(self, ipa: int, size: int, permissions: Permissions) -> None:
        """Change the permissions of what is mapped in `size` bytes at `ipa`; holes stay holes."""
        bits = _bits(permissions)
        for level2, index, first, last in self._parts(ipa, size):
            entry = self._pages.entries(level2)[index]
            if last - first == _ENTRIES and entry & 3 == _LEAF_BLOCK:
                leaf = entry & _OUTPUT | bits | _LEAF_BLOCK
                self._replace(level2, index, array("Q", [leaf]))
                continue
            entries = self._pages.entries(self._level3(level2, index))
            entries[first:last] = array(
                "Q", [e and (e & _OUTPUT | bits | _LEAF_PAGE) for e in entries[first:last]]
            )

    def find(self, ipa: int) -> tuple[int, Permissions] | None:
        """Return the physical address and the permissions of `ipa`, None where nothing is."""
        table = self.root
        if ipa >> IPA_BITS:
            return None
        for shift in (39, 30, 21, 12):
            entry: int = self._pages.entries(table)[ipa >> shift & (_ENTRIES - 1)]
            if not entry:
                return None
            if shift == 12 or entry & 3 == _LEAF_BLOCK:
                inside = ipa & ((1 << shift) - 1)
                return (entry & _OUTPUT) + inside, _permissions(entry)
            table = entry & _OUTPUT
        return None

    @staticmethod
    def _check(ipa: int, size: int) -> None:
        if ipa < 0 or size <= 0 or (ipa | size) % _PAGE or ipa + size > 1 << IPA_BITS:
            raise InternalError(f"stage 2: [{ipa:#x}, +{size:#x}) is no range of IPA pages")

    def _parts(self, ipa: int, size: int) -> list[tuple[int, int, int, int]]:
        """Return (level-2 table, index, first page, last page + 1) where anything is mapped."""
        self._check(ipa, size)
        parts = []
        end = ipa + size
        while ipa < end:
            step = min(end, (ipa | (_BLOCK - 1)) + 1) - ipa
            table: int | None = self.root
            for shift in (39, 30):
                entry = self._pages.entries(table)[ipa >> shift & (_ENTRIES - 1)] if table else 0
                if not entry:
                    # Nothing below: on to the next entry of this level.
                    step = min(end, (ipa | ((1 << shift) - 1)) + 1) - ipa
                    table = None
                    break
                table = entry & _OUTPUT
            index = ipa >> 21 & (_ENTRIES - 1)
            if table is not None and self._pages.entries(table)[index]:
                first = ipa % _BLOCK // _PAGE
                parts.append((table, index, first, first + step // _PAGE))
            ipa += step
        return parts

    def _level2(self, ipa: int) -> tuple[int, int]:
        """Return the level-2 table of `ipa`, made if need be, and the index in it."""
        table = self.root
        for shift in (39, 30):
            entries = self._pages.entries(table)
            index = ipa >> shift & (_ENTRIES - 1)
            if not entries[index]:
                entries[index] = self._pages.take() | _TABLE
            table = entries[index] & _OUTPUT
        return table, ipa >> 21 & (_ENTRIES - 1)

    def _level3(self, level2: int, index: int) -> int:
        """Return the level-3 table there, made if need be: empty, or the block in pages."""
        entries = self._pages.entries(level2)
        entry = entries[index]
        if entry & 3 == _TABLE:
            return int(entry & _OUTPUT)
        page = self._pages.take()
        if entry:
            leaf = (entry & ~3) | _LEAF_PAGE
            self._pages.entries(page)[:] = array("Q", range(leaf, leaf + _BLOCK, _PAGE))
        entries[index] = page | _TABLE
        return page

    def _replace(self, level2: int, index: int, new: array[int]) -> None:
        """Put entries into a level-2 table from `index` on, and give back the tables that were there."""
        entries = self._pages.entries(level2)[index : index + len(new)]
        old = entries.tolist()
        entries[:] = new
        for entry in old:
            if entry & 3 == _TABLE:
                self._pages.give(entry & _OUTPUT)
