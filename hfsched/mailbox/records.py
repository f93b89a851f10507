"""The typed record of a mailbox, for snapshots.

A record is what `save` of a component returns and `restore` takes; msgspec encodes it.  One from
outside is checked where it is restored: `check` raises UserError for one that no machine can have.
"""

from __future__ import annotations

import msgspec

from hfsched.errors import UserError

__all__ = ["MailboxRecord", "check"]


class MailboxRecord(msgspec.Struct, frozen=True):
    """A mailbox: IPAs of RX and TX, the RX state's name, {sender, size} of its message, waiters."""

    rx: int | None
    tx: int | None
    state: str
    message: tuple[int, int] | None
    waiters: tuple[int, ...] = ()
    ready: tuple[int, ...] = ()


def check(holds: bool, what: str) -> None:  # noqa: FBT001 - reads like an assertion
    """Raise UserError unless a record's property holds; `what` says what is wrong."""
    if not holds:
        raise UserError(f"snapshot: {what}")
