"""fallocate(2), of which Python has only a part."""

from __future__ import annotations

import ctypes
import os

__all__ = ["KEEP_SIZE", "PUNCH_HOLE", "ZERO_RANGE", "fallocate"]

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16  # modes; linux/falloc.h

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    """Give a file room, or take it from it, as `mode` says; raises OSError."""
    if _fallocate(fd, mode, offset, size):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
