"""How messages are laid out, for those who read them and those who write them."""

from __future__ import annotations

import struct

__all__ = [
    "CONFIG",
    "HEADER",
    "INFLIGHT",
    "LOG",
    "REGION",
    "RING_ADDRESSES",
    "RING_STATE",
    "TABLE_HEAD",
    "TRANSFER",
    "U64",
]

HEADER = struct.Struct("<III")  # request, flags, bytes of the payload
U64 = struct.Struct("<Q")
RING_STATE = struct.Struct("<II")  # ring, value
RING_ADDRESSES = struct.Struct("<IIQQQQ")  # ring, flags, descriptors, used, available, log
REGION = struct.Struct("<QQQQ")  # guest address, size, user address, offset in the file
TABLE_HEAD = struct.Struct("<II")  # regions, padding
CONFIG = struct.Struct("<III")  # offset, size, flags
INFLIGHT = struct.Struct("<QQHH4x")  # size, offset, rings, entries of a ring
LOG = struct.Struct("<QQ")  # size, offset
TRANSFER = struct.Struct("<II")  # direction, phase
