"""What a process that maps guest memory tells main: it has started a child, which is to map it too.

These messages run on a channel of their own, the other way than requests, and have no answer: so the process
never waits for main, whatever main waits for.  Main answers the child: over the channel whose end is attached
it gets `Welcome` or `Dismiss` (`hfsched.swap.protocol.childmessages`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from hfsched.swap.pages.entries import REGIONS_MAX
from hfsched.swap.protocol.messages import Message, Word, decode, encode

__all__ = ["DESCRIPTORS", "NAME_MAX", "Newcomer", "decode_newcomer", "encode_newcomer"]

NAME_MAX = 32  # characters
DESCRIPTORS = 3  # of each message


class Newcomer(Message, frozen=True, tag="newcomer"):
    """A child has been started, which maps the memory of `vms`, None: of all that its parent maps.

    An end of its channel, its pidfd and its /proc/PID/pagemap are attached.  A `dynamic` one may die.
    """

    name: Annotated[str, Meta(pattern=rf"\A[A-Za-z0-9_.-]{{1,{NAME_MAX}}}\Z")]
    dynamic: bool
    vms: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=REGIONS_MAX)] | None = None


_decoder = msgspec.msgpack.Decoder(Newcomer)


def encode_newcomer(message: Newcomer) -> bytes:
    """Return the bytes of a message."""
    return encode(0, message)


def decode_newcomer(data: bytes) -> Newcomer:
    """Return a message; raises ProtocolError for any other bytes."""
    return decode("newcomer", _decoder, data)[1]
