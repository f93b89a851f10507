"""A front-end's requests as bytes, and a back-end's replies and requests, checked.  Pure."""

from __future__ import annotations

from hfsched.abi.virtio import RingLayout
from hfsched.errors import HfschedError
from hfsched.vhost.protocol.formats import CONFIG, HEADER, INFLIGHT
from hfsched.vhost.protocol.messages import (
    Inflight,
    MemoryRegion,
    RingAddresses,
    encode_header,
    encode_ring_addresses,
)
from hfsched.vhost.protocol.numbers import (
    CONFIG_MAX,
    HEADER_SIZE,
    PAYLOAD_MAX,
    VERSION,
    HeaderFlag,
    RequestId,
)

__all__ = [
    "CONFIG_ASKED",
    "BackendError",
    "BackendRefusalError",
    "encode_addresses",
    "encode_request",
    "one_region",
    "parse_backend_request",
    "parse_config",
    "parse_inflight",
    "parse_number",
    "parse_reply_header",
    "parse_ring_state",
]

CONFIG_ASKED = (
    256  # bytes of the configuration space; some back-ends end the connection when asked for more
)
INFLIGHT_MAX = 64 << 20  # bytes; what a back-end asks for more than that is no sense
_REPLY_FLAGS = VERSION | HeaderFlag.REPLY


class BackendError(HfschedError):
    """A back-end that is gone, silent or wrong: the connection to it is of no more use.

    `gone`: its end of the connection is closed.
    """

    def __init__(self, text: str, *, gone: bool = False) -> None:
        super().__init__(text)
        self.gone = gone


class BackendRefusalError(BackendError):
    """A back-end has refused what it was asked to do; the connection is still of use."""


def encode_request(request: RequestId, payload: bytes, *, ack: bool) -> bytes:
    """Return a request; `ack`: it is to be acknowledged."""
    flags = HeaderFlag.NEED_REPLY if ack else HeaderFlag(0)
    return encode_header(request, len(payload), flags) + payload


def encode_addresses(ring: RingLayout) -> bytes:
    """Return where a ring is, which is not logged.  The front-end's own addresses are the guest's."""
    at = RingAddresses(
        ring.index,
        logged=False,
        descriptors=ring.descriptors,
        used=ring.device,
        available=ring.driver,
        log=0,
    )
    return encode_ring_addresses(at)


def parse_reply_header(data: bytes, request: RequestId, sizes: tuple[int, ...]) -> int:
    """Return the size of a reply's payload, which is one of `sizes`.  Raises BackendError."""
    found, flags, size = (int(each) for each in HEADER.unpack(data))
    if found != request:
        raise BackendError(f"{request.name}: it answers request {found}")
    # Some repeat NEED_REPLY in a reply.
    if flags & ~HeaderFlag.NEED_REPLY != _REPLY_FLAGS:
        raise BackendError(f"{request.name}: a reply with flags {flags:#x}")
    if size not in sizes:
        raise BackendError(f"{request.name}: a reply of {size} bytes, not {max(sizes)}")
    return size


def parse_number(payload: bytes) -> int:
    """Return a u64."""
    return int.from_bytes(payload, "little")


def parse_ring_state(payload: bytes, ring: int) -> int:
    """Return where a ring goes on.  Raises BackendError."""
    found = int.from_bytes(payload[:4], "little")
    base = int.from_bytes(payload[4:], "little")
    if found != ring:
        raise BackendError(f"GET_VRING_BASE: ring {found}, not {ring}")
    if base > 0xFFFF:
        raise BackendError(f"GET_VRING_BASE: ring {ring} goes on at {base:#x}: no index of it")
    return base


def parse_config(payload: bytes, size: int) -> bytes | None:
    """Return `size` bytes of the configuration space from its start; None: it has not as many.  Raises BackendError."""
    if not payload:
        return None
    offset, said, _ = CONFIG.unpack_from(payload)
    if offset or said != size:
        raise BackendError(f"GET_CONFIG: [{offset}, +{said}), not [0, +{size})")
    return payload[CONFIG.size :]


def parse_inflight(payload: bytes, rings: int, size: int) -> Inflight:
    """Return where in-flight memory for so many rings of `size` entries is.  Raises BackendError."""
    found = Inflight(*INFLIGHT.unpack(payload))
    if not 0 < found.size <= INFLIGHT_MAX or found.offset + found.size > 1 << 63:
        raise BackendError(f"GET_INFLIGHT_FD: [{found.offset:#x}, +{found.size:#x}) of a file")
    return Inflight(found.size, found.offset, rings, size)


def parse_backend_request(data: bytes) -> tuple[int, bool, int] | None:
    """Return {request, whether it is to be answered, bytes} of a back-end's first request; None: it is not whole yet.

    Raises BackendError.
    """
    if len(data) < HEADER_SIZE:
        return None
    request, flags, size = HEADER.unpack_from(data)
    if flags & ~HeaderFlag.NEED_REPLY != VERSION:
        raise BackendError(f"its request {request} has flags {flags:#x}")
    if size > PAYLOAD_MAX:
        raise BackendError(f"its request {request} is of {size} bytes")
    if len(data) < HEADER_SIZE + size:
        return None
    return request, bool(flags & HeaderFlag.NEED_REPLY), HEADER_SIZE + size


def one_region(guest: int, size: int) -> MemoryRegion:
    """Return all of a file as guest memory at `guest`, where the front-end has it too."""
    return MemoryRegion(guest, size, guest, 0)


assert CONFIG_ASKED <= CONFIG_MAX
