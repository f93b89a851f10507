"""Archives of the kernel's initramfs format (cpio "newc"), written and read.

The format is in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. Archives
may follow each other, later files replacing earlier ones; each must begin at a multiple of 4 bytes,
which is why :meth:`Writer.finish` pads to 512. Everything belongs to root and has the same date, so
that equal contents give equal bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from . import MachineError

__all__ = ["MTIME", "Entry", "Writer", "read"]

MTIME = 1_700_000_000
_TRAILER = "TRAILER!!!"
_HEADER = 6 + 13 * 8


@dataclass(frozen=True)
class Entry:
    """One member: its path without a leading slash, ``st_mode``, contents or link target."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


class Writer:
    """Writes one archive; parent directories appear by themselves."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._size = 0
        self._count = 0
        self._made: set[str] = set()

    def directory(self, path: str) -> None:
        """Add a directory and its parents, once."""
        for parent in reversed([PurePosixPath(path), *PurePosixPath(path).parents]):
            name = str(parent)
            if name != "." and name not in self._made:
                self._made.add(name)
                self._member(Entry(name, stat.S_IFDIR | 0o755))

    def file(self, path: str, data: bytes, *, executable: bool = False) -> None:
        """Add a regular file."""
        self._add(Entry(path, stat.S_IFREG | (0o755 if executable else 0o644), data))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(Entry(path, stat.S_IFLNK | 0o777, os.fsencode(target)))

    def device(self, path: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add(Entry(path, stat.S_IFCHR | 0o600, device=(major, minor)))

    def tree(self, root: Path, under: str = "") -> None:
        """Add what lies in a directory of the host, sorted."""
        for path in sorted(root.rglob("*")):
            name = str(PurePosixPath(under) / path.relative_to(root).as_posix())
            if path.is_symlink():
                self.link(name, str(path.readlink()))
            elif path.is_dir():
                self.directory(name)
            elif path.is_file():
                self.file(name, path.read_bytes(), executable=os.access(path, os.X_OK))

    def finish(self) -> None:
        """End the archive."""
        self._member(Entry(_TRAILER, 0))
        self._write(bytes(-self._size % 512))

    def _add(self, entry: Entry) -> None:
        self.directory(str(PurePosixPath(entry.path).parent))
        self._member(entry)

    def _member(self, entry: Entry) -> None:
        self._count += 1
        name = os.fsencode(entry.path) + b"\0"
        # inode, mode, uid, gid, links, date, size, device of the file (2), device it is (2),
        # size of the name, checksum
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        numbers = [self._count, entry.mode, 0, 0, links, MTIME, len(entry.data), 0, 0]
        numbers += [*entry.device, len(name), 0]
        self._write(b"070701" + b"".join(b"%08x" % number for number in numbers) + name)
        self._write(bytes(-self._size % 4))
        self._write(entry.data)
        self._write(bytes(-self._size % 4))

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._size += len(data)


def read(archive: bytes) -> Iterator[Entry]:
    """Yield the members of one or more archives on end. Raises :class:`MachineError`."""
    at = 0
    while at < len(archive):
        if archive[at : at + 4] == bytes(4):  # between archives
            at += 4
            continue
        header = archive[at : at + _HEADER]
        if len(header) < _HEADER or header[:6] != b"070701":
            raise MachineError(f"no cpio header at byte {at}")
        numbers = [int(header[place : place + 8], 16) for place in range(6, _HEADER, 8)]
        start = at + _HEADER + numbers[11]
        start += -start % 4
        name = os.fsdecode(archive[at + _HEADER : at + _HEADER + numbers[11] - 1])
        data = archive[start : start + numbers[6]]
        if len(data) < numbers[6]:
            raise MachineError(f"the cpio archive ends inside {name}")
        at = start + numbers[6]
        at += -at % 4
        if name != _TRAILER:
            yield Entry(name, numbers[1], data, (numbers[9], numbers[10]))
