"""What a snapshot of a machine is asked for with, what becomes of it, and what it is written by."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from hfsched.memory.dirty import DirtyPages
    from hfsched.vmm.machine import Machine

__all__ = [
    "Attempt",
    "Base",
    "OpenFiles",
    "Underway",
    "Watch",
    "Wish",
    "Write",
    "Writing",
    "Written",
]


class Base(Struct, frozen=True):
    """A snapshot of this machine: the name of its directory, and the hash of its index."""

    name: str
    hash: bytes


class Wish(Struct, frozen=True, kw_only=True):
    """What is asked for: the layer's name, the time (ns since 1970), the codec; `held`: see the module.

    `shown` is what errors call the layer; empty: its name.
    `incremental`: only what has changed since the snapshot `parent`, if that can be known; there is no
    parent where `Snapshots.base` is None.  `live`: memory is written when the guests run again, if that can be done.
    """

    name: str
    created: int
    codec: Literal["lz4", "zstd", "raw"] = "lz4"
    held: bool = False
    incremental: bool = False
    parent: Base | None = None
    live: bool = False
    shown: str = ""

    @property
    def called(self) -> str:
        """What errors call it."""
        return self.shown or self.name


class Written(Struct, frozen=True, kw_only=True):
    """What was written: the hash of the layer's index, the time of suspension so far, what the user may want to know.

    `on` is the snapshot that the layer is based on; None: it is a full one.
    """

    hash: bytes
    paused_ns: int
    notices: tuple[str, ...] = ()
    on: Base | None = None


class Underway(Struct, frozen=True):
    """The snapshot that is under way: bytes of guest memory that were read, of all there are."""

    name: str
    written: bool
    done: int
    total: int


class Writing(Protocol):
    """A snapshot on its way into two open files; `close` it in the end, whatever has happened."""

    def prepare(self, deadline: int | None) -> tuple[str, ...]:
        """Make ready for `copy`, while the machine runs; return what the user may want to know.  Raises UserError."""

    def copy(self, deadline: int | None, base: Base | None, dirty: DirtyPages | None) -> None:
        """Copy the suspended machine, or see to it that it can be written as it is now: what is `dirty` since `base`, or all of it.

        Raises UserError if it cannot be saved by the deadline (ns), or written, or is cancelled.
        """

    def finish(self) -> tuple[bytes, tuple[str, ...]]:
        """Write it; return the index's hash, and what the user may want to know."""

    def close(self) -> None:
        """Free everything."""


class Watch(NamedTuple):
    """The one who has a snapshot written: `cancelled` is asked, and `progress(done)` told bytes of guest memory."""

    cancelled: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda _done: None


# Begins to write a machine, which runs still, into {pages, index}; so many pages are expected, None if that is not
# known.  Raises UserError for a machine that cannot be saved.
Write: TypeAlias = "Callable[[Machine, tuple[int, int], Wish, int | None, Watch], Writing]"


class OpenFiles:
    """The descriptors of a snapshot's files; an explorer, which has none, replaces it."""

    def problem(self, fd: int) -> str | None:
        """Return why nothing is to be written into a file."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if status.st_size:
            return f"it has {status.st_size} bytes already: give an empty file"
        reads = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        return "not open for writing" if reads else None

    def close(self, files: Sequence[int]) -> None:
        """Close them."""
        for fd in files:
            os.close(fd)


class Attempt:
    """A snapshot from its beginning to its end; `Snapshots.take` makes one, and has its lock."""

    def __init__(self, wish: Wish, total: int) -> None:
        self.wish = wish
        self.total = total
        self.done = 0
        self.written = False
        self.cancelled = False
        self.made: Base | None = None  # once it is written
        self.dirty: DirtyPages | None = None  # what it has; None: everything
        self.frozen: list[str] = []  # VMs whose guests are to be thawed
        self.tracks = False  # and changes are tracked since it began

    def key(self) -> Hashable:
        """Return its state."""
        return (self.wish.name, self.wish.held, self.done, self.written, self.cancelled)

    def look(self) -> Underway:
        """Return how far it is."""
        return Underway(self.wish.name, self.written, self.done, self.total)
