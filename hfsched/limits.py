"""Limits of the process (setrlimit(2)), and errors that come from them, in words."""

from __future__ import annotations

import errno
import os
import resource
import sys
from contextlib import suppress

__all__ = [
    "cause",
    "files_problem",
    "open_files",
    "raise_files",
    "save_space",
    "size_problem",
    "space_problem",
]

_KIB = 1024
_M_ARENA_MAX = -8  # mallopt(3)
_SHELL = {
    errno.EMFILE: (resource.RLIMIT_NOFILE, "-n", 1, ""),
    errno.EFBIG: (resource.RLIMIT_FSIZE, "-f", _KIB, " KiB"),
    errno.ENOMEM: (resource.RLIMIT_AS, "-v", _KIB, " KiB"),
    errno.EAGAIN: (resource.RLIMIT_NPROC, "-u", 1, ""),
}


def _soft(limit: int) -> int | None:
    """Return a limit, None for none."""
    soft, _ = resource.getrlimit(limit)
    return None if soft == resource.RLIM_INFINITY else soft


def _below(limit: int, needed: int) -> int | None:
    """Return a limit that is below what is needed, None where it is not."""
    soft = _soft(limit)
    return None if soft is None or soft >= needed else soft


def cause(error: OSError) -> str:
    """Return what an error says, and the limit that it may come from."""
    text = error.strerror or str(error)
    if error.errno in _SHELL:
        number, option, unit, name = _SHELL[error.errno]
        soft = _soft(number)
        if soft is not None:
            return f"{text} (ulimit {option} is {soft // unit}{name})"
    return text


def open_files() -> int:
    """Return how many descriptors the process has; 0 where that cannot be found out."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - without the one that lists
    except OSError:
        return 0


def raise_files(wanted: int) -> int:
    """Raise the limit on open files to what is wanted, as far as the process may; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if limit < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(limit, most)


def files_problem(needed: int) -> str | None:
    """Return why so many files cannot be open, None if they can; after `raise_files`."""
    limit = _below(resource.RLIMIT_NOFILE, needed)
    if limit is None:
        return None
    return (
        f"a hard limit of {limit} open files (ulimit -Hn): at least {needed} are needed:"
        " raise it, or run fewer VMs or vCPUs"
    )


def space_problem(needed: int) -> str | None:
    """Return why so many bytes of addresses cannot be had, None if they can."""
    soft = _below(resource.RLIMIT_AS, needed)
    if soft is None:
        return None
    return (
        f"a limit of {soft // _KIB} KiB of addresses (ulimit -v):"
        f" at least {-(-needed // _KIB)} KiB are needed"
    )


def save_space() -> None:
    """Have the C library reserve fewer addresses where they are limited: 64 MiB a thread otherwise."""
    if _soft(resource.RLIMIT_AS) is not None:
        import ctypes  # noqa: PLC0415 - only there

        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def size_problem(needed: int) -> str | None:
    """Return why a file (guest memory is one) cannot have so many bytes, None if it can."""
    soft = _below(resource.RLIMIT_FSIZE, needed)
    if soft is None:
        return None
    return (
        f"a limit of {soft // _KIB} KiB for a file (ulimit -f), which guest memory is:"
        f" at least {-(-needed // _KIB)} KiB are needed"
    )
