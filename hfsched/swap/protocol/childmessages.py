"""What main and a process that maps guest memory say to each other.

As in `hfsched.swap.protocol.messages`: requests run one way, from main; each has exactly one answer, with its
number; what comes from the other side goes through a decoder.  The order is ``map`` (as many as the
descriptors of the guests' memory need), ``join``, and then, again and again, ``go-on``, ``stop`` and
``zap``.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from hfsched.swap.protocol.messages import Address, Done, Message, Refused, Word, decode

__all__ = [
    "VMS_MAX",
    "ChildAnswer",
    "ChildRequest",
    "Join",
    "Joined",
    "Map",
    "Mapped",
    "Resume",
    "Suspend",
    "VmMemory",
    "Zap",
    "decode_answer",
    "decode_request",
]

VMS_MAX = 32  # in one message: each has a descriptor


class VmMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The memory of a VM: `size` bytes."""

    name: Word
    size: Annotated[int, Meta(gt=0, multiple_of=4096)]


class Map(Message, frozen=True, tag="map"):
    """Map the memory of these VMs, whose memfds come along in this order; do not touch it."""

    vms: Annotated[tuple[VmMemory, ...], Meta(min_length=1, max_length=VMS_MAX)]


class Join(Message, frozen=True, tag="join"):
    """Give a uffd and a pidfd of yours."""


class Resume(Message, frozen=True, tag="resume"):
    """Touch guest memory as you like, until Suspend."""


class Suspend(Message, frozen=True, tag="suspend"):
    """Stand still: touch no guest memory from the answer on; give up after `within` ns.

    Resume comes after it, whatever the answer was.
    """

    within: Annotated[int, Meta(ge=0)] | None


class Zap(Message, frozen=True, tag="zap"):
    """Zap the page tables of all the guest memory that you have mapped."""


ChildRequest: TypeAlias = Map | Join | Resume | Suspend | Zap


class Mapped(Message, frozen=True, tag="mapped"):
    """At which addresses the memory is."""

    bases: Annotated[tuple[Address, ...], Meta(max_length=VMS_MAX)]


class Joined(Message, frozen=True, tag="joined"):
    """A uffd and a pidfd come along."""


ChildAnswer: TypeAlias = Mapped | Joined | Done | Refused

_requests = msgspec.msgpack.Decoder(ChildRequest)
_answers: msgspec.msgpack.Decoder[ChildAnswer] = msgspec.msgpack.Decoder(ChildAnswer)


def decode_request(data: bytes) -> tuple[int, ChildRequest]:
    """Return a request and its number; raises ProtocolError, whatever `data` is."""
    return decode("request", _requests, data)


def decode_answer(data: bytes) -> tuple[int, ChildAnswer]:
    """Return an answer and its number; raises ProtocolError, whatever `data` is."""
    return decode("answer", _answers, data)
