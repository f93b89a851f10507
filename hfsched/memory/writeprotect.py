"""Which pages a process has written, by write protection that a write lifts by itself.

A range is registered with a userfaultfd that has UFFD_FEATURE_WP_ASYNC.  From then on a page of it is *protected*
or *written*: `written` returns what is written and, where it is asked to, protects that in the same step.  The first
write to a protected page, by the process or by the kernel for it (KVM, a system call), makes it a written one;
nobody is told, and nobody waits.  Reads change nothing.  Each process has this for its own mapping alone: a
write through another one is not seen, nor is a hole that is punched into the file.

A page that is not mapped is protected if a marker in the page tables says so; the kernel leaves one where it unmaps a
protected page.  One that has no marker counts as written: so what is not known is never taken for unchanged.

No privilege is needed: the userfaultfd gets no faults, and may be one for user mode alone, under KVM too.

Sources: Linux, Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst; both are there since Linux 6.7.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import TypeAlias

from hfsched.memory import userfault
from hfsched.memory.ram import PAGE_SIZE

__all__ = [
    "Run",
    "is_alive",
    "is_tracked",
    "merged",
    "open_tracker",
    "problem",
    "reason",
    "register",
    "release",
    "tracks",
    "unregister",
    "written",
]

Run: TypeAlias = tuple[int, int]  # {first page, pages}

# linux/userfaultfd.h, linux/fs.h
_API, _API_WORD = 0xC018AA3F, 0xAA
_REGISTER, _UNREGISTER = 0xC020AA00, 0x8010AA01
_WRITEPROTECT, _CONTINUE = 0xC018AA06, 0xC020AA07
_MISSING, _WP, _MINOR = 1, 2, 4
_WP_HUGETLBFS_SHMEM, _WP_UNPOPULATED, _WP_ASYNC = 1 << 12, 1 << 13, 1 << 15
_FEATURES = _WP_HUGETLBFS_SHMEM | _WP_UNPOPULATED | _WP_ASYNC
_SCAN = 0xC0606610
_ARGUMENT = struct.Struct("<12Q")  # struct pm_scan_arg
_WALK_END = 4  # of its words
_PROTECT, _CHECK = 1, 2  # PM_SCAN_WP_MATCHING, PM_SCAN_CHECK_WPASYNC
_IS_TRACKED, _IS_WRITTEN, _IS_PRESENT, _IS_SWAPPED = 1, 2, 8, 16
_NEITHER = _IS_PRESENT | _IS_SWAPPED
_REGIONS = 8192  # in the answer to one request
_ENTRY = 8  # bytes of a page in /proc/PID/pagemap; there are none once its memory is gone
_PROBE = 1 << 20  # an address where no process has guest memory
_OLD = "the kernel needs Linux 6.7 with CONFIG_USERFAULTFD (WP_ASYNC) and PAGEMAP_SCAN"


def open_tracker() -> int:
    """Return a userfaultfd of this process that tracks writes, and serves no faults; raises OSError.

    EINVAL: the kernel has no UFFD_FEATURE_WP_ASYNC.
    """
    fd = userfault.open_descriptor(os.O_CLOEXEC | os.O_NONBLOCK | userfault.USER_MODE_ONLY)
    try:
        fcntl.ioctl(fd, _API, bytearray(struct.pack("<3Q", _API_WORD, _FEATURES, 0)))
    except BaseException:
        os.close(fd)
        raise
    return fd


def tracks(uffd: int) -> bool:
    """Return whether a userfaultfd, of any process, has UFFD_FEATURE_WP_ASYNC; raises OSError."""
    for line in Path(f"/proc/self/fdinfo/{uffd}").read_text(encoding="ascii").splitlines():
        word, _, rest = line.partition(":")
        if word == "API":
            return bool(int(rest.split(":")[1], 16) & _WP_ASYNC)
    return False


def register(uffd: int, base: int, size: int, *, faults: bool) -> None:
    """Track a range of the process whose userfaultfd it is: all of it is written at first; raises OSError.

    `faults`: the range may be registered for missing pages and minor faults, and is so afterwards: somebody
    serves them.  Else it must not be.  Nothing changes for a range that is tracked already.
    """
    modes = _WP | (_MISSING | _MINOR if faults else 0)
    fcntl.ioctl(uffd, _REGISTER, bytearray(struct.pack("<4Q", base, size, modes, 0)))


def unregister(uffd: int, base: int, size: int) -> None:
    """Undo `register`, and every other registration of the range; raises OSError."""
    fcntl.ioctl(uffd, _UNREGISTER, struct.pack("<2Q", base, size))


def release(uffd: int, base: int, size: int) -> None:
    """Lift the protection of a range that stays registered; raises OSError."""
    fcntl.ioctl(uffd, _WRITEPROTECT, bytearray(struct.pack("<3Q", base, size, 0)))


def protect(uffd: int, base: int, size: int) -> None:
    """Protect all of a range that is registered, mapped or not: nothing is written; raises OSError."""
    fcntl.ioctl(uffd, _WRITEPROTECT, bytearray(struct.pack("<3Q", base, size, 1)))


def is_alive(uffd: int) -> bool:
    """Return whether the memory of a userfaultfd's process exists: not after its death, or an exec."""
    request = bytearray(struct.pack("<4Q", _PROBE, PAGE_SIZE, 0, 0))
    try:
        fcntl.ioctl(uffd, _CONTINUE, request)
    except OSError as exc:
        return exc.errno != errno.ESRCH
    return True


