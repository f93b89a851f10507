"""Where swapped pages are stored: a file, a compressed tier, the staging memory; and the page table.

Main creates them and keeps their descriptors open; each monitor gets the same ones.  Which slots and
which spans are in use is recorded in the page table alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hfsched.errors import InternalError, UserError
from hfsched.memory.ram import sealed_memfd
from hfsched.swap.core.table import table_size
from hfsched.swap.pages.entries import Staging

__all__ = ["Stores", "SwapFile", "aside_size", "open_swap_file"]

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class SwapFile:
    """An unnamed file that no other user can open: one descriptor to write, one to read.

    `direct`: writes bypass the page cache.
    """

    out: int
    into: int
    direct: bool


def open_swap_file(directory: str | Path) -> SwapFile:
    """Create a swap file in `directory`; raises UserError if that fails."""
    where = f"swap file in {directory}"
    try:
        made = _unnamed(str(directory))
    except OSError as exc:
        no_file = exc.errno == errno.ENOENT and os.path.isdir(directory)  # noqa: PTH112
        why = "no file can be created there: choose another directory" if no_file else _remedy(exc)
        raise UserError(f"{where}: {why}") from exc
    with ExitStack() as undo:
        undo.callback(os.close, made)
        # Through /proc, since the file has no name; mode 0 only after that, since opening checks it.
        mine = f"/proc/self/fd/{made}"
        try:
            into = os.open(mine, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            why = "/proc is not mounted" if exc.errno == errno.ENOENT else str(exc.strerror)
            raise UserError(f"{where}: cannot be opened for reading: {why}") from exc
        undo.callback(os.close, into)
        try:
            out = os.open(mine, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            out = os.dup(made)
            direct = False
        else:
            direct = True
        undo.callback(os.close, out)
        os.fchmod(made, 0)
        undo.pop_all()
        os.close(made)
        return SwapFile(out, into, direct)


def _unnamed(directory: str) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_EXCL
    try:
        return os.open(directory, flags | os.O_TMPFILE, 0o600)
    except OSError as exc:
        # O_TMPFILE is not supported by the kernel (EISDIR) or the file system (EOPNOTSUPP).
        if exc.errno not in (errno.EISDIR, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    name = Path(directory) / f".hfsched-swap-{os.getpid()}-{os.urandom(8).hex()}"
    made = os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        name.unlink()
    except OSError:
        os.close(made)
        raise
    return made


def _remedy(exc: OSError) -> str:
    remedies = {
        errno.ENOENT: "no such directory",
        errno.ENOTDIR: "not a directory",
        errno.EROFS: "the file system is read-only: choose another directory",
        errno.EACCES: "no permission to write there: choose another directory",
        errno.EPERM: "no permission to write there: choose another directory",
        errno.ENOSPC: "no space is left there: choose another directory",
    }
    return remedies.get(exc.errno or 0, exc.strerror or str(exc))


@dataclass(frozen=True, slots=True)
class Stores:
    """The descriptors of everything that outlives a monitor."""

    pages: int
    staging: Staging
    table: int
    file: SwapFile | None  # None: nothing can be moved out of memory
    staged: int | None  # the staging memory, for `Staging.COPY`
    tier: int | None  # the compressed tier
    tier_size: int  # bytes
    aside: int | None = None  # where pages are kept that a snapshot has yet to write

    @classmethod
    def create(
        cls, directory: str | Path | None, pages: int, staging: Staging, tier_size: int = 0
    ) -> Stores:
        """Create all of them, empty; raises UserError.

        `tier_size` 0: no compressed tier.  `directory` None: no file and no compressed tier.
        """
        tier_size = 0 if directory is None else tier_size - tier_size % _PAGE
        with ExitStack() as undo:

            def memory(what: str, size: int) -> int:
                fd = sealed_memfd(f"hfsched:swap-{what}", size)
                undo.callback(os.close, fd)
                return fd

            try:
                table = memory("table", table_size(pages))
                staged = memory("staging", pages * _PAGE) if staging is Staging.COPY else None
                tier = memory("tier", tier_size) if tier_size else None
                aside = memory("aside", aside_size(pages))
            except OSError as exc:
                raise UserError(f"swap: cannot create its tables: {exc.strerror}") from exc
            file = None if directory is None else open_swap_file(directory)
            undo.pop_all()
        return cls(pages, staging, table, file, staged, tier, tier_size, aside)

    @property
    def swap_file(self) -> SwapFile:
        """The file, where there must be one."""
        if self.file is None:
            raise InternalError("the stores have no swap file")
        return self.file

    def descriptors(self) -> list[int]:
        """Return the descriptors to pass to another process, in the order that `adopt` takes."""
        return list(self._each())

    def adopt(self, descriptors: list[int]) -> Stores:
        """Return the same stores over descriptors that another process has received."""
        rest = iter(descriptors)
        return Stores(
            self.pages,
            self.staging,
            next(rest),
            None if self.file is None else SwapFile(next(rest), next(rest), self.file.direct),
            None if self.staged is None else next(rest),
            None if self.tier is None else next(rest),
            self.tier_size,
            None if self.aside is None else next(rest),
        )

    def memfds(self) -> list[int]:
        """Return the descriptors that are memfds."""
        return [fd for fd in (self.table, self.staged, self.tier, self.aside) if fd is not None]

    def close(self) -> None:
        """Close them; the file and the memory are freed with the last of their descriptors."""
        for fd in self._each():
            os.close(fd)

    def _each(self) -> Iterator[int]:
        yield self.table
        if self.file is not None:
            yield from (self.file.out, self.file.into)
        if self.staged is not None:
            yield self.staged
        if self.tier is not None:
            yield self.tier
        if self.aside is not None:
            yield self.aside


def aside_size(pages: int) -> int:
    """Return the size in bytes of the memfd for pages that a snapshot has yet to write: see ``owed.c``."""
    return (-(-pages // _PAGE) + pages) * _PAGE
