"""The numbers of vhost-user and of virtio's common feature bits.

Sources: docs/interop/vhost-user.rst of QEMU; virtio 1.3, sections 2.7, 2.8 and 6.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = [
    "CONFIG_MAX",
    "FDS_MAX",
    "HEADER_SIZE",
    "NO_STATE_FD",
    "PAYLOAD_MAX",
    "PROTOCOL_FEATURES_KNOWN",
    "QUEUE_SIZE_MAX",
    "REGIONS_MAX",
    "STATE_MAX",
    "VERSION",
    "BackendRequestId",
    "Feature",
    "HeaderFlag",
    "ProtocolFeature",
    "RequestId",
]

VERSION = 1
HEADER_SIZE = 12  # bytes: request, flags, size of the payload, each u32
CONFIG_MAX = 0x1000  # bytes of a device's configuration space
PAYLOAD_MAX = 12 + CONFIG_MAX  # bytes
FDS_MAX = 32  # descriptors of a message
REGIONS_MAX = 32  # of a memory table that comes in one message
QUEUE_SIZE_MAX = 32768  # entries
STATE_MAX = 64 << 20  # bytes of a device's state, as we take it
NO_STATE_FD = 0x100  # in a reply to SET_DEVICE_STATE_FD: by the descriptor that was given


class HeaderFlag(IntFlag):
    """The flags of a header; the lowest two bits are the version."""

    VERSION_MASK = 0x3
    REPLY = 0x4
    NEED_REPLY = 0x8


class RequestId(IntEnum):
    """What a front-end asks."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44


class BackendRequestId(IntEnum):
    """What a backend asks, on the connection that SET_BACKEND_REQ_FD gives it."""

    CONFIG_CHANGE_MSG = 2
    SHMEM_MAP = 9
    SHMEM_UNMAP = 10


class Feature(IntFlag):
    """Feature bits that do not belong to one type of device."""

    NOTIFY_ON_EMPTY = 1 << 24
    LOG_ALL = 1 << 26
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34


class ProtocolFeature(IntFlag):
    """Protocol feature bits; those that no code here knows have no name."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    REPLY_ACK = 1 << 3
    BACKEND_REQ = 1 << 5
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    DEVICE_STATE = 1 << 19
    GET_VRING_BASE_INFLIGHT = 1 << 20
    SHMEM = 1 << 21


PROTOCOL_FEATURES_KNOWN = (1 << 22) - 1  # bits that the specification gives a meaning
