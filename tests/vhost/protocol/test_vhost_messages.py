"""A front-end's messages: what makes sense is read as it was meant, anything else is a MessageError."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.messages import MessageError, parse, parse_header
from hfsched.vhost.protocol.numbers import CONFIG_MAX, PAYLOAD_MAX, HeaderFlag, RequestId

Q = struct.Struct("<Q").pack


def said(request: RequestId, payload: bytes = b"", fds: int = 0) -> wire.Body:
    header = parse_header(wire.encode_header(request, len(payload), HeaderFlag(0)))
    return parse(header, payload, fds)[1]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (struct.pack("<III", 1, 2, 0), "version 2"),
        (struct.pack("<III", 1, 5, 0), "flags 0x5"),
        (struct.pack("<III", 1, 0x11, 0), "flags 0x11"),
        (struct.pack("<III", 1, 1, PAYLOAD_MAX + 1), "bytes: at most"),
    ],
)
def test_headers_that_are_none(data: bytes, why: str) -> None:
    with pytest.raises(MessageError, match=why):
        parse_header(data)


def region(guest: int = 0x1000, size: int = 0x1000, user: int = 0x2000, offset: int = 0) -> bytes:
    return struct.pack("<QQQQ", guest, size, user, offset)


def table(*regions: bytes, count: int | None = None, padding: int = 0) -> bytes:
    return struct.pack("<II", len(regions) if count is None else count, padding) + b"".join(regions)


WRONG = {
    "an unknown request": (99, b"", 0, "not known"),
    "a payload too many": (RequestId.SET_OWNER, b"\0", 0, "1 bytes, not 0"),
    "a descriptor too many": (RequestId.SET_FEATURES, Q(1), 1, "1 descriptors, not 0"),
    "a table without descriptors": (RequestId.SET_MEM_TABLE, table(region()), 0, "not 1"),
    "a table's padding": (RequestId.SET_MEM_TABLE, table(region(), padding=1), 1, "padding"),
    "a table of 33": (RequestId.SET_MEM_TABLE, table(*[region()] * 33), 33, "33 regions"),
    "a table that is short": (RequestId.SET_MEM_TABLE, table(region(), count=2), 2, "2 regions"),
    "an empty region": (RequestId.SET_MEM_TABLE, table(region(size=0)), 1, "is empty"),
    "a region's guest end": (
        RequestId.SET_MEM_TABLE,
        table(region(guest=-1 & 2**64 - 1)),
        1,
        "overflows",
    ),
    "a region's user end": (
        RequestId.SET_MEM_TABLE,
        table(region(user=-1 & 2**64 - 1)),
        1,
        "overflows",
    ),
    "a region's file end": (
        RequestId.SET_MEM_TABLE,
        table(region(offset=-1 & 2**64 - 1)),
        1,
        "overflows",
    ),
    "a ring's flags": (
        RequestId.SET_VRING_ADDR,
        struct.pack("<IIQQQQ", 0, 2, 0, 0, 0, 0),
        0,
        "flags",
    ),
    "descriptors' place": (
        RequestId.SET_VRING_ADDR,
        struct.pack("<IIQQQQ", 0, 0, 8, 0, 0, 0),
        0,
        "of 16",
    ),
    "the used ring's place": (
        RequestId.SET_VRING_ADDR,
        struct.pack("<IIQQQQ", 0, 0, 0, 2, 0, 0),
        0,
        "of 4",
    ),
    "the available ring's": (
        RequestId.SET_VRING_ADDR,
        struct.pack("<IIQQQQ", 0, 0, 0, 0, 1, 0),
        0,
        "of 2",
    ),
    "a kick with no descriptor": (RequestId.SET_VRING_KICK, Q(0), 0, "not 1"),
    "a kick with one that says no": (RequestId.SET_VRING_KICK, Q(0x100), 1, "not 0"),
    "a kick's bits": (RequestId.SET_VRING_KICK, Q(0x200), 1, "bits"),
    "a config of nothing": (RequestId.GET_CONFIG, struct.pack("<III", 0, 0, 0), 0, "within"),
    "a config beyond": (
        RequestId.GET_CONFIG,
        struct.pack("<III", CONFIG_MAX, 1, 0) + b"x",
        0,
        "within",
    ),
    "a config that is short": (
        RequestId.SET_CONFIG,
        struct.pack("<III", 0, 4, 0) + b"x",
        0,
        "it says 4",
    ),
    "a log of nothing": (RequestId.SET_LOG_BASE, struct.pack("<QQ", 0, 0), 1, "empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_messages_that_are_none(name: str) -> None:
    request, payload, fds, why = WRONG[name]
    header = wire.Header(int(request), HeaderFlag(1), len(payload))
    with pytest.raises(MessageError, match=why):
        parse(header, payload, fds)


def test_what_they_say() -> None:
    assert said(RequestId.SET_FEATURES, Q(1 << 32)) == wire.Number(1 << 32)
    assert said(RequestId.SET_VRING_KICK, Q(3), 1) == wire.RingFd(3, has_fd=True)
    assert said(RequestId.SET_VRING_CALL, Q(0x103)) == wire.RingFd(3, has_fd=False)
    assert said(
        RequestId.SET_MEM_TABLE, table(region(), region(guest=0x9000)), 2
    ) == wire.MemoryTable(
        (wire.MemoryRegion(0x1000, 0x1000, 0x2000, 0), wire.MemoryRegion(0x9000, 0x1000, 0x2000, 0))
    )
    assert said(RequestId.ADD_MEM_REG, Q(0) + region(), 1) == wire.MemoryTable(
        (wire.MemoryRegion(0x1000, 0x1000, 0x2000, 0),)
    )
    addresses = struct.pack("<IIQQQQ", 2, 1, 0x10, 0x24, 0x32, 0x40)
    assert said(RequestId.SET_VRING_ADDR, addresses) == wire.RingAddresses(
        2, logged=True, descriptors=0x10, used=0x24, available=0x32, log=0x40
    )
    assert said(RequestId.GET_INFLIGHT_FD, struct.pack("<QQHH4x", 1, 2, 3, 4)) == wire.Inflight(
        1, 2, 3, 4
    )
    assert said(RequestId.GET_INFLIGHT_FD, struct.pack("<QQHH", 1, 2, 3, 4)) == wire.Inflight(
        1, 2, 3, 4
    )


@given(data=st.binary(max_size=120), request=st.integers(0, 50), fds=st.integers(0, 33))
@settings(max_examples=2000, deadline=None)
def test_any_bytes_are_a_message_or_a_message_error(data: bytes, request: int, fds: int) -> None:
    with suppress(MessageError):
        parse(wire.Header(request, HeaderFlag(1), len(data)), data, fds)


@given(data=st.binary(min_size=12, max_size=12))
@settings(max_examples=500, deadline=None)
def test_any_header_is_one_or_a_message_error(data: bytes) -> None:
    with suppress(MessageError):
        parse_header(data)
