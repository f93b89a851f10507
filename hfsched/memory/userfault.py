"""Whether this process may serve page faults (userfaultfd): the way guest memory is swapped out."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

__all__ = ["USER_MODE_ONLY", "open_descriptor", "problem"]

_NUMBERS = {"x86_64": 323, "aarch64": 282}  # of the system call; Linux, asm/unistd.h
USER_MODE_ONLY = 1


def problem() -> str | None:
    """Return in a line what is missing for faults of every kind, KVM's included, None if nothing."""
    error = _open(os.O_CLOEXEC)
    if error == 0:
        return None
    if error != errno.EPERM:
        return f"userfaultfd: {os.strerror(error)}: the kernel needs CONFIG_USERFAULTFD"
    remedy = "as root: sysctl vm.unprivileged_userfaultfd=1, or give access to /dev/userfaultfd"
    if _open(os.O_CLOEXEC | USER_MODE_ONLY) == 0:
        return f"for guests on unicorn alone, not under KVM; {remedy}"
    return f"not permitted; {remedy}"


def open_descriptor(flags: int) -> int:
    """Return a userfaultfd of this process, before UFFDIO_API; raises OSError."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    fd: int = call(ctypes.c_long(number), ctypes.c_int(flags))
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return fd


def _open(flags: int) -> int:
    """Try the system call; return its error, 0 for none."""
    try:
        os.close(open_descriptor(flags))
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0
