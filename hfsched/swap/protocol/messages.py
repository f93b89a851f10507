"""What main and the monitor say to each other.

Requests run one way, from main to the monitor; each has exactly one answer.  A message is a number,
8 bytes little-endian, and a MessagePack map whose field ``is`` says what it is.  An answer has its
request's number, so that one that comes too late is not taken for another's.  A request that makes
no sense is answered too: by `Refused`, with its number where it has 8 bytes, else with `NO_NUMBER`.

All that comes from the other side goes through `decode_request` or `decode_answer`; what these
return is typed and within its bounds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from hfsched.errors import HfschedError
from hfsched.swap.pages.store import REGIONS_MAX

__all__ = [
    "MEMBERS_MAX",
    "NO_NUMBER",
    "RESOURCES_ALL_MAX",
    "RESOURCES_MAX",
    "Begin",
    "Collect",
    "Collected",
    "Disable",
    "Done",
    "Enable",
    "Exit",
    "GetStatus",
    "Give",
    "Message",
    "Metrics",
    "MonitorAnswer",
    "MonitorRequest",
    "ProtocolError",
    "Refused",
    "Region",
    "Register",
    "State",
    "Status",
    "SwapOut",
    "Transition",
    "Trim",
    "Zapped",
    "decode",
    "decode_answer",
    "decode_request",
    "encode",
    "name_of",
    "number_of",
    "one_line",
]

NO_NUMBER = 0  # of an answer to a request that has none
MEMBERS_MAX = 1 << 10
RESOURCES_MAX = 32  # in one message: each has a descriptor
RESOURCES_ALL_MAX = REGIONS_MAX + 8
EVENTS_MAX = 64
TEXT_MAX = 500  # characters
_HEAD = 8  # bytes
_WORD = 1 << 63  # one more than the greatest number, address or size

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Address: TypeAlias = Annotated[int, Meta(ge=0)]
MemberNumber: TypeAlias = Annotated[int, Meta(ge=0, lt=MEMBERS_MAX)]
Word: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Text: TypeAlias = Annotated[str, Meta(max_length=TEXT_MAX)]


class ProtocolError(HfschedError):
    """Bytes from the other side that are no message; the text is one line."""


class State(StrEnum):
    """The states of a monitor; the names are crosvm's, but for `ENABLING`."""

    READY = "ready"  # nothing is swapped out: swap is disabled
    ENABLING = "enabling"  # pages are marked, and some member has yet to zap its page tables
    PENDING = "pending"  # pages are staged; trim and swap-out may begin
    TRIMMING = "trim-in-progress"
    SWAPPING_OUT = "swap-out-in-progress"
    ACTIVE = "active"  # all that was staged and not touched since is out
    SWAPPING_IN = "swap-in-progress"
    FAILED = "failed"  # nothing more is moved; faults are served still


class Message(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", kw_only=True
):
    """What all messages have in common: a field that nobody knows is a mistake."""


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`size` bytes of guest memory from `offset`, which a member maps at `base`."""

    base: Address
    offset: Address
    size: Annotated[int, Meta(gt=0)]

    def __post_init__(self) -> None:
        if self.base + self.size > _WORD or self.offset + self.size > _WORD:
            raise ValueError("a region that does not end below 2**63")


class Give(Message, frozen=True, tag="give"):
    """Before Begin, where one message has no room for all: here are the first, or more, of them."""

    resources: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=RESOURCES_MAX)]


class Begin(Message, frozen=True, tag="begin"):
    """Begin to work, with the resources of each Give and then these.

    Their descriptors come along in this order.
    `fresh` is false for a monitor that takes over from a dead one: then the page table says where
    every page is.
    """

    fresh: bool
    resources: Annotated[tuple[Word, ...], Meta(max_length=RESOURCES_MAX)]


class Register(Message, frozen=True, tag="register"):
    """Serve the faults of a process too; its uffd comes along, and for a dynamic one its pidfd.

    A dynamic member may die, and is collected then.  `zapped` says that nothing that is staged is
    mapped there: it is new, or it has zapped its page tables since the last enable.
    """

    member: MemberNumber
    dynamic: bool
    zapped: bool
    regions: Annotated[tuple[Region, ...], Meta(min_length=1, max_length=REGIONS_MAX)]


class Enable(Message, frozen=True, tag="enable"):
    """Stage every page that is in memory; the guest stands still meanwhile."""


class Zapped(Message, frozen=True, tag="zapped"):
    """A member has zapped its page tables since the last enable."""

    member: MemberNumber


class Trim(Message, frozen=True, tag="trim"):
    """Drop staged pages that are zero, or equal to their copy in the file."""


class SwapOut(Message, frozen=True, tag="out"):
    """Move what is staged to the compressed tier or to the file."""


class Disable(Message, frozen=True, tag="disable"):
    """Bring everything back, and give the file's room back: at once, or little by little."""

    slow_file_cleanup: bool = False


