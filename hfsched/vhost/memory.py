"""A guest's memory as its front-end shares it, and the log of what is written to it.

Two kinds of addresses: the guest's (in descriptors), and the front-end's own (where rings are).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.vhost.errors import MemoryFaultError, RefusedError
from hfsched.vhost.mapping import Mapping
from hfsched.vhost.protocol.messages import MemoryRegion

if TYPE_CHECKING:
    from hfsched.vhost.mapping import Bytes

__all__ = ["LOG_PAGE", "SLOTS_MAX", "DirtyLog", "Part", "SharedMemory", "Span"]

LOG_PAGE = 4096  # bytes of guest memory for each bit of the log
SLOTS_MAX = 512  # regions

Map = Callable[[int, int, int], Mapping]  # see `hfsched.vhost.mapping.map_file`


class Span(Struct, frozen=True):
    """`size` bytes from a guest's address on."""

    address: int
    size: int


class DirtyLog:
    """A bit for each page of guest memory that was written; it owns its mapping."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping

    def note(self, address: int, size: int) -> None:
        """Note a write by a guest's address; what is behind the log's end is not noted (QEMU makes it large enough)."""
        first, last = address // LOG_PAGE, (address + size - 1) // LOG_PAGE
        for page in range(first, min(last + 1, self._mapping.size * 8)):
            self._mapping.or8(page // 8, 1 << page % 8)

    def close(self) -> None:
        """Unmap it."""
        self._mapping.close()


class _Mapped(Struct, frozen=True):
    region: MemoryRegion
    mapping: Mapping


class Part:
    """A part of a ring: `size` bytes in one region.  Offsets are the caller's to check, who knows what it has there.

    `logged` is the guest's address under which its writes are noted; None: they are not.
    """

    __slots__ = ("_mapping", "_memory", "_start", "logged", "size")

    def __init__(
        self, memory: SharedMemory, mapping: Mapping, start: int, size: int, logged: int | None
    ) -> None:
        self._memory = memory
        self._mapping = mapping
        self._start = start
        self.size = size
        self.logged = logged

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy."""
        return self._mapping.read(self._start + offset, size)

    def load16(self, offset: int) -> int:
        """See `Mapping`."""
        return self._mapping.load16(self._start + offset)

    def write(self, offset: int, data: Bytes) -> None:
        """Copy `data` there."""
        self._mapping.write(self._start + offset, data)
        self._note(offset, len(data))

    def store16(self, offset: int, value: int) -> None:
        """See `Mapping`."""
        self._mapping.store16(self._start + offset, value)
        self._note(offset, 2)

    def fence(self) -> None:
        """See `Mapping`."""
        self._mapping.fence()

    def _note(self, offset: int, size: int) -> None:
        log = self._memory.log
        if log is not None and self.logged is not None:
            log.note(self.logged + offset, size)


class SharedMemory:
    """The regions; empty at first.  It closes its mappings, and not the descriptors.

    Raises MemoryFaultError for addresses that are in no region.
    """

    def __init__(self, map_file: Map) -> None:
        self._map_file = map_file
        self._regions: list[_Mapped] = []
        self.log: DirtyLog | None = None  # writes are noted there; the caller's to close

    # The table.

    def replace(self, regions: Sequence[MemoryRegion], fds: Sequence[int]) -> None:
        """Have other regions, each of a descriptor; raises RefusedError, UserError: then it has those from before."""
        made: list[_Mapped] = []
        try:
            for region, fd in zip(regions, fds, strict=True):
                self._check(region, made)
                made.append(_Mapped(region, self._map_file(fd, region.offset, region.size)))
        except BaseException:
            for each in made:
                each.mapping.close()
            raise
        before, self._regions = self._regions, made
        for each in before:
            each.mapping.close()

    def add(self, region: MemoryRegion, fd: int) -> None:
        """Have one region more; raises RefusedError, UserError."""
        if len(self._regions) >= SLOTS_MAX:
            raise RefusedError(f"memory region at {region.guest:#x}: there are {SLOTS_MAX} already")
        self._check(region, self._regions)
        self._regions.append(_Mapped(region, self._map_file(fd, region.offset, region.size)))

    def remove(self, region: MemoryRegion) -> None:
        """Have one region less, which has these addresses and this size; raises RefusedError."""
        for at, known in enumerate(self._regions):
            same = known.region
            if (same.guest, same.size, same.user) == (region.guest, region.size, region.user):
                del self._regions[at]
                known.mapping.close()
                return
        raise RefusedError(
            f"memory region at {region.guest:#x}, {region.size:#x} bytes: there is none"
        )

    @staticmethod
    def _check(region: MemoryRegion, others: Sequence[_Mapped]) -> None:
        for known in others:
            for what, one, two in (
                ("guest", region.guest, known.region.guest),
                ("user", region.user, known.region.user),
            ):
                if one < two + known.region.size and two < one + region.size:
                    raise RefusedError(
                        f"memory region: {what} [{one:#x}, +{region.size:#x}) overlaps that at {two:#x}"
                    )

    @property
    def regions(self) -> list[MemoryRegion]:
        """The regions, in the order in which they came."""
        return [each.region for each in self._regions]

    def close(self) -> None:
        """Have no region."""
        self.log = None
        self.replace((), ())

    # By the front-end's addresses.

    def part(self, user: int, size: int, logged: int | None = None) -> Part:
        """Return a part of a ring, which lies in one region."""
        for known in self._regions:
            offset = user - known.region.user
            if offset >= 0 and offset + size <= known.region.size:
                return Part(self, known.mapping, offset, size, logged)
        raise MemoryFaultError(f"[{user:#x}, +{size:#x}) is in no region of the front-end's memory")

    # By the guest's.

    def read(self, address: int, size: int) -> bytes:
        """Return a copy of guest memory."""
        parts = list(self._parts(address, size))
        if len(parts) == 1:
            mapping, offset, count = parts[0]
            return mapping.read(offset, count)
        return b"".join(mapping.read(offset, count) for mapping, offset, count in parts)

    def write(self, address: int, data: Bytes) -> None:
        """Write guest memory."""
        view = memoryview(data)
        for mapping, offset, count in list(self._parts(address, len(view))):
            mapping.write(offset, view[:count])
            view = view[count:]
        if self.log is not None and len(data):
            self.log.note(address, len(data))

    def fill(self, address: int, size: int) -> None:
        """Write zeros to guest memory."""
        for mapping, offset, count in list(self._parts(address, size)):
            mapping.fill(offset, count)
        if self.log is not None and size:
            self.log.note(address, size)

    def check(self, address: int, size: int) -> None:
        """Raise MemoryFaultError unless the guest has all of a range."""
        for _ in self._parts(address, size):
            pass

    def _parts(self, address: int, size: int) -> Iterator[tuple[Mapping, int, int]]:
        """Yield {mapping, offset, bytes} of a range, which may go on in the next region."""
        while size:
            for known in self._regions:
                offset = address - known.region.guest
                if 0 <= offset < known.region.size:
                    count = min(size, known.region.size - offset)
                    yield known.mapping, offset, count
                    address, size = address + count, size - count
                    break
            else:
                raise MemoryFaultError(f"guest memory [{address:#x}, +{size:#x}) is in no region")
