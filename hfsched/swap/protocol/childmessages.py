"""The messages between main and a child: another process that maps guest memory.

As in `hfsched.swap.protocol.messages`, requests run one way, from main; each has exactly one answer,
with its number; received bytes are decoded here alone.  The order is ``map`` (as many as the memfds
of the guests' memory need), ``join``, and then repeatedly ``resume``, ``suspend`` and ``zap``.

A child that another one has started (`hfsched.swap.protocol.newcomers`) gets ``welcome`` before, or ``dismiss``:
these two alone have no answer, and come over a channel that its parent has made.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from hfsched.swap.protocol.messages import Address, Done, Message, Refused, Text, Word, decode

__all__ = [
    "VMS_MAX",
    "ChildAnswer",
    "ChildRequest",
    "Dismiss",
    "Join",
    "Joined",
    "Map",
    "Mapped",
    "Resume",
    "Suspend",
    "VmMemory",
    "Welcome",
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
    """Map the memory of these VMs, whose memfds are attached in this order; do not access it."""

    vms: Annotated[tuple[VmMemory, ...], Meta(min_length=1, max_length=VMS_MAX)]


class Join(Message, frozen=True, tag="join"):
    """Return a uffd and a pidfd of the child.

    A descriptor may be attached: the channel on which it says that it has started a child of its own.
    """


class Resume(Message, frozen=True, tag="resume"):
    """Guest memory may be accessed until Suspend."""


class Suspend(Message, frozen=True, tag="suspend"):
    """Access no guest memory after the answer; give up after `within` ns.

    Resume follows it, whether it was done or refused.
    """

    within: Annotated[int, Meta(ge=0)] | None


class Zap(Message, frozen=True, tag="zap"):
    """Zap the page tables of all guest memory that is mapped."""


class Welcome(Message, frozen=True, tag="welcome"):
    """Go on with the channel whose end is attached: nobody but main has the other one."""


class Dismiss(Message, frozen=True, tag="dismiss"):
    """Main does not serve it, for the reason `text`."""

    text: Text


ChildRequest: TypeAlias = Map | Join | Resume | Suspend | Zap | Welcome | Dismiss


class Mapped(Message, frozen=True, tag="mapped"):
    """The addresses of the mappings."""

    bases: Annotated[tuple[Address, ...], Meta(max_length=VMS_MAX)]


class Joined(Message, frozen=True, tag="joined"):
    """A uffd and a pidfd are attached."""


ChildAnswer: TypeAlias = Mapped | Joined | Done | Refused

_requests = msgspec.msgpack.Decoder(ChildRequest)
_answers: msgspec.msgpack.Decoder[ChildAnswer] = msgspec.msgpack.Decoder(ChildAnswer)


def decode_request(data: bytes) -> tuple[int, ChildRequest]:
    """Return a request and its number; raises ProtocolError for any other bytes."""
    return decode("request", _requests, data)


def decode_answer(data: bytes) -> tuple[int, ChildAnswer]:
    """Return an answer and its number; raises ProtocolError for any other bytes."""
    return decode("answer", _answers, data)
