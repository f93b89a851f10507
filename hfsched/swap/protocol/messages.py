"""The messages between main and the monitor.

Requests run one way, from main to the monitor; each has exactly one answer.  A message is a number,
8 bytes little-endian, and a MessagePack map whose field ``is`` names its type.  An answer has its
request's number, so that a late one is not taken for another's.  An invalid request is answered
too: by `Refused`, with its number if it has 8 bytes, else with `NO_NUMBER`.  `Failed` is the last message
of a monitor, and may come without a request.

Received bytes are decoded by `decode_request` or `decode_answer` alone; the result is typed and
within its bounds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from hfsched.errors import HfschedError
from hfsched.swap.pages.entries import REGIONS_MAX
from hfsched.text import one_line

__all__ = [
    "DISCARD_MAX",
    "MEMBERS_MAX",
    "MOVED_MAX",
    "NO_NUMBER",
    "RESOURCES_ALL_MAX",
    "RESOURCES_MAX",
    "Begin",
    "Collect",
    "Collected",
    "Disable",
    "Discard",
    "Done",
    "Enable",
    "Exit",
    "Failed",
    "GetStatus",
    "Give",
    "GoOn",
    "Hold",
    "Message",
    "Metrics",
    "MonitorAnswer",
    "MonitorRequest",
    "Moved",
    "ProtocolError",
    "Refused",
    "Region",
    "Register",
    "Stage",
    "State",
    "Status",
    "SwapOut",
    "Text",
    "Transition",
    "Trim",
    "Word",
    "Zapped",
    "decode",
    "decode_answer",
    "decode_request",
    "encode",
    "name_of",
    "number_of",
    "reply_text",
]

NO_NUMBER = 0  # of an answer to a request without a number
MEMBERS_MAX = 1 << 10
RESOURCES_MAX = 32  # in one message: each has a descriptor
_LAYERS_MAX = 256  # of a snapshot
RESOURCES_ALL_MAX = REGIONS_MAX + 8 + _LAYERS_MAX
EVENTS_MAX = 64
MOVED_MAX = 16
DISCARD_MAX = 1 << 14  # pages, in one request: 64 MiB
TEXT_MAX = 500  # characters
_HEAD = 8  # bytes
_WORD = 1 << 63  # one more than the greatest number, address or size

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Address: TypeAlias = Annotated[int, Meta(ge=0)]
MemberNumber: TypeAlias = Annotated[int, Meta(ge=0, lt=MEMBERS_MAX)]
Word: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Text: TypeAlias = Annotated[str, Meta(max_length=TEXT_MAX)]


class ProtocolError(HfschedError):
    """Received bytes are not a valid message; the text is one line."""


class State(StrEnum):
    """The states of a monitor; the names are crosvm's, except `ENABLING`."""

    READY = "ready"  # swap is disabled: every page is in memory or zero
    ENABLING = "enabling"  # pages are marked, and a member has yet to zap its page tables
    PENDING = "pending"  # pages are staged; trim and swap-out may begin
    TRIMMING = "trim-in-progress"
    SWAPPING_OUT = "swap-out-in-progress"
    ACTIVE = "active"  # all that was staged and not touched since is out
    SWAPPING_IN = "swap-in-progress"
    FAILED = "failed"  # there is no monitor, and there will be none: main alone says so


class Message(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", kw_only=True
):
    """The base of all messages; an unknown field is an error."""


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`size` bytes of guest memory from `offset`, which a member maps at `base`."""

    base: Address
    offset: Address
    size: Annotated[int, Meta(gt=0)]

    def __post_init__(self) -> None:
        if self.base + self.size > _WORD or self.offset + self.size > _WORD:
            raise ValueError("a region must end below 2**63")


class Give(Message, frozen=True, tag="give"):
    """Before Begin: some of the resources, where one message has no room for all."""

    resources: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=RESOURCES_MAX)]


class Begin(Message, frozen=True, tag="begin"):
    """Begin to work, with the resources of each Give and then these.

    Their descriptors are attached in this order.  `fresh` is false for a monitor that takes over
    from a dead one: then the page table has the state of every page.
    """

    fresh: bool
    resources: Annotated[tuple[Word, ...], Meta(max_length=RESOURCES_MAX)]


class Register(Message, frozen=True, tag="register"):
    """Serve the faults of a process; its uffd is attached, and for a dynamic one its pidfd.

    `pagemap`: its page tables are attached between them.  A dynamic member may die, and is collected then.  `zapped`: no staged page is mapped there,
    since it is new, or has zapped its page tables since the last enable.
    """

    member: MemberNumber
    dynamic: bool
    zapped: bool
    regions: Annotated[tuple[Region, ...], Meta(min_length=1, max_length=REGIONS_MAX)]
    pagemap: bool = False


class Enable(Message, frozen=True, tag="enable"):
    """Stage every page that is in memory; the guests are suspended meanwhile."""


class Zapped(Message, frozen=True, tag="zapped"):
    """A member has zapped its page tables since the last enable."""

    member: MemberNumber


class Trim(Message, frozen=True, tag="trim"):
    """Drop staged pages that are zero, or equal to their copy in the file."""


class SwapOut(Message, frozen=True, tag="out"):
    """Move what is staged to the compressed tier or to the file."""


class Disable(Message, frozen=True, tag="disable"):
    """Swap everything in, and truncate the file: at once, or in steps."""

    slow_file_cleanup: bool = False


class Discard(Message, frozen=True, tag="discard"):
    """Make pages zero, wherever they are, and give their memory back; answered when it is done."""

    first: Count
    count: Annotated[int, Meta(gt=0, le=DISCARD_MAX)]


class Hold(Message, frozen=True, tag="hold"):
    """Move no page until GoOn: a move that is under way waits, and no fault is half served when this is answered.

    Enable, which moves pages at once, is not asked for meanwhile; Discard is, of what cannot be read.
    """


class Stage(Message, frozen=True, tag="stage"):
    """Between Hold and GoOn: stage every page that is in memory, as Enable does, and call it no move.

    The guests may run; those pages count as unmapped only when they were suspended.  Without `pages` none is staged: faults
    on what is unmapped are served from then on.
    """

    pages: bool = True


class GoOn(Message, frozen=True, tag="go-on"):
    """Let moves go on after Hold; answered when no fault is half served that began before.

    `unstage`: staged pages are in memory again; `release`: and swap is disabled if nothing is out.
    """

    unstage: bool = False
    release: bool = False


class GetStatus(Message, frozen=True, tag="status"):
    """Return the status."""


class Collect(Message, frozen=True, tag="collect"):
    """Remove the dynamic members that are dead."""


class Exit(Message, frozen=True, tag="exit"):
    """Swap everything in and end.

    `discard`: end at once, without swapping in; no process will access guest memory any more.
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
    | Discard
    | Hold
    | Stage
    | GoOn
    | GetStatus
    | Collect
    | Exit
)