class GetStatus(Message, frozen=True, tag="status"):
    """Say how things are."""


class Collect(Message, frozen=True, tag="collect"):
    """Forget the dynamic members that are dead."""


class Exit(Message, frozen=True, tag="exit"):
    """Bring everything back and end.

    `discard`: end at once, and bring nothing back; nobody will touch guest memory any more.
    """

    discard: bool = False


MonitorRequest: TypeAlias = (
    Give
    | Begin
    | Register
    | Enable
    | Zapped
    | Trim
    | SwapOut
    | Disable
    | GetStatus
    | Collect
    | Exit
)


class Done(Message, frozen=True, tag="done"):
    """It is done or, for what takes long, has begun; `pages` where pages were counted."""

    pages: Count = 0


class Refused(Message, frozen=True, tag="refused"):
    """It is not done, and nothing of it is; `text` is one line."""

    text: Text


class Collected(Message, frozen=True, tag="collected"):
    """The members that were dead, and are forgotten."""

    members: tuple[MemberNumber, ...]


class Transition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The move of pages that is under way, or the last one: so many pages in so many ms."""

    pages: Count = 0
    ms: Count = 0


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pages by where they are (see `hfsched.swap.pages.store.Counts`); bytes of the compressed tier."""

    pages: Count = 0
    resident: Count = 0
    staged: Count = 0
    busy: Count = 0
    file: Count = 0
    compressed: Count = 0
    zero: Count = 0
    stale: Count = 0
    tier_used: Count = 0
    tier_size: Count = 0
    events: Annotated[dict[Word, Count], Meta(max_length=EVENTS_MAX)] = {}


class Status(Message, frozen=True, tag="state"):
    """How things are; `error` is why the last move ended before its time, else empty."""

    state: State
    transition: Transition = Transition()
    metrics: Metrics = Metrics()
    members: Count = 0
    error: Text = ""


MonitorAnswer: TypeAlias = Done | Refused | Collected | Status

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(MonitorRequest)
_answers: msgspec.msgpack.Decoder[MonitorAnswer] = msgspec.msgpack.Decoder(MonitorAnswer)
_T = TypeVar("_T")


def encode(number: int, message: Message) -> bytes:
    """Return a message in bytes; `number` is below 2**63."""
    return number.to_bytes(_HEAD, "little") + _encoder.encode(message)


def number_of(data: bytes) -> int:
    """Return a message's number, `NO_NUMBER` where it has none."""
    number = int.from_bytes(data[:_HEAD], "little")
    return number if len(data) >= _HEAD and number < _WORD else NO_NUMBER


def decode_request(data: bytes) -> tuple[int, MonitorRequest]:
    """Return a request and its number; raises ProtocolError, whatever `data` is."""
    return decode("request", _requests, data)


def decode_answer(data: bytes) -> tuple[int, MonitorAnswer]:
    """Return an answer and its number; raises ProtocolError, whatever `data` is."""
    return decode("answer", _answers, data)


def decode(what: str, decoder: msgspec.msgpack.Decoder[_T], data: bytes) -> tuple[int, _T]:
    """Return a message and its number; raises ProtocolError, whatever `data` is."""
    try:
        return number_of(data), decoder.decode(data[_HEAD:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ProtocolError(one_line(f"no {what}: {exc}")) from None


def name_of(request: Message) -> str:
    """Return the word for a request."""
    return str(type(request).__struct_config__.tag)


def one_line(text: str) -> str:
    """Return a text as an answer may have it: one line, of bounded length, printable."""
    safe = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(safe.split())[:TEXT_MAX]
