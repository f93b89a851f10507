"""What descriptors are that another process has sent, by the kernel's word alone: no operation on them is called.

One of a file system that a user serves (FUSE) could make any operation on it wait for ever.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_pagemap_of", "is_uffd", "pid_of"]

_INFO_MAX = 4096  # characters; of some kinds there may be any number
_UFFD = "anon_inode:[userfaultfd]"


def is_uffd(fd: int) -> bool:
    """Return whether a descriptor is a userfaultfd; raises OSError."""
    return _link(fd) == _UFFD


def pid_of(fd: int) -> int | None:
    """Return the process of a pidfd, -1 if it has ended; None: it is no pidfd.  Raises OSError."""
    return _field(_info(fd)[0], "Pid")


def is_pagemap_of(fd: int, pid: int) -> bool:
    """Return whether a descriptor is /proc/PID/pagemap, of the same /proc as this process has; raises OSError."""
    info, own = _info(fd)
    mount = _field(info, "mnt_id")
    return mount is not None and mount == own and _link(fd) == f"/proc/{pid}/pagemap"


def _link(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def _info(fd: int) -> tuple[str, int | None]:
    """Return what the kernel says of a descriptor, and the number of the mount that /proc is."""
    with Path(f"/proc/self/fdinfo/{fd}").open(encoding="ascii", errors="replace") as file:
        own = Path(f"/proc/self/fdinfo/{file.fileno()}").read_text(encoding="ascii")
        return file.read(_INFO_MAX), _field(own, "mnt_id")


def _field(info: str, name: str) -> int | None:
    for line in info.splitlines():
        word, _, rest = line.partition(":")
        if word == name:
            return int(rest)
    return None