class Done(Message, frozen=True, tag="done"):
    """It is done or, for a move, has begun; `pages` where pages were counted."""

    pages: Count = 0


class Refused(Message, frozen=True, tag="refused"):
    """It is not done, not even in part; `text` is one line.

    `again`: it may work later: memory or descriptors were short.
    """

    text: Text
    again: bool = False


class Failed(Message, frozen=True, tag="failed"):
    """The monitor has had an internal error, and ends; `text` is one line.

    It is the answer to a request, or has `NO_NUMBER` where none was under way.
    """

    text: Text


class Collected(Message, frozen=True, tag="collected"):
    """The members that were dead and are removed."""

    members: tuple[MemberNumber, ...]


class Transition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The move of pages that is under way, or the last one: its pages and its duration."""

    pages: Count = 0
    ms: Count = 0


class Moved(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A move that has ended: `move` is enable, trim, out or disable; a monitor counts them by `number`.

    `state` is the one after it; `error` is empty, or why it did not come to its end.
    """

    number: Count
    move: Word
    state: State
    pages: Count = 0
    ms: Count = 0
    error: Text = ""


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Pages by state (see `hfsched.swap.pages.store.Counts`); bytes of the compressed tier."""

    pages: Count = 0
    resident: Count = 0
    staged: Count = 0
    busy: Count = 0
    file: Count = 0
    compressed: Count = 0
    zero: Count = 0
    stored: Count = 0
    stale: Count = 0
    tier_used: Count = 0
    tier_size: Count = 0
    events: Annotated[dict[Word, Count], Meta(max_length=EVENTS_MAX)] = {}


class Status(Message, frozen=True, tag="state"):
    """The status; `error` is why the last move was aborted, else empty; `moved` are the last moves."""

    state: State
    transition: Transition = Transition()
    metrics: Metrics = Metrics()
    members: Count = 0
    error: Text = ""
    moved: Annotated[tuple[Moved, ...], Meta(max_length=MOVED_MAX)] = ()


MonitorAnswer: TypeAlias = Done | Refused | Failed | Collected | Status

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(MonitorRequest)
_answers: msgspec.msgpack.Decoder[MonitorAnswer] = msgspec.msgpack.Decoder(MonitorAnswer)
_T = TypeVar("_T")


def encode(number: int, message: Message) -> bytes:
    """Return the bytes of a message; `number` is below 2**63."""
    return number.to_bytes(_HEAD, "little") + _encoder.encode(message)


def number_of(data: bytes) -> int:
    """Return a message's number, `NO_NUMBER` where it has none."""
    number = int.from_bytes(data[:_HEAD], "little")
    return number if len(data) >= _HEAD and number < _WORD else NO_NUMBER


def decode_request(data: bytes) -> tuple[int, MonitorRequest]:
    """Return a request and its number; raises ProtocolError for any other bytes."""
    return decode("request", _requests, data)


def decode_answer(data: bytes) -> tuple[int, MonitorAnswer]:
    """Return an answer and its number; raises ProtocolError for any other bytes."""
    return decode("answer", _answers, data)


def decode(what: str, decoder: msgspec.msgpack.Decoder[_T], data: bytes) -> tuple[int, _T]:
    """Return a message and its number; raises ProtocolError for any other bytes."""
    try:
        return number_of(data), decoder.decode(data[_HEAD:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ProtocolError(reply_text(f"invalid {what}: {exc}")) from None


def name_of(request: Message) -> str:
    """Return the tag of a message."""
    return str(type(request).__struct_config__.tag)


def reply_text(text: str) -> str:
    """Return a text as an answer may have it: one line, printable, at most TEXT_MAX characters."""
    return one_line(text, TEXT_MAX)
