"""The state of a device as its front-end saves it, while its rings stand still, and has it taken over by another back-end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.abi.virtio import RingLayout
from hfsched.errors import UserError
from hfsched.vhost.frontend.rings import problem_of
from hfsched.vhost.frontend.wire import BackendError

if TYPE_CHECKING:
    from hfsched.vhost.frontend.backend import SharedRegion
    from hfsched.vhost.frontend.inbox import Inbox
    from hfsched.vhost.frontend.link import Link
    from hfsched.vhost.frontend.rings import ActiveRing

__all__ = ["FrontEndRecord", "RingRecord", "check_record", "restore", "save"]

_INDEX_MAX = 0xFFFF


class RingRecord(Struct, frozen=True):
    """A ring that the driver uses, and where it goes on."""

    layout: RingLayout
    base: int


class FrontEndRecord(Struct, frozen=True):
    """What the driver has acknowledged, its rings, and the back-end's state, which only back-ends of its kind know."""

    features: int
    rings: tuple[RingRecord, ...]
    state: bytes


def save(link: Link, inbox: Inbox, deadline: int | None) -> FrontEndRecord:
    """Return the state of a device that is suspended, by the deadline (ns); `inbox` is its task's.  Raises UserError."""
    found: list[FrontEndRecord | UserError] = []

    def do() -> bool:
        try:
            found.append(_save(link))
        except UserError as exc:
            found.append(exc)
        return True

    if not inbox.call(do, deadline):
        raise UserError("its back-end did not save its state in time")
    if isinstance(found[0], UserError):
        raise found[0]
    return found[0]


def _save(link: Link) -> FrontEndRecord:
    backend = link.backend
    if backend is None:
        raise UserError("its back-end is lost")
    if not backend.saves_state:
        raise UserError("its back-end cannot save its state (DEVICE_STATE)")
    rings = []
    for ring in link.rings:
        if ring.base is None:  # a back-end was lost while they ran, and none has taken them over
            raise UserError("its back-end was lost, and the next one has not gone on yet")
        rings.append(RingRecord(ring.layout, ring.base))
    try:
        state = link.save_state()
    except BackendError as exc:
        raise UserError(f"its state could not be saved: {exc}") from None
    return FrontEndRecord(link.features, tuple(rings), state)


def restore(link: Link, record: FrontEndRecord, ring: Callable[[RingLayout], ActiveRing]) -> None:
    """Give a link the state of a record that was checked; raises UserError."""
    link.features = record.features
    try:
        link.rings = [ring(each.layout) for each in record.rings]
        for made, each in zip(link.rings, record.rings, strict=True):
            made.base = each.base
        link.load_state(record.state)
    except BackendError as exc:
        raise UserError(str(exc)) from None
    except OSError as exc:
        raise UserError(f"a queue's eventfd: {exc.strerror}") from None


def check_record(
    record: FrontEndRecord, features: int, queues: int, memory: Sequence[SharedRegion]
) -> None:
    """Raise UserError for a record that no device can have which offers these."""
    if record.features & ~features:
        missing = record.features & ~features
        raise UserError(f"its back-end does not offer features {missing:#x}, which its driver uses")
    seen = set()
    for ring in record.rings:
        problem = problem_of(ring.layout, memory)
        if problem is not None:
            raise UserError(problem)
        if not 0 <= ring.layout.index < queues or ring.layout.index in seen:
            raise UserError(f"queue {ring.layout.index}: its back-end has {queues}")
        if not 0 <= ring.base <= _INDEX_MAX:
            raise UserError(f"queue {ring.layout.index} goes on at {ring.base}")
        seen.add(ring.layout.index)
