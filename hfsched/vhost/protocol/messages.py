"""A front-end's messages as typed values, and the replies.

`parse` checks size, count of descriptors and every field that can be checked without the device's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import Struct

from hfsched.errors import HfschedError
from hfsched.vhost.protocol.formats import (
    CONFIG,
    HEADER,
    INFLIGHT,
    LOG,
    REGION,
    RING_ADDRESSES,
    RING_STATE,
    TABLE_HEAD,
    TRANSFER,
    U64,
)
from hfsched.vhost.protocol.numbers import (
    CONFIG_MAX,
    HEADER_SIZE,
    PAYLOAD_MAX,
    QUEUE_SIZE_MAX,
    REGIONS_MAX,
    VERSION,
    HeaderFlag,
    RequestId,
)

__all__ = [
    "Body",
    "Config",
    "Empty",
    "Header",
    "Inflight",
    "LogBase",
    "MemoryRegion",
    "MemoryTable",
    "MessageError",
    "Number",
    "RingAddresses",
    "RingFd",
    "RingState",
    "Transfer",
    "encode_config",
    "encode_header",
    "encode_inflight",
    "encode_memory_table",
    "encode_number",
    "encode_ring_addresses",
    "encode_ring_state",
    "encode_transfer",
    "parse",
    "parse_header",
]

_RING_MASK, _NO_FD = 0xFF, 0x100
_LOG_RING = 1  # the one flag of SET_VRING_ADDR
_END = 1 << 64


class MessageError(HfschedError):
    """A message that is none: the connection cannot go on."""


class Header(Struct, frozen=True):
    """A request, its flags, and the size of the payload that follows (bytes)."""

    request: int
    flags: HeaderFlag
    size: int

    @property
    def wants_reply(self) -> bool:
        """Whether an acknowledgement is asked for."""
        return bool(self.flags & HeaderFlag.NEED_REPLY)


class Empty(Struct, frozen=True):
    """No payload."""


class Number(Struct, frozen=True):
    """A u64: features, a number of rings, a status."""

    value: int


class RingState(Struct, frozen=True):
    """A ring's number, and its size, index or whether it is enabled (u32)."""

    ring: int
    value: int


class RingAddresses(Struct, frozen=True):
    """Where the parts of a ring lie, by the front-end's addresses; `log` is where its used ring is logged, by the guest's."""

    ring: int
    logged: bool
    descriptors: int
    used: int
    available: int
    log: int


class RingFd(Struct, frozen=True):
    """A ring's number; `has_fd` is whether a descriptor comes along."""

    ring: int
    has_fd: bool


class MemoryRegion(Struct, frozen=True):
    """Guest addresses [guest, guest + size) are bytes from `offset` on of a file, and the front-end has them at `user`."""

    guest: int
    size: int
    user: int
    offset: int


class MemoryTable(Struct, frozen=True):
    """All regions of a guest, or one that is added or removed; empty: the acknowledgement of postcopy."""

    regions: tuple[MemoryRegion, ...]


class Config(Struct, frozen=True):
    """Bytes of the configuration space from `offset` on; of GET_CONFIG only their number counts."""

    offset: int
    flags: int
    data: bytes


class Inflight(Struct, frozen=True):
    """The memory of in-flight descriptors: {size, offset} in its file, and for which rings of which size it is."""

    size: int
    offset: int
    rings: int
    ring_size: int


class LogBase(Struct, frozen=True):
    """The dirty log: {size, offset} in its file."""

    size: int
    offset: int


class Transfer(Struct, frozen=True):
    """A transfer of the device's state: direction (0 saves, 1 loads) and phase."""

    direction: int
    phase: int


Body = (
    Empty
    | Number
    | RingState
    | RingAddresses
    | RingFd
    | MemoryTable
    | Config
    | Inflight
    | LogBase
    | Transfer
)


@dataclass(frozen=True)
class _Form:
    """How a request is made up: `parse(payload)`, its size (None: `parse` checks it), how many descriptors."""

    parse: Callable[[bytes], Body]
    size: int | None
    fds: Callable[[Body], Sequence[int]] = lambda _body: (0,)


def _empty(_data: bytes) -> Empty:
    return Empty()


def _number(data: bytes) -> Number:
    return Number(*U64.unpack(data))


def _ring_state(data: bytes) -> RingState:
    return RingState(*RING_STATE.unpack(data))


def _ring_addresses(data: bytes) -> RingAddresses:
    ring, flags, descriptors, used, available, log = RING_ADDRESSES.unpack(data)
    if flags & ~_LOG_RING:
        raise MessageError(f"ring {ring}: flags {flags:#x} of its addresses: only {_LOG_RING}")
    for what, address, unit in (
        ("descriptors", descriptors, 16),
        ("available ring", available, 2),
        ("used ring", used, 4),
    ):
        if address % unit:
            raise MessageError(f"ring {ring}: {what} at {address:#x}: not a multiple of {unit}")
    return RingAddresses(ring, bool(flags & _LOG_RING), descriptors, used, available, log)


