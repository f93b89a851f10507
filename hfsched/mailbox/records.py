"""The typed record of a mailbox, for snapshots.

A record is what `save` of a component returns and `restore` takes; msgspec encodes it.  One from
outside is checked where it is restored: `check` raises UserError for one that no machine can have.
"""

from __future__ import annotations

import msgspec

from hfsched.errors import UserError

__all__ = ["MailboxRecord", "PortsRecord", "VmPortsRecord", "check"]


class MailboxRecord(msgspec.Struct, frozen=True):
    """A mailbox: IPAs of RX and TX, the RX state's name, {sender, size} of its message, waiters."""

    rx: int | None
    tx: int | None
    state: str
    message: tuple[int, int] | None
    waiters: tuple[int, ...] = ()
    ready: tuple[int, ...] = ()


class VmPortsRecord(msgspec.Struct, frozen=True):
    """What lies on the host's side for one VM.

    `messages` are {host port, source port, payload} in order: unclaimed, queued in a port that can be opened
    again, or with a vCPU's thread that waits for room.  `given_up` are host ports.
    """

    messages: tuple[tuple[int, int, bytes], ...] = ()
    given_up: tuple[int, ...] = ()
    discarded: int = 0
    malformed: int = 0


class PortsRecord(msgspec.Struct, frozen=True):
    """The host's ports by VM id; `next_connection` is the first number that no connection has had."""

    vms: dict[int, VmPortsRecord]
    next_connection: int


def check(holds: bool, what: str) -> None:  # noqa: FBT001 - reads like an assertion
    """Raise UserError unless a record's property holds; `what` says what is wrong."""
    if not holds:
        raise UserError(f"snapshot: {what}")
