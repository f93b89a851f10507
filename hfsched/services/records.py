"""The typed record of a utility service, for snapshots; see `hfsched.mailbox.records`.

Deadlines are times left, never instants.
"""

from __future__ import annotations

import msgspec

__all__ = ["GuestAskedRecord", "OutgoingRecord", "ServiceRecord"]


class GuestAskedRecord(msgspec.Struct, frozen=True):
    """A guest's request that is under way: {epoch, id}, its body, and the ns left to answer it."""

    epoch: int
    id: int
    body: bytes
    left: int


class OutgoingRecord(msgspec.Struct, frozen=True):
    """A message to the guest that is not in RX yet; `request` is the {epoch, id} of a host's request."""

    data: bytes
    request: tuple[int, int] | None = None


class ServiceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One service of one VM.

    `requests` is how many requests of the host have no answer yet: their requesters stay behind in the
    process that took the snapshot.  `kept` is the service's own text, such as whether it is frozen.
    """

    v: int = 1
    service: int
    registered: bool
    closing: bool
    open: bool
    version: int
    epoch: int
    guest_epoch: int
    next_id: int
    requests: int
    asked: GuestAskedRecord | None = None
    outbox: tuple[OutgoingRecord, ...] = ()
