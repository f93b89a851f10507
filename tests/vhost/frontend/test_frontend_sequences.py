"""What a front-end says to a back-end, message by message, over its life."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from backend_fakes import FEATURES, PROTOCOL, NotingBackend, NotingDriver, TestPeers, serve_device
from heap import SplitDriver, shared
from progress import QUIET_NS

from hfsched.abi.virtio import RingLayout
from hfsched.errors import UserError
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vhost.device import Device, Queue, Request
from hfsched.vhost.frontend.backend import SharedRegion
from hfsched.vhost.frontend.frontend import FrontEnd
from hfsched.vhost.mapping import FileMapping
from hfsched.vhost.protocol.messages import encode_header
from hfsched.vhost.protocol.numbers import (
    BackendRequestId,
    Feature,
    HeaderFlag,
    ProtocolFeature,
    RequestId,
)
from hfsched.vhost.ring.split import split_sizes

BASE = 0x7000_0000  # of guest memory
SIZE = 8
ACKED = int(Feature.VERSION_1)
WITH_OWN = ACKED | int(Feature.PROTOCOL_FEATURES)


def layout(index: int) -> RingLayout:
    table, available, _ = split_sizes(SIZE)
    start = BASE + 0x1000 * index
    return RingLayout(index, SIZE, start, start + table, start + (table + available + 3) // 4 * 4)


RINGS = [layout(0), layout(1)]


class Bench:
    """A front-end, its driver and its memory; the back-ends that it has had, the newest last."""

    def __init__(self, runtime: ThreadRuntime) -> None:
        self.runtime = runtime
        self.ram = Ram("test", 1 << 16)
        self.peers = TestPeers(runtime)
        self.notices: list[str] = []
        self.driver = NotingDriver()
        self.backends: list[NotingBackend] = []
        self.options: dict[str, object] = {}
        self.peers.serve = self.serve
        region = SharedRegion(BASE, self.ram.size, self.ram.fd)
        self.frontend = FrontEnd(
            runtime,
            "device",
            self.peers,
            [region],
            lambda address, size: self.ram.read(address - BASE, size),
            self.notices.append,
        )

    def serve(self, fd: int) -> None:
        self.backends.append(NotingBackend(self.runtime, fd, **self.options))  # type: ignore[arg-type]

    def open(self) -> NotingBackend:
        self.frontend.connect()
        self.frontend.driver = self.driver
        self.frontend.open()
        return self.backends[-1] if self.backends else None  # type: ignore[return-value]

    def deadline(self) -> int:
        return self.runtime.now() + QUIET_NS

    def settle(self) -> list[object]:
        """Return what the back-end was asked, once all that was posted is done."""
        assert self.frontend._inbox.call(lambda: True, self.deadline())
        return self.backends[-1].take()

    def close(self) -> None:
        assert self.frontend.close(self.deadline())
        for each in self.backends:
            each.end()
        self.ram.close()


@pytest.fixture
def bench(descriptors: Callable[[], int]) -> Iterator[Bench]:
    failures: list[str] = []
    before = descriptors()
    runtime = ThreadRuntime(lambda task, error: failures.append(f"{task}: {error!r}"))
    made = Bench(runtime)
    yield made
    made.close()
    runtime.close()
    assert failures == []
    assert descriptors() == before, "nothing stays open"


def started(index: int, base: int = 0) -> list[object]:
    """Return what starts a ring."""
    return [
        ("SET_VRING_NUM", index, SIZE),
        ("SET_VRING_ADDR", index),
        ("SET_VRING_BASE", index, base),
        ("SET_VRING_CALL", index),
        ("SET_VRING_KICK", index),
        ("SET_VRING_ENABLE", index, 1),
    ]


def stopped(index: int) -> list[object]:
    """Return what stops a ring."""
    return [("SET_VRING_ENABLE", index, 0), ("GET_VRING_BASE", index, 0)]


CONNECTED: list[object] = [
    "GET_FEATURES",
    "GET_PROTOCOL_FEATURES",
    "SET_PROTOCOL_FEATURES",
    "GET_QUEUE_NUM",
    "SET_OWNER",
]


def test_the_life_of_a_device(bench: Bench) -> None:
    backend = bench.open()
    asked = backend.take()
    assert asked[:5] == CONNECTED
    assert {each[0] for each in asked[5:-1] if isinstance(each, tuple)} == {"GET_CONFIG"}
    assert asked[-1] == "SET_BACKEND_REQ_FD"
    assert bench.frontend.config() == bytes(range(60)), "as much as it has, which nobody has said"
    assert bench.frontend.features == FEATURES & ~int(Feature.PROTOCOL_FEATURES | Feature.LOG_ALL)
    assert type(bench.frontend.features) is int, "its complement has all bits"
    assert bench.frontend.queues == 2

    bench.frontend.start(ACKED, RINGS)
    begun = [("SET_FEATURES", WITH_OWN), "SET_MEM_TABLE"]
    inflight = ["GET_INFLIGHT_FD"]
    assert bench.settle() == [
        *inflight, *begun, "SET_INFLIGHT_FD", *started(0), *started(1),
    ]  # fmt: skip

    backend.bases = {0: 3, 1: 5}
    assert bench.frontend.suspend(bench.deadline())
    assert bench.settle() == [*stopped(0), *stopped(1)]
    bench.frontend.resume()
    assert bench.settle() == [*begun, "SET_INFLIGHT_FD", *started(0, 3), *started(1, 5)]

    bench.frontend.stop_queue(1)
    assert bench.settle() == stopped(1)
    bench.frontend.stop()
    assert bench.settle() == stopped(0)
    assert bench.frontend.suspend(bench.deadline())
    bench.frontend.resume()
    assert bench.settle() == [], "a device that is not active needs none"
    assert bench.notices == []


def test_a_back_end_without_acknowledgements_and_other_features(bench: Bench) -> None:
    bench.options = {"protocol": 0}
    bench.open()
    assert bench.settle() == [*CONNECTED[:3], "SET_OWNER"]
    bench.frontend.start(ACKED, RINGS[:1])
    assert bench.settle() == [
        ("SET_FEATURES", WITH_OWN), "SET_MEM_TABLE", *started(0), "GET_FEATURES",
    ]  # fmt: skip


def test_a_back_end_that_knows_no_protocol_features(bench: Bench) -> None:
    bench.options = {"features": ACKED}
    bench.open()
    bench.frontend.start(ACKED, RINGS[:1])
    asked = bench.settle()
    assert asked[:2] == ["GET_FEATURES", "SET_OWNER"]
    assert asked[2:] == [("SET_FEATURES", ACKED), "SET_MEM_TABLE", *started(0)[:-1], "GET_FEATURES"]
    bench.frontend.stop()
    assert bench.settle() == [("GET_VRING_BASE", 0, 0)]


def test_a_back_end_that_is_gone_is_replaced(bench: Bench) -> None:
    backend = bench.open()
    bench.frontend.start(ACKED, RINGS)
    bench.settle()
    bench.ram.write(layout(0).device - BASE + 2, (7).to_bytes(2, "little"))
    bench.peers.serve = None
    backend.end()
    assert bench.peers.refused.wait(QUIET_NS / 1e9)
    bench.peers.serve = bench.serve
    bench.driver.until("used")
    asked = bench.settle()
    assert "GET_INFLIGHT_FD" not in asked, "that of the one before is kept"
    assert asked[-15:] == [
        ("SET_FEATURES", WITH_OWN), "SET_MEM_TABLE", "SET_INFLIGHT_FD", *started(0, 7), *started(1),
    ]  # fmt: skip
    assert [os.eventfd_read(fd) > 0 for fd in bench.backends[-1].kicks.values()] == [True, True]
    assert bench.notices == [
        "device: the back-end is lost: it has closed the connection; trying to reach it again",
        "device: the back-end is back",
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"features": WITH_OWN}, "does not offer features 0x20000000"),
        ({"queues": 1}, "has 1 queues, not 2"),
        ({"config": bytes(59)}, "configuration space has 59 bytes"),
    ],
)
def test_a_lesser_back_end_does_not_replace_it(
    bench: Bench, options: dict[str, object], why: str
) -> None:
    backend = bench.open()
    bench.frontend.start(ACKED, RINGS)
    bench.settle()
    bench.options = options
    backend.end()
    bench.driver.until("reset")
    assert why in bench.notices[-1]
    assert bench.notices[-1].endswith("the guest has to reset the device")
    # What the driver does then begins anew.
    bench.options = {}
    bench.frontend.stop()
    bench.frontend.start(ACKED, RINGS)
    bench.driver.until("used")
    assert bench.settle()[-6:] == started(1)


def test_a_change_of_the_configuration_is_read_and_told(bench: Bench) -> None:
    backend = bench.open()
    bench.settle()
    for config in (b"\1" * 60, b"\2" * 60):
        backend.config = config
        assert backend.requests is not None
        change = BackendRequestId.CONFIG_CHANGE_MSG
        backend.requests.send(encode_header(change, 0, HeaderFlag.NEED_REPLY))
        answer = backend.requests.recv(20, bench.deadline())
        assert answer == encode_header(change, 8) + bytes(8)
        bench.driver.until("config")
        assert bench.frontend.config() == config
    assert backend.requests is not None
    backend.requests.send(encode_header(9, 4, HeaderFlag.NEED_REPLY) + b"what")
    answer = backend.requests.recv(20, bench.deadline())
    assert answer == encode_header(9, 8) + (1).to_bytes(8, "little"), "it is not served"


def test_a_driver_writes_the_configuration(bench: Bench) -> None:
    backend = bench.open()
    backend.take()
    bench.frontend.write_config(32, b"\1")
    assert bench.settle() == [("SET_CONFIG", 32, 1), ("GET_CONFIG", 0, 60)]
    backend.answers[RequestId.SET_CONFIG] = (1).to_bytes(8, "little")  # it is refused
    bench.frontend.write_config(32, b"\1")
    bench.settle()
    assert bench.frontend.config() == bytes(range(60))
    assert bench.notices == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"size": 0}, "size 0: not a power of 2"),
        ({"size": 6}, "size 6: not a power of 2"),
        ({"driver": BASE + 1}, "driver area at 0x70000001: not a multiple of 2"),
        ({"device": BASE + 0xFFF0}, "device area at 0x7000fff0: not in the VM's memory"),
        ({"descriptors": 0}, "descriptors at 0x0: not in the VM's memory"),
    ],
)
def test_rings_that_make_no_sense_are_not_handed_on(
    bench: Bench, changed: dict[str, int], why: str
) -> None:
    backend = bench.open()
    backend.take()
    fields = {name: getattr(layout(0), name) for name in RingLayout.__struct_fields__}
    bench.frontend.start(ACKED, [RingLayout(**fields | changed)])
    bench.driver.until("reset")
    assert bench.settle() == []
    assert bench.notices == [f"device: queue 0: {why}: the guest has to reset the device"]


def test_a_ring_that_the_back_end_refuses_is_not_tried_again_and_again(bench: Bench) -> None:
    backend = bench.open()
    backend.answers[RequestId.SET_VRING_ADDR] = (1).to_bytes(8, "little")
    bench.frontend.start(ACKED, RINGS)
    bench.driver.until("reset")
    refused = [each for each in bench.notices if "SET_VRING_ADDR: it is refused (1)" in each]
    assert refused[-1].endswith("the guest has to reset the device")


def test_a_silent_back_end_keeps_a_suspension_from_going_on(bench: Bench) -> None:
    backend = bench.open()
    bench.frontend._link.backend.client.within = 500_000_000  # type: ignore[union-attr]
    bench.frontend.start(ACKED, RINGS)
    bench.settle()
    bench.peers.serve = None
    backend.silent.add(RequestId.GET_VRING_BASE)
    assert not bench.frontend.suspend(bench.deadline())
    assert "GET_VRING_BASE: no answer within" in bench.notices[0]
    assert not bench.frontend.suspend(bench.deadline()), "it may still write"
    bench.frontend.resume()
    bench.peers.serve = bench.serve
    bench.driver.until("used")
    assert bench.frontend.suspend(bench.deadline())


def test_no_first_back_end(bench: Bench) -> None:
    bench.peers.serve = None
    with pytest.raises(UserError, match="device: nobody listens"):
        bench.frontend.connect()
    bench.peers.serve = bench.serve
    bench.options = {"features": int(Feature.PROTOCOL_FEATURES)}
    with pytest.raises(UserError, match="device: features 0x40000000: it offers no VERSION_1"):
        bench.frontend.connect()


# With a device of ours


class Upper(Device):
    """Gives back what it reads, in capitals."""

    type_id = 0x2000
    features = 1 << 3

    def __init__(self) -> None:
        self.space = b"first"

    def config(self) -> bytes:
        return self.space

    def process(self, queue: Queue, request: Request) -> None:
        request.write(request.read().upper())
        request.complete()


def test_a_device_of_ours_serves_a_ring(bench: Bench) -> None:
    ends = []
    device = Upper()
    bench.peers.serve = lambda fd: ends.append(serve_device(bench.runtime, device, fd))
    bench.open()
    mapping = FileMapping(bench.ram.fd, 0, bench.ram.size)
    memory, _ = shared()
    driver = SplitDriver(memory, mapping, SIZE)  # type: ignore[arg-type]
    mapping.write(0x8000, b"hello")
    bench.frontend.start(ACKED | 1 << 3, RINGS[:1])
    for turn in range(3):
        driver.add([(BASE + 0x8000, 5, False), (BASE + 0x9000, 5, True)])
        bench.frontend.notify(0)
        while mapping.load16(driver.used + 2) != turn + 1:
            bench.driver.until("used")
        assert mapping.read(0x9000, 5) == b"HELLO"
        mapping.fill(0x9000, 5)
        if turn == 0:
            assert bench.frontend.suspend(bench.deadline())
            bench.frontend.resume()
        elif turn == 1:
            device.space = b"other"
            device.host.post(device.host.config_changed)
            bench.driver.until("config")
            assert bench.frontend.config()[:5] == b"other"
    mapping.close()
    bench.frontend.stop()
    ends[0]()
    assert PROTOCOL & ProtocolFeature.MQ