def is_tracked(pagemap: int, base: int, size: int) -> bool:
    """Return whether the first and the last page of a range are mapped and tracked; raises OSError."""
    return all(
        _scan(pagemap, page, PAGE_SIZE, 0, all_of=_IS_TRACKED, inverted=0)
        for page in (base, base + size - PAGE_SIZE)
    )


def written(pagemap: int, base: int, size: int, *, protect: bool) -> list[Run]:
    """Return the runs of written pages of a range, in order, counted from its start.

    `pagemap` has the page tables of the process, any one's.  `protect`: each of them is protected when it is
    noted: a write meanwhile is returned now or the next time.  Raises OSError: EPERM where a part is not tracked,
    ESRCH for a process that has ended; the state of the range is unknown then.
    """
    flags = _CHECK | (_PROTECT if protect else 0)
    found = _scan(pagemap, base, size, flags, all_of=_IS_WRITTEN, inverted=0)
    # Page tables that the kernel has freed, for nothing was mapped there: not every kernel calls that written.
    more = _scan(pagemap, base, size, flags, all_of=_NEITHER, inverted=_NEITHER)
    return merged(found + more) if more else found


def merged(runs: list[Run]) -> list[Run]:
    """Return the pages of runs in any order as the fewest runs, in order."""
    made: list[Run] = []
    start = after = -1  # of the last run
    for first, count in sorted(runs):
        if first > after:
            if after > start:
                made.append((start, after - start))
            start, after = first, first + count
        elif first + count > after:
            after = first + count
    if after > start:
        made.append((start, after - start))
    return made


def _scan(
    pagemap: int, base: int, size: int, flags: int, *, all_of: int, inverted: int
) -> list[Run]:
    """Return the pages that have all of these categories, some of which are inverted, in order."""
    most, end = min(_REGIONS, size // PAGE_SIZE), base + size
    regions = (ctypes.c_uint64 * (3 * most))()
    words = memoryview(regions).cast("B").cast("Q")
    address, start = ctypes.addressof(regions), base
    found: list[Run] = []
    while start < end:
        argument = bytearray(
            _ARGUMENT.pack(
                _ARGUMENT.size, flags, start, end, 0, address, most, 0, inverted, all_of, 0, 0
            )
        )
        count = fcntl.ioctl(pagemap, _SCAN, argument)
        runs = [
            ((first - base) // PAGE_SIZE, (after - first) // PAGE_SIZE)
            for first, after in zip(
                words[0 : 3 * count : 3].tolist(), words[1 : 3 * count : 3].tolist(), strict=True
            )
        ]
        if found and runs and sum(found[-1]) == runs[0][0]:  # an answer ends anywhere
            runs[0] = (found[-1][0], found.pop()[1] + runs[0][1])
        found += runs
        start = _ARGUMENT.unpack(argument)[_WALK_END]
    # Some kernels scan what is gone, and find nothing.
    if not os.pread(pagemap, _ENTRY, base // PAGE_SIZE * _ENTRY):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return found


def problem(pagemap: int | None = None) -> str | None:
    """Return in a line why writes cannot be tracked here, None if they can: it is tried, in about a ms.

    `pagemap` has this process's page tables; None: they are opened.
    """
    try:
        if pagemap is not None:
            return _try(pagemap)
        opened = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _try(opened)
        finally:
            os.close(opened)
    except OSError as exc:
        return reason(exc)


def reason(exc: OSError) -> str:
    """Return in a line why tracking could not begin."""
    if exc.errno in (errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
        return _OLD
    if exc.filename is not None:
        return f"{exc.filename}: {exc.strerror}"
    if exc.errno == errno.EPERM:
        return "userfaultfd: not permitted, though it is for user mode alone: a seccomp filter forbids it"
    return f"userfaultfd: {exc.strerror}"


def _try(pagemap: int) -> str | None:
    """Track a mapping of three pages: one is written, one is written and unmapped, one is unmapped."""
    size = 3 * PAGE_SIZE
    with mmap.mmap(-1, size, flags=mmap.MAP_SHARED) as memory:
        first = ctypes.c_char.from_buffer(memory)
        base = ctypes.addressof(first)
        del first
        uffd = open_tracker()
        try:
            return _works(uffd, pagemap, base, memory)
        finally:
            os.close(uffd)


def _works(uffd: int, pagemap: int, base: int, memory: mmap.mmap) -> str | None:
    memory[2 * PAGE_SIZE] = 1
    register(uffd, base, len(memory), faults=False)
    all_pages = written(pagemap, base, len(memory), protect=True)
    memory[0] = memory[PAGE_SIZE] = 1
    memory.madvise(mmap.MADV_DONTNEED, PAGE_SIZE, 2 * PAGE_SIZE)
    _ = memory[2 * PAGE_SIZE]
    found = written(pagemap, base, len(memory), protect=True)
    left = written(pagemap, base, len(memory), protect=False)
    if (all_pages, found, left) != ([(0, 3)], [(0, 2)], []):
        return f"the kernel tracks writes otherwise than expected: {all_pages}, {found}, {left}"
    return None