def _ring_fd(data: bytes) -> RingFd:
    (value,) = U64.unpack(data)
    if value & ~(_RING_MASK | _NO_FD):
        raise MessageError(f"a ring's descriptor: {value:#x} has bits that mean nothing")
    return RingFd(value & _RING_MASK, not value & _NO_FD)


def _region(data: bytes) -> MemoryRegion:
    guest, size, user, offset = REGION.unpack(data)
    if not size:
        raise MessageError(f"memory region at {guest:#x}: it is empty")
    for what, start in (("guest", guest), ("user", user), ("file", offset)):
        if start + size > _END:
            raise MessageError(f"memory region: {what} [{start:#x}, +{size:#x}) overflows")
    return MemoryRegion(guest, size, user, offset)


def _table(data: bytes) -> MemoryTable:
    if len(data) < TABLE_HEAD.size:
        raise MessageError(f"memory table of {len(data)} bytes: at least {TABLE_HEAD.size}")
    count, padding = TABLE_HEAD.unpack_from(data)
    if padding:
        raise MessageError(f"memory table: padding {padding:#x}, not 0")
    if len(data) == TABLE_HEAD.size and not count:
        return MemoryTable(())
    if not 1 <= count <= REGIONS_MAX:
        raise MessageError(f"memory table of {count} regions: 1 to {REGIONS_MAX}")
    if len(data) != TABLE_HEAD.size + count * REGION.size:
        raise MessageError(f"memory table of {count} regions: {len(data)} bytes")
    parts = range(TABLE_HEAD.size, len(data), REGION.size)
    return MemoryTable(tuple(_region(data[at : at + REGION.size]) for at in parts))


def _one_region(data: bytes) -> MemoryTable:
    (padding,) = U64.unpack_from(data)
    if padding:
        raise MessageError(f"memory region: padding {padding:#x}, not 0")
    return MemoryTable((_region(data[8:]),))


def _config(data: bytes) -> Config:
    if len(data) < CONFIG.size:
        raise MessageError(f"configuration: {len(data)} bytes: at least {CONFIG.size}")
    offset, size, flags = CONFIG.unpack_from(data)
    found = data[CONFIG.size :]
    if not size or offset + size > CONFIG_MAX:
        raise MessageError(f"configuration [{offset}, +{size}): within {CONFIG_MAX} bytes")
    if len(found) != size:
        raise MessageError(f"configuration: {len(found)} bytes, and it says {size}")
    return Config(offset, flags, found)


def _inflight(data: bytes) -> Inflight:
    if len(data) not in (INFLIGHT.size, INFLIGHT.size - 4):
        raise MessageError(f"in-flight memory: {len(data)} bytes, not {INFLIGHT.size}")
    return Inflight(*INFLIGHT.unpack(data.ljust(INFLIGHT.size, b"\0")))


def _log(data: bytes) -> LogBase:
    size, offset = LOG.unpack(data)
    if not size or offset + size > _END:
        raise MessageError(
            f"dirty log [{offset:#x}, +{size:#x}) of its file: empty, or it overflows"
        )
    return LogBase(size, offset)


def _transfer(data: bytes) -> Transfer:
    return Transfer(*TRANSFER.unpack(data))


def _fd_if_said(body: Body) -> Sequence[int]:
    return (int(isinstance(body, RingFd) and body.has_fd),)


def _fd_a_region(body: Body) -> Sequence[int]:
    return (len(body.regions) if isinstance(body, MemoryTable) else 0,)


def _one(_body: Body) -> Sequence[int]:
    return (1,)


def _perhaps_one(_body: Body) -> Sequence[int]:
    return (0, 1)


