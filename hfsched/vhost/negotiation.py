"""What a front-end has acknowledged, and what that allows; the answers to its messages."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from hfsched.vhost.errors import RefusedError
from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.numbers import Feature, ProtocolFeature, RequestId

if TYPE_CHECKING:
    from hfsched.vhost.channel import Descriptors

__all__ = ["OFFERED", "RING_FEATURES", "Acknowledged", "Action", "Actions", "Reply", "number"]

RING_FEATURES = Feature.VERSION_1 | Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.RING_PACKED
OFFERED = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.DEVICE_STATE
)

# What a request needs to be acknowledged.
GATES = {
    RequestId.GET_QUEUE_NUM: ProtocolFeature.MQ,
    RequestId.SET_LOG_BASE: ProtocolFeature.LOG_SHMFD,
    RequestId.SET_BACKEND_REQ_FD: ProtocolFeature.BACKEND_REQ,
    RequestId.GET_CONFIG: ProtocolFeature.CONFIG,
    RequestId.SET_CONFIG: ProtocolFeature.CONFIG,
    RequestId.GET_INFLIGHT_FD: ProtocolFeature.INFLIGHT_SHMFD,
    RequestId.SET_INFLIGHT_FD: ProtocolFeature.INFLIGHT_SHMFD,
    RequestId.RESET_DEVICE: ProtocolFeature.RESET_DEVICE,
    RequestId.GET_MAX_MEM_SLOTS: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    RequestId.ADD_MEM_REG: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    RequestId.REM_MEM_REG: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    RequestId.SET_DEVICE_STATE_FD: ProtocolFeature.DEVICE_STATE,
    RequestId.CHECK_DEVICE_STATE: ProtocolFeature.DEVICE_STATE,
    RequestId.GET_SHMEM_CONFIG: ProtocolFeature.SHMEM,
    RequestId.POSTCOPY_ADVISE: ProtocolFeature.PAGEFAULT,
    RequestId.POSTCOPY_LISTEN: ProtocolFeature.PAGEFAULT,
    RequestId.POSTCOPY_END: ProtocolFeature.PAGEFAULT,
    RequestId.GET_STATUS: ProtocolFeature.STATUS,
    RequestId.SET_STATUS: ProtocolFeature.STATUS,
}


class Reply(Struct, frozen=True):
    """What is answered; `fd` is closed when it was sent."""

    payload: bytes
    fd: int | None = None


Action = Callable[
    [Any, "Descriptors"], Reply | None
]  # of a message's body; raises RefusedError, UserError
Actions = Mapping[RequestId, Action]


def number(value: int) -> Reply:
    """Return the answer that is a u64."""
    return Reply(wire.encode_number(value))


class Acknowledged:
    """A front-end's features; `features` is None as long as there are none."""

    def __init__(self) -> None:
        self.owned = False
        self.features: Feature | None = None
        self.protocol = ProtocolFeature(0)

    def key(self) -> Hashable:
        """Return all of it."""
        return (self.owned, self.features and int(self.features), int(self.protocol))

    def check(self, request: RequestId) -> None:
        """Raise RefusedError for a request whose protocol feature was not acknowledged."""
        gate = GATES.get(request)
        if gate is not None and not self.protocol & gate:
            raise RefusedError(f"{gate.name} was not acknowledged")

    def has(self, feature: Feature) -> bool:
        """Return whether a feature was acknowledged."""
        return self.features is not None and bool(self.features & feature)
