"""A device's life, message by message: what it is told, and what its front-end gets."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
from driver import PROTOCOL, FrontEnd, RefusedByDeviceError

from hfsched.runtime.base import ChannelClosedError
from hfsched.vhost import Device, Queue, Request
from hfsched.vhost.errors import RefusedError
from hfsched.vhost.inflight import InflightRing, inflight_size
from hfsched.vhost.mapping import map_file
from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.numbers import Feature, HeaderFlag, ProtocolFeature, RequestId

NO_BACKEND = int(PROTOCOL & ~ProtocolFeature.BACKEND_REQ)


class Told(Device):
    """It says what it is told, counts its requests, and keeps the first `keeps` of queue 0."""

    type_id = 0x2001
    queues = 2

    def __init__(self, keeps: int = 0) -> None:
        self.log: list[str] = []
        self.count = 0
        self.size = 1  # its configuration
        self.keeps = keeps
        self.kept: list[Request] = []
        self.state_size = 0

    def took(self) -> list[str]:
        """Return what it was told since the last time."""
        found, self.log = self.log, []
        return found

    def process(self, queue: Queue, request: Request) -> None:
        if queue.index == 0 and len(self.kept) < self.keeps:
            self.kept.append(request)
            return
        self.count += 1
        request.write(struct.pack("<Q", self.count))
        request.complete()

    def drain(self, queue: Queue) -> None:
        self.log.append(f"drain {queue.index}")
        for request in reversed(self.kept):
            queue.unpop(request)
        self.kept.clear()
        self.keeps = 0

    def start_queue(self, queue: Queue) -> None:
        self.log.append(f"start {queue.index}")

    def stop_queue(self, queue: Queue) -> None:
        self.log.append(f"stop {queue.index}")

    def resume(self) -> None:
        self.log.append("resume")

    def suspend(self) -> None:
        self.log.append("suspend")

    def reset(self) -> None:
        self.log.append("reset")
        self.count = 0

    def config(self) -> bytes:
        return struct.pack("<Q", self.size)

    def save(self) -> Any:
        return {"count": self.count, "more": bytes(self.state_size)}

    def restore(self, state: Any) -> None:
        if not isinstance(state, dict) or not isinstance(state.get("count"), int):
            raise RefusedError("no count")
        self.count = state["count"]


STARTED = ["resume", "start 0", "start 1"]
STOPPED = ["stop 0", "stop 1", "suspend"]


def counted(front: FrontEnd, number: int, index: int = 0) -> None:
    assert front.request(room=8, index=index) == struct.pack("<Q", number)


def change(front: FrontEnd, device: Told, size: int) -> Callable[[], None]:
    def do() -> None:
        device.size = size
        device.host.config_changed()

    return do


def hears_change(front: FrontEnd, size: int) -> None:
    """Check that the front-end is told of a change, and finds it."""
    assert front.backend is not None
    assert front.backend.recv(12) == wire.encode_header(2, 0, HeaderFlag(0))
    assert front.config() == struct.pack("<Q", size)


def silent(front: FrontEnd) -> bool:
    """Whether the device has said nothing by itself."""
    assert front.backend is not None
    front.backend.setblocking(False)
    try:
        front.backend.recv(1)
    except BlockingIOError:
        return True
    finally:
        front.backend.settimeout(20)
    return False


@pytest.mark.parametrize("backend", [True, False], ids=["with-backend-requests", "without"])
def test_the_whole_story(backend: bool) -> None:
    first = Told()
    protocol = int(PROTOCOL) if backend else NO_BACKEND
    with FrontEnd(first, protocol=protocol) as front:
        # Activated.
        assert first.took() == STARTED
        counted(front, 1)
        if backend:
            front.on_device(change(front, first, 2))
            hears_change(front, 2)
        # Reset, and activated anew.
        front.suspend()
        assert first.took() == STOPPED
        front.reset()
        assert first.took() == ["reset"]
        front.resume()
        assert first.took() == STARTED
        counted(front, 1, 1)
        if backend:
            front.on_device(change(front, first, 3))
            hears_change(front, 3)
        # Suspended: it says nothing, and what it has to say it says later.
        counted(front, 2)
        front.suspend()
        if backend:
            change(front, first, 4)()
            assert front.config() == struct.pack("<Q", 4)
            assert silent(front)
        state = front.save()
        # Resumed: the source goes on after its snapshot.
        front.resume()
        counted(front, 3)
        if backend:
            hears_change(front, 4)
        assert first.took() == STOPPED + STARTED
    assert first.took() == STOPPED
    assert not front.notices

    second = Told()
    with FrontEnd(second, protocol=protocol, start=False) as front:
        front.negotiate(protocol=protocol)
        front.restore(state)
        assert second.took() == []
        front.set_memory()
        front.resume()
        assert second.took() == STARTED
        counted(front, 3)
        if backend:
            front.on_device(change(front, second, 9))
            hears_change(front, 9)
    assert second.took() == STOPPED


def test_what_came_while_a_ring_was_stopped_is_seen_when_it_starts_kick_or_none() -> None:
    with FrontEnd(Told()) as front:
        counted(front, 1)
        front.suspend()
        front.queues[0].add(room=8)  # and no kick: its descriptor will be another one
        front.resume()
        ((_, data),) = front.wait()
        assert data == struct.pack("<Q", 2)


def test_a_ring_that_is_disabled_is_left_and_carried_on_when_it_is_enabled() -> None:
    device = Told()
    with FrontEnd(device) as front:
        front.enable(0, False)
        front.queues[0].add(room=8)
        front.queues[0].kick(always=True)
        counted(front, 1, 1)
        assert front.queues[0].take() == []
        front.enable(0)
        assert front.wait()[0][1] == struct.pack("<Q", 2)


def test_requests_that_wait_are_put_back_when_their_ring_stops_and_got_again() -> None:
    device = Told(keeps=2)
    with FrontEnd(device) as front:
        heads = [front.queues[0].add(room=8) for _ in range(2)]
        front.queues[0].kick()
        front.on_device(lambda: None)  # after that
        counted(front, 1, 1)
        front.suspend()
        assert device.took() == [*STARTED, "drain 0", *STOPPED]
        assert front.queues[0].base == 0
        front.resume()
        assert front.wait(count=2) == [
            (head, struct.pack("<Q", number)) for number, head in enumerate(heads, 2)
        ]


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_a_state_larger_than_a_pipe_goes_both_ways(size: int) -> None:
    first, second = Told(), Told()
    first.state_size, first.count = size, 7
    with FrontEnd(first) as front:
        front.suspend()
        state = front.save()
        assert len(state) > size
    with FrontEnd(second) as front:
        front.suspend()
        front.restore(state)
        front.resume()
        counted(front, 8)


def test_check_before_the_state_was_read_is_answered_and_the_device_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hfsched.vhost.transfer.CHECK_WITHIN", 50_000_000)
    device = Told()
    device.state_size = 1 << 20
    with FrontEnd(device) as front:
        front.suspend()
        reader, writer = os.pipe()
        answer, _ = front.ask(RequestId.SET_DEVICE_STATE_FD, struct.pack("<II", 0, 0), [writer])
        os.close(writer)
        assert answer == wire.encode_number(0x100)
        assert front.number(RequestId.CHECK_DEVICE_STATE) == 1
        os.close(reader)
        front.resume()
        counted(front, 1)


STATES = {
    "no CBOR": b"\xff\xff",
    "bytes behind it": None,
    "version None": b"\xa0",
    "version 2": b"\xa1\x67hfsched\x02",
    "type": b"\xa2\x67hfsched\x01\x64type\x00",
    "no count": b"\xa3\x67hfsched\x01\x64type\x19\x20\x01\x66device\xf6",
}


@pytest.mark.parametrize("why", STATES)
def test_a_state_that_is_none_leaves_the_device_as_it_was(why: str) -> None:
    device = Told()
    with FrontEnd(device) as front:
        counted(front, 1)
        front.suspend()
        state = STATES[why]
        with pytest.raises(RefusedByDeviceError, match=why):
            front.restore(front.save() + b"\0" if state is None else state)
        front.resume()
        counted(front, 2)


def test_a_transfer_wants_all_rings_stopped_and_a_check_one_that_was_begun() -> None:
    with FrontEnd(Told()) as front:
        with pytest.raises(RefusedByDeviceError, match="a queue runs"):
            front.save()
        front.suspend()
        assert front.number(RequestId.CHECK_DEVICE_STATE) == 1
        assert front.save()


REFUSED = [
    (RequestId.SET_OWNER, b"", "owner already"),
    (RequestId.SET_FEATURES, wire.encode_number(1 << 40), "were not offered"),
    (RequestId.SET_PROTOCOL_FEATURES, wire.encode_number(1 << 40), "mean nothing"),
    (RequestId.SET_VRING_NUM, wire.encode_ring_state(0, 8), "while it runs"),
    (RequestId.SET_VRING_NUM, wire.encode_ring_state(7, 8), "queue 7"),
    (RequestId.SET_VRING_BASE, wire.encode_ring_state(0, 1), "while it runs"),
    (RequestId.SET_VRING_ENABLE, wire.encode_ring_state(0, 2), "0 or 1"),
    (RequestId.SET_CONFIG, wire.encode_config(0, b"x"), "cannot be written"),
    (RequestId.SET_CONFIG, wire.encode_config(8, b"x"), "it ends before"),
    (RequestId.POSTCOPY_LISTEN, b"", "PAGEFAULT"),
    (RequestId.SET_STATUS, wire.encode_number(1), "STATUS"),
    (RequestId.REM_MEM_REG, bytes(8) + struct.pack("<QQQQ", 5, 6, 7, 0), "there is none"),
]


@pytest.mark.parametrize(("request_", "payload", "why"), REFUSED)
def test_what_is_refused_changes_nothing(request_: RequestId, payload: bytes, why: str) -> None:
    with FrontEnd(Told()) as front:
        with pytest.raises(RefusedByDeviceError, match=why):
            front.ask(request_, payload)
        counted(front, 1)


def test_memory_tables_that_are_refused_leave_the_one_from_before() -> None:
    with FrontEnd(Told()) as front, os.fdopen(os.memfd_create("short"), "wb") as short:
        short.truncate(100)
        region = wire.MemoryRegion(0, 4096, 0, 0)
        for regions, why in (
            ([region], "is not in a file"),
            ([region, region], "overlaps|is not in"),
        ):
            table = wire.encode_memory_table(regions)
            with pytest.raises(RefusedByDeviceError, match=why):
                front.ask(RequestId.SET_MEM_TABLE, table, [short.fileno()] * len(regions))
        counted(front, 1)


def test_memory_that_is_cut_off_ends_no_process() -> None:
    with FrontEnd(Told()) as front:
        counted(front, 1)
        os.ftruncate(front.memory_fd, 0)
        os.eventfd_write(front.queues[0].kick_fd, 1)
        front.number(RequestId.GET_FEATURES)
        front.number(RequestId.GET_FEATURES)
        assert any("is gone" in each for each in front.notices)


def test_what_is_written_is_in_the_log_and_the_used_ring_too() -> None:
    with FrontEnd(Told()) as front, os.fdopen(os.memfd_create("log"), "rb+") as log:
        pages = ((1 << 32) + front.memory_size) // 4096
        log.truncate(pages // 8 + 1)
        base = struct.pack("<QQ", pages // 8 + 1, 0)
        answer, _ = front.ask(RequestId.SET_LOG_BASE, base, [log.fileno()])
        assert answer == wire.encode_number(0)
        counted(front, 1)
        log.seek((1 << 32) // 4096 // 8)
        assert not any(log.read())
        features = front.features | Feature.LOG_ALL
        front.ask(RequestId.SET_FEATURES, wire.encode_number(features))
        queue = front.queues[0]
        user = 0x7000_0000_0000 + queue.offset
        used = (1 << 32) + queue.offset + queue.ring.used
        where = struct.pack(
            "<IIQQQQ", 0, 1, user, user + queue.ring.used, user + queue.ring.available, used
        )
        front.ask(RequestId.SET_VRING_ADDR, where)
        counted(front, 2)
        log.seek((1 << 32) // 4096 // 8)
        bits = int.from_bytes(log.read(), "little")
        assert bits >> (queue.offset // 4096) & 1, "the used ring"
        assert bits.bit_count() == 2, "and the buffer"
        front.ask(RequestId.SET_FEATURES, wire.encode_number(front.features))
        counted(front, 3)
        log.seek((1 << 32) // 4096 // 8)
        assert int.from_bytes(log.read(), "little") == bits


# In-flight descriptors.


def test_what_a_device_that_died_had_taken_out_is_done_once_by_the_next_one() -> None:
    want = wire.encode_inflight(wire.Inflight(0, 0, 2, 64))
    with FrontEnd(Told(), start=False) as front:
        front.negotiate()
        answer, (fd,) = front.ask(RequestId.GET_INFLIGHT_FD, want)
        front.ask(RequestId.SET_INFLIGHT_FD, answer, [fd])
        mapping = map_file(fd, 0, inflight_size(64) * 2)
        front.set_memory()
        queue = front.queues[0]
        heads = [queue.add(room=8) for _ in range(3)]
        # One that died: it had taken three out, and had given the second one back.
        dead = InflightRing(mapping, 0, 64)
        assert dead.recover(0) == []
        for head in heads:
            dead.taken(head)
        dead.given_back(heads[1])
        queue._window.write(queue.ring.used + 4, struct.pack("<II", heads[1], 8))
        queue._window.store16(queue.ring.used + 2, 1)
        queue.base = 1  # as QEMU says: the used index
        front.start(0)
        done = front.wait(count=3)
        assert [head for head, _ in done] == [heads[1], heads[0], heads[2]]
        assert [data for _, data in done[1:]] == [struct.pack("<Q", each) for each in (1, 2)]
        counted(front, 3)
        os.close(fd)
        mapping.close()


def test_what_is_done_again_can_be_put_back_too() -> None:
    want = wire.encode_inflight(wire.Inflight(0, 0, 2, 64))
    device = Told(keeps=1)
    with FrontEnd(device, start=False) as front:
        front.negotiate()
        answer, (fd,) = front.ask(RequestId.GET_INFLIGHT_FD, want)
        front.ask(RequestId.SET_INFLIGHT_FD, answer, [fd])
        mapping = map_file(fd, 0, inflight_size(64) * 2)
        front.set_memory()
        queue = front.queues[0]
        heads = [queue.add(room=8) for _ in range(3)]
        dead = InflightRing(mapping, 0, 64)
        dead.recover(0)
        for head in heads[:2]:
            dead.taken(head)
        front.start(0)
        front.start(1)
        assert [head for head, _ in front.wait(count=2)] == heads[1:]

        def again() -> None:
            (request,) = device.kept
            kept = request._queue
            kept.unpop(request)
            device.keeps = 0
            kept.pending = True

        front.on_device(again)
        assert [head for head, _ in front.wait()] == heads[:1]
        os.close(fd)
        mapping.close()


class Raises(Told):
    """It raises where it is told to."""

    where = ""

    def start_queue(self, queue: Queue) -> None:
        super().start_queue(queue)
        if self.where == "start":
            raise ValueError("no start")

    def available(self, queue: Queue) -> None:
        if self.where == "available":
            self.log.append("available")
            raise RefusedError("not now")
        super().available(queue)


def test_a_queue_that_the_device_cannot_start_is_not_started() -> None:
    device = Raises()
    with FrontEnd(device, start=False) as front:
        front.negotiate()
        front.set_memory()
        device.where = "start"
        with pytest.raises(RefusedByDeviceError, match="no start"):
            front.start(0)
        assert device.took() == ["resume", "start 0", "suspend"]
        device.where = ""
        front.start(0)
        counted(front, 1)


def test_a_device_that_raises_is_told_and_asked_again_with_the_next_kick() -> None:
    device = Raises()
    with FrontEnd(device) as front:
        counted(front, 1)
        device.where = "available"
        front.queues[0].add(room=8)
        front.queues[0].kick()
        front.on_device(lambda: None)
        assert device.took() == [*STARTED, "available"]
        assert front.notices == ["queue 0: not now"]
        device.where = ""
        front.queues[0].kick(always=True)
        assert front.wait()[0][1] == struct.pack("<Q", 2)


def test_what_was_posted_and_raises_is_told_and_ends_nothing() -> None:
    def wrong() -> None:
        raise ChannelClosedError

    with FrontEnd(Told()) as front:
        front.on_device(wrong)
        counted(front, 1)
        assert front.notices == ["the device: ChannelClosedError"]


@pytest.mark.parametrize(("rings", "size"), [(3, 64), (0, 64), (2, 0)])
def test_in_flight_memory_of_another_form_is_refused(rings: int, size: int) -> None:
    want = wire.encode_inflight(wire.Inflight(0, 0, rings, size))
    with FrontEnd(Told(), start=False) as front:
        front.negotiate()
        answer, fds = front.ask(RequestId.GET_INFLIGHT_FD, want)
        assert (answer, fds) == (bytes(24), [])
        assert "there are 2" in front.notices[0]


def test_a_request_without_a_form_of_failure_ends_the_connection() -> None:
    with FrontEnd(Told()) as front, pytest.raises(ConnectionError):
        front.ask(RequestId.GET_VRING_BASE, wire.encode_ring_state(7, 0))