_NOTHING = _Form(_empty, 0)
_NUMBER = _Form(_number, U64.size)
_STATE = _Form(_ring_state, RING_STATE.size)
_FD = _Form(_ring_fd, U64.size, _fd_if_said)
_FORMS = {
    RequestId.GET_FEATURES: _NOTHING,
    RequestId.SET_FEATURES: _NUMBER,
    RequestId.SET_OWNER: _NOTHING,
    RequestId.RESET_OWNER: _NOTHING,
    RequestId.SET_MEM_TABLE: _Form(_table, None, _fd_a_region),
    RequestId.SET_LOG_BASE: _Form(_log, LOG.size, _one),
    RequestId.SET_LOG_FD: _Form(_empty, 0, _one),
    RequestId.SET_VRING_NUM: _STATE,
    RequestId.SET_VRING_ADDR: _Form(_ring_addresses, RING_ADDRESSES.size),
    RequestId.SET_VRING_BASE: _STATE,
    RequestId.GET_VRING_BASE: _STATE,
    RequestId.SET_VRING_KICK: _FD,
    RequestId.SET_VRING_CALL: _FD,
    RequestId.SET_VRING_ERR: _FD,
    RequestId.GET_PROTOCOL_FEATURES: _NOTHING,
    RequestId.SET_PROTOCOL_FEATURES: _NUMBER,
    RequestId.GET_QUEUE_NUM: _NOTHING,
    RequestId.SET_VRING_ENABLE: _STATE,
    RequestId.SET_BACKEND_REQ_FD: _Form(_empty, 0, _one),
    RequestId.GET_CONFIG: _Form(_config, None),
    RequestId.SET_CONFIG: _Form(_config, None),
    RequestId.POSTCOPY_ADVISE: _NOTHING,
    RequestId.POSTCOPY_LISTEN: _NOTHING,
    RequestId.POSTCOPY_END: _NOTHING,
    RequestId.GET_INFLIGHT_FD: _Form(_inflight, None),
    RequestId.SET_INFLIGHT_FD: _Form(_inflight, None, _one),
    RequestId.RESET_DEVICE: _NOTHING,
    RequestId.GET_MAX_MEM_SLOTS: _NOTHING,
    RequestId.ADD_MEM_REG: _Form(_one_region, 8 + REGION.size, _perhaps_one),
    RequestId.REM_MEM_REG: _Form(_one_region, 8 + REGION.size, _perhaps_one),
    RequestId.SET_STATUS: _NUMBER,
    RequestId.GET_STATUS: _NOTHING,
    RequestId.SET_DEVICE_STATE_FD: _Form(_transfer, TRANSFER.size, _one),
    RequestId.CHECK_DEVICE_STATE: _NOTHING,
    RequestId.GET_SHMEM_CONFIG: _NOTHING,
}
assert set(_FORMS) == set(RequestId)


def parse_header(data: bytes) -> Header:
    """Return a request's header of `HEADER_SIZE` bytes; raises MessageError."""
    request, flags, size = HEADER.unpack(data)
    if flags & HeaderFlag.VERSION_MASK != VERSION:
        raise MessageError(f"message of version {flags & HeaderFlag.VERSION_MASK}, not {VERSION}")
    if flags & ~int(HeaderFlag.VERSION_MASK | HeaderFlag.NEED_REPLY):
        raise MessageError(f"message with flags {flags:#x}: a request has none but NEED_REPLY")
    if size > PAYLOAD_MAX:
        raise MessageError(f"message of {size} bytes: at most {PAYLOAD_MAX}")
    return Header(request, HeaderFlag(flags), size)


def parse(header: Header, payload: bytes, fds: int) -> tuple[RequestId, Body]:
    """Return what a request says, which came with so many descriptors; raises MessageError."""
    try:
        request = RequestId(header.request)
    except ValueError:
        raise MessageError(f"request {header.request}: it is not known") from None
    form = _FORMS[request]
    if form.size is not None and len(payload) != form.size:
        raise MessageError(f"{request.name}: {len(payload)} bytes, not {form.size}")
    try:
        body = form.parse(payload)
    except MessageError as exc:
        raise MessageError(f"{request.name}: {exc}") from None
    wanted = form.fds(body)
    if fds not in wanted:
        raise MessageError(f"{request.name}: {fds} descriptors, not {max(wanted)}")
    return request, body


# Replies.


def encode_header(request: int, size: int, flags: HeaderFlag = HeaderFlag.REPLY) -> bytes:
    """Return the header of a message of ours."""
    return HEADER.pack(request, VERSION | flags, size)


def encode_number(value: int) -> bytes:
    """Return a u64."""
    return U64.pack(value)


def encode_ring_state(ring: int, value: int) -> bytes:
    """Return a ring's number and its index."""
    return RING_STATE.pack(ring, value)


def encode_ring_addresses(at: RingAddresses) -> bytes:
    """Return where the parts of a ring lie."""
    flags = _LOG_RING if at.logged else 0
    return RING_ADDRESSES.pack(at.ring, flags, at.descriptors, at.used, at.available, at.log)


def encode_transfer(transfer: Transfer) -> bytes:
    """Return a transfer of the device's state."""
    return TRANSFER.pack(transfer.direction, transfer.phase)


def encode_config(offset: int, data: bytes) -> bytes:
    """Return bytes of the configuration space."""
    return CONFIG.pack(offset, len(data), 0) + data


def encode_inflight(inflight: Inflight) -> bytes:
    """Return where the memory of in-flight descriptors is."""
    return INFLIGHT.pack(inflight.size, inflight.offset, inflight.rings, inflight.ring_size)


def encode_memory_table(regions: Sequence[MemoryRegion]) -> bytes:
    """Return a table of regions."""
    parts = (REGION.pack(each.guest, each.size, each.user, each.offset) for each in regions)
    return TABLE_HEAD.pack(len(regions), 0) + b"".join(parts)


assert HEADER.size == HEADER_SIZE
assert QUEUE_SIZE_MAX <= 1 << 16
