"""The sequences of the protocol, over one connection to a back-end.

Every method raises BackendError, after which the connection is to be closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.abi.virtio import RingLayout
from hfsched.vhost.frontend.client import BackendRequests, Client
from hfsched.vhost.frontend.wire import (
    CONFIG_ASKED,
    BackendError,
    BackendRefusalError,
    encode_addresses,
    one_region,
    parse_config,
    parse_inflight,
    parse_number,
    parse_ring_state,
)
from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.numbers import (
    NO_STATE_FD,
    STATE_MAX,
    Feature,
    ProtocolFeature,
    RequestId,
)

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Runtime

__all__ = ["QUEUES_MAX", "Backend", "InflightMemory", "Offer", "Ring", "SharedRegion"]

QUEUES_MAX = 64  # of a device, which a back-end may offer more of
DEFAULT_QUEUES = 8  # the driver knows how many its type of device has
_CONFIG_HEAD = 12  # bytes before those of the configuration space
_TYPE_BITS = (1 << 24) - 1 | ((1 << 64) - (1 << 50))  # bits that belong to a type of device
# Plain numbers: `~` of an IntFlag has only the bits that have names.
_RING_BITS = int(Feature.VERSION_1 | Feature.INDIRECT_DESC | Feature.EVENT_IDX)
_WANTED = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.DEVICE_STATE
)


class SharedRegion(Struct, frozen=True):
    """All `size` bytes of the file `fd` are guest memory at `guest`."""

    guest: int
    size: int
    fd: int


class Offer(Struct, frozen=True):
    """What a back-end offers a driver; `queues` is `DEFAULT_QUEUES` where it does not say how many it has."""

    features: int
    queues: int
    config: bytes

    def lacking(self, features: int, queues: int, config_size: int) -> str | None:
        """Return what a device had, and this back-end, which is to replace the one before, lacks; None: nothing."""
        lost = features & ~self.features
        if lost:
            return f"the new back-end does not offer features {lost:#x}"
        if self.queues < queues:
            return f"the new back-end has {self.queues} queues, not {queues}"
        if len(self.config) != config_size:
            return f"the new back-end's configuration space has {len(self.config)} bytes"
        return None


class Ring(Struct, frozen=True):
    """A ring to be started at index `base`, and the descriptors of its eventfds."""

    layout: RingLayout
    base: int
    kick: int
    call: int


class InflightMemory(Struct, frozen=True):
    """The memory of in-flight descriptors, which outlives a back-end; `fd` is who holds this one's."""

    where: wire.Inflight
    fd: int


