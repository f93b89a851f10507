"""Messages of the utility services on the wire: a header of 24 bytes, and a body.

All numbers are little endian::

    offset size
     0     2    "HU"
     2     1    format: 1
     3     1    kind, see `Kind`
     4     1    service, see `ServiceId`
     5     1    version of the service: the chosen one; in an offer the highest
     6     1    flag: status of a reply or a refusal; lowest version of an offer; reason of a goodbye
     7     1    0
     8     4    epoch of the side that asks
    12     4    id of the request; in an accept the host's epoch
    16     4    length of the body in bytes: all that follows the header
    20     4    0
    24          the body

They are payloads of a port (`hfsched.mailbox.ports`), so a body has at most `BODY_MAX` bytes.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from msgspec import Struct

from hfsched.errors import UserError
from hfsched.mailbox.ports import PAYLOAD_MAX

__all__ = [
    "BODY_MAX",
    "FORMAT",
    "HEADER",
    "PORT",
    "Goodbye",
    "Kind",
    "Message",
    "ServiceId",
    "WireError",
    "decode",
    "encode",
]

HEADER = struct.Struct("<2sBBBBBBIIII")
MAGIC = b"HU"
FORMAT = 1
BODY_MAX = PAYLOAD_MAX - HEADER.size
PORT = 0x6C697475  # "util": the host's port and the guest's


class WireError(UserError):
    """Bytes that are no message, with what is wrong."""


class Kind(IntEnum):
    """What a message is."""

    OFFER = 1  # guest: a daemon serves these versions
    ACCEPT = 2  # host: this version; `epoch` is the guest's from now on
    REFUSE = 3  # host: an offer or bytes that cannot be accepted; `flag` is a `Status`
    GOODBYE = 4  # guest: the daemon goes; `flag` is a `Goodbye`
    REQUEST = 5
    REPLY = 6  # with the request's epoch and id; `flag` is a `Status`
    STALE = 7  # host: nobody waits for the reply {epoch, id}; no error


class ServiceId(IntEnum):
    """The services."""

    KVP = 1  # key-value exchange, both ways
    FREEZE = 2
    FILE = 3
    HEARTBEAT = 4
    TIME = 5
    SHUTDOWN = 6


class Goodbye(IntEnum):
    """Why a daemon goes."""

    EXIT = 0
    HIBERNATE = 1


class Message(Struct, frozen=True):
    """One message; see the module's docstring."""

    kind: Kind
    service: int
    version: int = 1
    flag: int = 0
    epoch: int = 0
    id: int = 0
    body: bytes = b""


def encode(message: Message) -> bytes:
    """Return a message's bytes; the body has at most `BODY_MAX`."""
    assert len(message.body) <= BODY_MAX, f"a body of {len(message.body)} bytes"
    return (
        HEADER.pack(
            MAGIC,
            FORMAT,
            message.kind,
            message.service,
            message.version,
            message.flag,
            0,
            message.epoch,
            message.id,
            len(message.body),
            0,
        )
        + message.body
    )


def decode(data: bytes) -> Message:
    """Parse a message; raises WireError.

    An unknown service is no error here: the answer to it names the service.
    """
    if len(data) < HEADER.size:
        raise WireError(f"{len(data)} bytes: shorter than the {HEADER.size}-byte header")
    fields = HEADER.unpack_from(data)
    magic, form, kind, service, version, flag, pad, epoch, number, length, rest = fields
    if magic != MAGIC:
        raise WireError(f"begins with {magic.hex()}, not {MAGIC.hex()}")
    if form != FORMAT:
        raise WireError(f"format {form}: only {FORMAT} is known")
    if pad or rest:
        raise WireError("a reserved field is not 0")
    if length != len(data) - HEADER.size or length > BODY_MAX:
        raise WireError(f"length {length} of a body of {len(data) - HEADER.size} bytes")
    try:
        known = Kind(kind)
    except ValueError:
        raise WireError(f"unknown kind {kind}") from None
    return Message(known, service, version, flag, epoch, number, data[HEADER.size :])
