"""A back-end that says anything: the front-end takes it or is rid of it, in time, and keeps nothing of it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.abi.virtio import RingLayout
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vhost.frontend.backend import Backend, Ring, SharedRegion
from hfsched.vhost.frontend.client import Client
from hfsched.vhost.frontend.wire import BackendError
from hfsched.vhost.protocol.numbers import RequestId

HEADER = struct.Struct("<III")
WITHIN = 30_000_000  # ns
BASE = 0x4000_0000
SEQUENCE = [
    RequestId.GET_FEATURES, RequestId.GET_PROTOCOL_FEATURES, RequestId.GET_QUEUE_NUM,
    RequestId.SET_OWNER, RequestId.GET_CONFIG, RequestId.GET_INFLIGHT_FD, RequestId.SET_FEATURES,
    RequestId.SET_MEM_TABLE, RequestId.SET_INFLIGHT_FD, RequestId.SET_VRING_NUM,
    RequestId.SET_VRING_ADDR, RequestId.SET_VRING_BASE, RequestId.SET_VRING_CALL,
    RequestId.SET_VRING_KICK, RequestId.SET_VRING_ENABLE, RequestId.GET_VRING_BASE,
]  # fmt: skip
Piece = tuple[bytes, int]  # bytes, and how many descriptors come with them

payloads = st.one_of(
    st.sampled_from(
        [
            (0x1_4000_0000).to_bytes(8, "little"),
            (0x1220).to_bytes(8, "little"),
            (0x1229).to_bytes(8, "little"),
            bytes(8),
            (1).to_bytes(8, "little"),
            struct.pack("<QQHHI", 4096, 0, 1, 8, 0),
            struct.pack("<III", 0, 256, 0) + bytes(256),
            b"",
        ]
    ),
    st.binary(max_size=40),
)


@st.composite
def replies(draw: st.DrawFn) -> list[Piece]:
    """Return what a back-end sends, mostly replies to what it will be asked."""
    found = []
    for request in SEQUENCE:
        kind = draw(st.sampled_from(["good"] * 12 + ["request", "flags", "size", "noise", "none"]))
        payload = draw(payloads)
        number, flags, size = int(request), draw(st.sampled_from([5, 5, 5, 13])), len(payload)
        fds = draw(st.sampled_from([0] * 8 + [1, 2])) + int(
            request is RequestId.GET_INFLIGHT_FD and draw(st.booleans())
        )
        if kind == "request":
            number = draw(st.integers(0, 50))
        elif kind == "flags":
            flags = draw(st.integers(0, 0xFFFF_FFFF))
        elif kind == "size":
            size = draw(st.integers(0, 0xFFFF_FFFF))
        data = HEADER.pack(number, flags, size) + payload
        if kind == "noise":
            data = draw(st.binary(min_size=1, max_size=30))
        if kind != "none":
            found.append((data, fds))
    return found


@pytest.fixture(scope="module")
def ram() -> Ram:
    return Ram("test", 1 << 16)


@given(replies())
@settings(max_examples=300, deadline=None)
def test_whatever_a_back_end_says(ram: Ram, said: list[Piece]) -> None:
    runtime = ThreadRuntime()
    ours, theirs = socket.socketpair()
    spare = os.open("/dev/null", os.O_RDONLY)
    closing = runtime.event("closing")
    runtime.select([closing], runtime.now())  # it has a descriptor from here on
    before = opened()
    client = Client(runtime, runtime.adopt_connection("backend", ours.detach()), closing)
    client.within = WITHIN
    with theirs:
        for data, fds in said:
            if fds:
                socket.send_fds(theirs, [data], [spare] * fds)
            else:
                theirs.send(data)
        theirs.shutdown(socket.SHUT_WR)
        kept = carry_out(Backend(client), ram, spare)
        for fd in kept:
            os.close(fd)
        assert opened() == before, "no descriptor stays open"
    client.close()
    closing.close()
    os.close(spare)
    runtime.close()


def opened() -> int:
    """Return how many descriptors this process has."""
    return len([*Path("/proc/self/fd").iterdir()])


def carry_out(backend: Backend, ram: Ram, fd: int) -> list[int]:
    """Go through a device's life; return the descriptors that were taken."""
    kept = []
    try:
        offer = backend.negotiate()
        assert len(offer.config) <= 256
        assert 1 <= offer.queues <= 64
        ring = Ring(RingLayout(0, 8, BASE, BASE + 0x100, BASE + 0x200), 0, fd, fd)
        inflight = None
        if backend.keeps_inflight:
            inflight = backend.new_inflight([ring])
            kept.append(inflight.fd)
        backend.start(offer.features, [SharedRegion(BASE, ram.size, ram.fd)], [ring], inflight)
        assert 0 <= backend.stop(0) <= 0xFFFF
        backend.reset()
    except BackendError as exc:
        said = str(exc)
        assert said.isprintable()
    return kept


def made() -> tuple[Client, socket.socket]:
    """Return a client that does not wait for long, and its back-end's end."""
    runtime = ThreadRuntime()
    ours, theirs = socket.socketpair()
    client = Client(
        runtime, runtime.adopt_connection("backend", ours.detach()), runtime.event("closing")
    )
    client.within = WITHIN
    return client, theirs


@pytest.mark.parametrize(
    "break_off",
    [
        lambda theirs: theirs.send(HEADER.pack(1, 5, 8)),
        lambda theirs: theirs.send(b"\1"),
        lambda _theirs: None,
    ],
    ids=["a header", "a byte", "nothing"],
)
def test_a_back_end_that_stops_in_the_middle(break_off: Callable[[socket.socket], object]) -> None:
    client, theirs = made()
    with theirs:
        break_off(theirs)
        with pytest.raises(BackendError, match="GET_FEATURES: no answer"):
            Backend(client).negotiate()
    client.close()


def test_a_back_end_that_reads_nothing() -> None:
    client, theirs = made()
    with theirs, pytest.raises(BackendError, match="SET_OWNER: it reads nothing"):
        tell_for_ever(client)
    client.close()


def tell_for_ever(client: Client) -> None:
    while True:
        client.tell(RequestId.SET_OWNER, bytes(64))


def test_closing_ends_a_wait() -> None:
    client, theirs = made()
    client._closing.set()
    with theirs, pytest.raises(BackendError, match="the device is closed"):
        Backend(client).negotiate()
    client.close()