class Backend:
    """One connection to a back-end; `client` is closed by who has made it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._protocol = ProtocolFeature(0)
        self._enables = False  # PROTOCOL_FEATURES is there: rings begin disabled

    # At first.

    def negotiate(self) -> Offer:
        """Become its owner, and learn what it offers."""
        client = self.client
        offered = parse_number(client.ask(RequestId.GET_FEATURES).payload)
        if not offered & Feature.VERSION_1:
            raise BackendError(f"features {offered:#x}: it offers no VERSION_1")
        self._enables = bool(offered & Feature.PROTOCOL_FEATURES)
        queues = DEFAULT_QUEUES
        if self._enables:
            self._agree(ProtocolFeature(self._number(RequestId.GET_PROTOCOL_FEATURES)))
            if self._protocol & ProtocolFeature.MQ:
                queues = self._number(RequestId.GET_QUEUE_NUM)
                if not queues:
                    raise BackendError("GET_QUEUE_NUM: it has no queue")
        client.tell(RequestId.SET_OWNER)
        config = self._find_config()
        features = offered & (_TYPE_BITS | _RING_BITS)
        return Offer(features, min(queues, QUEUES_MAX), config)

    def _agree(self, offered: ProtocolFeature) -> None:
        self._protocol = ProtocolFeature(int(offered) & int(_WANTED))
        if not self._protocol & ProtocolFeature.CONFIG:
            self._protocol &= ~ProtocolFeature.BACKEND_REQ
        acked = wire.encode_number(int(self._protocol))
        self.client.tell(RequestId.SET_PROTOCOL_FEATURES, acked)
        self.client.acks = bool(self._protocol & ProtocolFeature.REPLY_ACK)

    def _number(self, request: RequestId) -> int:
        return parse_number(self.client.ask(request).payload)

    @property
    def wants_requests(self) -> bool:
        """Whether it can be given a connection for its requests: `hear`."""
        return bool(self._protocol & ProtocolFeature.BACKEND_REQ)

    def hear(self, runtime: Runtime, ours: Connection, theirs: int) -> None:
        """Let it ask on the other end of a connection of ours."""
        self.client.requests = BackendRequests(runtime, ours)
        self.client.tell(RequestId.SET_BACKEND_REQ_FD, b"", (theirs,))

    # The configuration space.

    def _find_config(self) -> bytes:
        """Return as much of the configuration space as it has: how large it is, only the type of the device says."""
        if not self._protocol & ProtocolFeature.CONFIG:
            return b""
        found, least, most = b"", 0, CONFIG_ASKED  # it has `least`, and not more than `most`
        size = most
        while least < most:
            config = self.read_config(size)
            if config is None:
                most = size - 1
            else:
                found, least = config, size
            size = (least + most + 1) // 2
        return found

    def read_config(self, size: int) -> bytes | None:
        """Return the first bytes of the configuration space; None: it has not as many.

        They are asked for from the start on, since some back-ends take no other offset.
        """
        if not size:
            return b""
        asked = wire.encode_config(0, bytes(size))
        reply = self.client.ask(RequestId.GET_CONFIG, asked, (0, _CONFIG_HEAD + size))
        return parse_config(reply.payload, size)

    def write_config(self, offset: int, data: bytes) -> None:
        """Change a part of it."""
        self.client.tell(RequestId.SET_CONFIG, wire.encode_config(offset, data))

    # Rings.

    @property
    def keeps_inflight(self) -> bool:
        """Whether it notes what is in flight in memory that outlives it."""
        return bool(self._protocol & ProtocolFeature.INFLIGHT_SHMFD)

    def new_inflight(self, rings: Sequence[Ring]) -> InflightMemory:
        """Return memory for what is in flight in these rings."""
        count = max(ring.layout.index for ring in rings) + 1
        size = max(ring.layout.size for ring in rings)
        asked = wire.encode_inflight(wire.Inflight(0, 0, count, size))
        reply = self.client.ask(RequestId.GET_INFLIGHT_FD, asked, (24,), 1)
        try:
            where = parse_inflight(reply.payload, count, size)
        except BaseException:
            self.client.drop(reply.fds)
            raise
        return InflightMemory(where, reply.fds[0])

    def start(
        self,
        features: int,
        memory: Sequence[SharedRegion],
        rings: Sequence[Ring],
        inflight: InflightMemory | None,
    ) -> None:
        """Share the memory, and have these rings served."""
        client = self.client
        self.acknowledge(features)
        table = wire.encode_memory_table([one_region(each.guest, each.size) for each in memory])
        client.tell(RequestId.SET_MEM_TABLE, table, [each.fd for each in memory])
        if inflight is not None:
            where = wire.encode_inflight(inflight.where)
            client.tell(RequestId.SET_INFLIGHT_FD, where, (inflight.fd,))
        for ring in rings:
            index = ring.layout.index
            number = wire.encode_number(index)
            size = wire.encode_ring_state(index, ring.layout.size)
            client.tell(RequestId.SET_VRING_NUM, size)
            client.tell(RequestId.SET_VRING_ADDR, encode_addresses(ring.layout))
            client.tell(RequestId.SET_VRING_BASE, wire.encode_ring_state(index, ring.base))
            client.tell(RequestId.SET_VRING_CALL, number, (ring.call,))
            client.tell(RequestId.SET_VRING_KICK, number, (ring.kick,))
            self._enable(index, 1)
        if not client.acks:  # all was done when this is answered
            client.ask(RequestId.GET_FEATURES)

    def _enable(self, index: int, value: int) -> None:
        if self._enables:
            self.client.tell(RequestId.SET_VRING_ENABLE, wire.encode_ring_state(index, value))

    def stop(self, index: int) -> int:
        """Have a ring served no more; return where it is to go on.  The back-end touches it no more after that."""
        self._enable(index, 0)
        asked = wire.encode_ring_state(index, 0)
        reply = self.client.ask(RequestId.GET_VRING_BASE, asked)
        return parse_ring_state(reply.payload, index)

    @property
    def saves_state(self) -> bool:
        """Whether it can save its state, and take over another's."""
        return bool(self._protocol & ProtocolFeature.DEVICE_STATE)

    def acknowledge(self, features: int) -> None:
        """Say which features the driver uses."""
        own = int(Feature.PROTOCOL_FEATURES) if self._enables else 0
        self.client.tell(RequestId.SET_FEATURES, wire.encode_number(features | own))

    def save_state(self, ours: Connection, theirs: int, close: Callable[[int], None]) -> bytes:
        """Return its state, which comes by a connection of which `theirs` is its end, closed here.  Its rings are stopped."""
        try:
            self._transfer(0, theirs)
        finally:
            close(theirs)
        state = self.client.read_all(ours, STATE_MAX)
        self._check_transfer()
        return state

    def load_state(
        self, state: bytes, ours: Connection, theirs: int, close: Callable[[int], None]
    ) -> None:
        """Have it take over a state, likewise."""
        try:
            self._transfer(1, theirs)
        finally:
            close(theirs)
        self.client.write_all(ours, state)
        self._check_transfer()

    def _transfer(self, direction: int, fd: int) -> None:
        request = RequestId.SET_DEVICE_STATE_FD
        reply = self.client.ask(
            request, wire.encode_transfer(wire.Transfer(direction, 0)), given=(fd,)
        )
        answer = parse_number(reply.payload)
        if answer != NO_STATE_FD:
            raise BackendRefusalError(f"{request.name}: it is refused ({answer:#x})")

    def _check_transfer(self) -> None:
        answer = self._number(RequestId.CHECK_DEVICE_STATE)
        if answer:
            raise BackendRefusalError(f"CHECK_DEVICE_STATE: it has failed ({answer:#x})")

    def reset(self) -> None:
        """Make the device as new, where it can be; its rings are stopped."""
        if self._protocol & ProtocolFeature.RESET_DEVICE:
            self.client.tell(RequestId.RESET_DEVICE)
