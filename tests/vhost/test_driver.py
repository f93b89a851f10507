"""The front-end of our tests, with a device that answers in capitals."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from driver import FrontEnd, RefusedByDeviceError

from hfsched.vhost import Device, Queue, Request
from hfsched.vhost.errors import RefusedError
from hfsched.vhost.protocol.numbers import Feature, RequestId


class Upper(Device):
    type_id = 0x2000
    queues = 2

    def __init__(self) -> None:
        self.count = 0
        self.resumed = 0

    def process(self, queue: Queue, request: Request) -> None:
        self.count += 1
        request.write(request.read().upper()[: request.write_size])
        request.complete()

    def resume(self) -> None:
        self.resumed += 1

    def config(self) -> bytes:
        return struct.pack("<Q", self.count)

    def save(self) -> Any:
        return self.count

    def restore(self, state: Any) -> None:
        if not isinstance(state, int):
            raise RefusedError("no number")
        self.count = state


EVENT_IDX = int(Feature.VERSION_1 | Feature.EVENT_IDX)


@pytest.mark.parametrize("features", [-1, EVENT_IDX], ids=["flags", "event_idx"])
def test_requests_of_any_size_on_both_queues(features: int) -> None:
    with FrontEnd(Upper(), features=features) as front:
        for number in range(200):
            index, size = number % 2, number * 67 % 9000 + 1
            assert front.request(b"a" * size, size, index) == b"A" * size
        assert front.config() == struct.pack("<Q", 200)


def test_many_at_once() -> None:
    with FrontEnd(Upper(), size=16) as front:
        queue = front.queues[1]
        for _ in range(10):
            sent = {queue.add(b"%d x" % at, 10): b"%d X" % at for at in range(8)}
            assert not queue.free
            queue.kick()
            assert dict(front.wait(1, 8)) == sent


def test_it_goes_on_after_a_stop_and_with_its_state_in_another_device() -> None:
    with FrontEnd(Upper()) as front:
        front.request(b"a", 1)
        front.suspend()
        front.resume()
        assert front.device.resumed == 2  # type: ignore[attr-defined]
        front.request(b"b", 1)
        front.suspend()
        state = front.save()
        front.reset()
        front.resume()
        front.request(b"c", 1)
    with FrontEnd(Upper(), start=False) as other:
        other.negotiate()
        other.restore(state)
        with pytest.raises(RefusedByDeviceError):
            other.restore(state[:-1])
        assert other.config() == struct.pack("<Q", 2)


def test_what_is_refused_and_what_ends_the_connection() -> None:
    with FrontEnd(Upper()) as front:
        with pytest.raises(RefusedByDeviceError, match="owner"):
            front.ask(RequestId.SET_OWNER)
        with pytest.raises(ConnectionError):
            front.ask(RequestId.SET_OWNER, b"payload")


def test_nothing_is_left_open(descriptors: Callable[[], int]) -> None:
    before = descriptors()
    for _ in range(2):
        with FrontEnd(Upper()) as front:
            front.request(b"a", 1)
            front.on_device(lambda: None)
    assert descriptors() <= before
