"""A vhost-user device's session, a guest's driver and a front-end: no request is lost, none is done twice."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.scenarios.vhostmodel import Driver, ModelMapping, RingMemory, SharedEventFd
from hfsched.vhost.device import Device
from hfsched.vhost.protocol.messages import (
    MemoryRegion,
    RingAddresses,
    encode_header,
    encode_memory_table,
    encode_number,
    encode_ring_addresses,
    encode_ring_state,
)
from hfsched.vhost.protocol.numbers import Feature, HeaderFlag, ProtocolFeature, RequestId
from hfsched.vhost.queue import Queue
from hfsched.vhost.serving import Session

if TYPE_CHECKING:
    from hfsched.explore.foreign import XEventFd
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.vhost.mapping import Mapping as SharedMapping
    from hfsched.vhost.request import Request
    from hfsched.vhost.ring.chain import Chain

__all__ = ["VhostScenario"]

_SIZE = 2  # entries of the ring
_BYTES = 0x200
_USER = 0x10_0000
_MEMORY_FD = 1  # stands for the guest's memory


class _Files:
    """A model of `hfsched.vhost.files.Files`."""

    state_file = None

    def __init__(self, memory: RingMemory, *, fences: bool) -> None:
        self._memory = memory
        self._fences = fences

    def map(self, _fd: int, _offset: int, _size: int) -> SharedMapping:
        return ModelMapping(self._memory, "device", fences=self._fences)

    def close(self, _fd: int) -> None:
        pass

    def check_eventfd(self, _fd: int) -> None:
        pass


class _Nothing(Device):
    """Completes each request."""

    type_id = 1

    def process(self, queue: Queue, request: Request) -> None:  # noqa: ARG002
        request.complete(1)


@dataclass(frozen=True)
class VhostScenario:
    """A driver makes `messages` requests, at most two at a time, and the front-end stops and starts the ring `stops` times meanwhile.

    Each time the ring has another descriptor to be kicked by.  With `event_idx` both sides say from which index on they want
    to be notified.  While the device is suspended it must not write to the guest's memory.
    """

    messages: int = 1
    stops: int = 0
    event_idx: bool = True
    variant: str = ""

    variants: ClassVar[Mapping[str, Variant]] = {
        "no-fence": Variant(
            "the device does not fence between its stores and what it loads after them",
            {"messages": 2},
        ),
        "waits-for-kick": Variant(
            "a ring that is started is looked at when a kick comes", {"stops": 1}
        ),
        "goes-on": Variant("a ring that was stopped goes on", {"stops": 1}),
        "no-look": Variant(
            "a ring is not looked at again after a kick was asked for", {"messages": 2}
        ),
    }

    def __post_init__(self) -> None:
        check_ranges(self, ("messages", 1, 8), ("stops", 0, 4))

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("vhost", self)

    def small(self) -> VhostScenario:
        """Return the size whose every interleaving a race pass runs."""
        return replace(self, messages=1, stops=0)

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the three of them."""
        return _World(self, runtime).world()


