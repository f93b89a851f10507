"""What tests of the public client share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.client import Connection


def in_turn(count: int) -> list[bytes]:
    return [b"message %d" % number for number in range(count)]


def fill(connection: Connection) -> list[bytes]:
    """Send without waiting until there is no space; return what was sent."""
    sent: list[bytes] = []
    while True:
        message = b"message %d" % len(sent)
        try:
            connection.send(message, block=False)
        except BlockingIOError:
            return sent
        sent.append(message)