class _World:
    """One execution's world."""

    def __init__(self, scenario: VhostScenario, runtime: ExploreRuntime) -> None:
        self._scenario = scenario
        self._runtime = runtime
        self.memory = RingMemory(runtime, "ring", _BYTES, ("device", "driver"))
        self.closing = runtime.event("closing")
        self.mine, theirs = runtime.connection("front-end", packets=False)
        files = _Files(self.memory, fences=scenario.variant != "no-fence")
        self.session = Session(
            runtime,
            _Nothing(),
            theirs,
            self.closing,
            files=files,  # type: ignore[arg-type]
            make_queue=_QUEUES.get(scenario.variant, Queue),
        )
        self.driver = Driver(
            self.memory,
            _SIZE,
            SharedEventFd(runtime, "kick"),
            SharedEventFd(runtime, "call"),
            event_idx=scenario.event_idx,
        )
        self.driver.prepare()
        self._set_up()
        self.memory.start(runtime)
        runtime.spawn("device", self._serve)
        runtime.spawn("driver", self._drive)
        if scenario.stops:
            runtime.spawn("front-end", self._front_end)

    def world(self) -> World:
        return World(self._check, timers=False)

    # Tasks.

    def _serve(self) -> None:
        self.session.run()

    def _drive(self) -> None:
        driver, messages = self.driver, self._scenario.messages
        added = 0
        while len(driver.done) < messages:
            self._runtime.retain_only(driver.key(), added)
            if added < messages and driver.free:
                driver.add()
                added += 1
                continue
            self._runtime.select([driver.call])
            driver.call.take()
            while driver.take():
                pass

    def _front_end(self) -> None:
        for _ in range(self._scenario.stops):
            base = self._stop()
            self.driver.kick.take()  # it is another one from now on, and has no kick
            self._start(base)

    # The front-end's messages.

    def _send(self, request: RequestId, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        data = encode_header(request, len(payload), HeaderFlag(0)) + payload
        assert self.mine.send(data, fds) == len(data)

    def _set_up(self) -> None:
        features = Feature.VERSION_1 | Feature.PROTOCOL_FEATURES
        features |= Feature.EVENT_IDX if self._scenario.event_idx else Feature(0)
        self._send(RequestId.SET_OWNER)
        self._send(RequestId.SET_PROTOCOL_FEATURES, encode_number(ProtocolFeature.MQ))
        self._send(RequestId.SET_FEATURES, encode_number(features))
        table = encode_memory_table([MemoryRegion(0, _BYTES, _USER, 0)])
        self._send(RequestId.SET_MEM_TABLE, table, [_MEMORY_FD])
        self._send(RequestId.SET_VRING_NUM, encode_ring_state(0, _SIZE))
        self._start(0)

    def _start(self, base: int) -> None:
        driver = self.driver
        where = RingAddresses(
            0,
            logged=False,
            descriptors=_USER,
            used=_USER + driver.used,
            available=_USER + driver.available,
            log=0,
        )
        self._send(RequestId.SET_VRING_ADDR, encode_ring_addresses(where))
        self._send(RequestId.SET_VRING_BASE, encode_ring_state(0, base))
        self.memory.allow("device", allowed=True)
        self._fd(RequestId.SET_VRING_CALL, driver.call)
        self._fd(RequestId.SET_VRING_KICK, driver.kick)
        self._send(RequestId.SET_VRING_ENABLE, encode_ring_state(0, 1))

    def _fd(self, request: RequestId, eventfd: XEventFd) -> None:
        self._send(request, encode_number(0), [self._runtime.descriptor(eventfd)])

    def _stop(self) -> int:
        self._send(RequestId.SET_VRING_ENABLE, encode_ring_state(0, 0))
        self._send(RequestId.GET_VRING_BASE, encode_ring_state(0, 0))
        reply = b""
        while len(reply) < 20:
            got = self.mine.recv(20 - len(reply))
            assert got
            reply += got
        self.memory.allow("device", allowed=False)
        base: int = struct.unpack("<IIIII", reply)[4]
        return base

    def _check(self) -> None:
        done = self.driver.done
        assert len(done) == self._scenario.messages, (
            f"{len(done)} of {self._scenario.messages} requests were completed"
        )


class _WaitsForKick(Queue):
    def start(self, features: Feature) -> None:
        super().start(features)
        self.pending = False

    def enable(self, *, enabled: bool) -> None:
        self.enabled = enabled


class _GoesOn(Queue):
    def stop(self) -> int:
        assert self.ring is not None
        return self.ring.base()


class _NoLook(Queue):
    def pop_chain(self) -> Chain | None:
        ring = self.ring
        if ring is None or not self.enabled:
            return None
        chain = ring.pop()
        if chain is None:
            self.pending = False
            ring.await_kick()
        return chain


_QUEUES = {"waits-for-kick": _WaitsForKick, "goes-on": _GoesOn, "no-look": _NoLook}
