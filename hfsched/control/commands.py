"""What is said on a machine's control socket: typed requests, each with one answer.

The socket is AF_UNIX, SOCK_SEQPACKET; one packet is one message in JSON.  A request of at most
`REQUEST_MAX` bytes has the field ``do``, an answer of at most `ANSWER_MAX` bytes the field ``is``::

    {"do": "swap-enable", "vm": "trusty", "within_ms": 10000}
        {"is": "done", "pages": 2078}
    {"do": "swap-status", "vm": "trusty"}
        {"is": "swap", "status": {"is": "state", "state": "pending", ...},
         "memory": {"guests": 8511488, ...}, "empty": 2018, "cell": 2097152, "pictures": {"trusty": "ss"}}
    anything else, or no luck
        {"is": "refused", "text": "out: nothing is staged: run `hfsched swap enable` first"}

Requests of one connection are answered one after another; `within_ms` is until when a request may
take, after which it is refused.  Nothing of what is refused was done; but what the monitor
"did not answer in time" may be done later all the same.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from hfsched.errors import HfschedError
from hfsched.swap.protocol.messages import TEXT_MAX, Status
from hfsched.swap.report.footprint import Memory
from hfsched.text import one_line

__all__ = [
    "ANSWER_MAX",
    "CELLS_MAX",
    "CONTROL",
    "REQUEST_MAX",
    "WITHIN_MS",
    "Answer",
    "CommandError",
    "Done",
    "Refused",
    "Request",
    "SwapDisable",
    "SwapEnable",
    "SwapOut",
    "SwapReport",
    "SwapStatus",
    "SwapTrim",
    "decode_answer",
    "decode_request",
    "encode",
]

CONTROL = "control"  # the socket's name in a machine's place
REQUEST_MAX = 1024  # bytes
ANSWER_MAX = 1 << 16  # bytes
CELLS_MAX = (
    48 << 10
)  # characters of all pictures in an answer; the rest of it needs less than 16 KiB
WITHIN_MS = 20_000
_WITHIN_MAX = 600_000

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
_T = TypeVar("_T")


class CommandError(HfschedError):
    """Bytes from the other side that are no message; the text is one line."""


class _Request(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", kw_only=True
):
    """`vm`: the VM that it is about; None for all of the machine."""

    vm: Name | None = None
    within_ms: Annotated[int, Meta(ge=1, le=_WITHIN_MAX)] = WITHIN_MS


class SwapEnable(_Request, frozen=True, tag="swap-enable"):
    """Stage the machine's memory."""


class SwapTrim(_Request, frozen=True, tag="swap-trim"):
    """Begin to drop what need not be written."""


class SwapOut(_Request, frozen=True, tag="swap-out"):
    """Begin to move what is staged out of memory."""


class SwapDisable(_Request, frozen=True, tag="swap-disable"):
    """Begin to bring everything back."""

    slow_file_cleanup: bool = False


class SwapStatus(_Request, frozen=True, tag="swap-status"):
    """Say how things are; `fine`: with small cells where the memory is small."""

    fine: bool = False


Request: TypeAlias = SwapEnable | SwapTrim | SwapOut | SwapDisable | SwapStatus


class _Answer(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is", kw_only=True
):
    pass


class Done(_Answer, frozen=True, tag="done"):
    """It is done or, for what takes long, has begun; `pages` where pages were counted."""

    pages: Count = 0


class Refused(_Answer, frozen=True, tag="refused"):
    """It is not done; `text` is one line."""

    text: Annotated[str, Meta(max_length=500)]


class SwapReport(_Answer, frozen=True, tag="swap"):
    """How swap is, what RAM it takes, and where each VM's memory is (`hfsched.swap.report.picture`).

    `empty`: how many of the resident pages take no memory: never touched, or zero and given back.
    `cell`: bytes that a character of a picture stands for: more than 2 MiB for very much memory.
    """

    status: Status
    memory: Memory
    empty: Count
    cell: Annotated[int, Meta(ge=4096)]
    pictures: dict[Name, str]


Answer: TypeAlias = Done | Refused | SwapReport

_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """Return a message as a packet."""
    return msgspec.json.encode(message)


def decode_request(data: bytes) -> Request:
    """Return a request; raises CommandError, whatever `data` is."""
    if len(data) > REQUEST_MAX:
        raise CommandError(f"a request of more than {REQUEST_MAX} bytes")
    return _decode("request", _requests, data)


def decode_answer(data: bytes) -> Answer:
    """Return an answer; raises CommandError, whatever `data` is."""
    if len(data) > ANSWER_MAX:
        raise CommandError(f"an answer of more than {ANSWER_MAX} bytes")
    return _decode("answer", _answers, data)


def _decode(what: str, decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise CommandError(one_line(f"no {what}: {exc}", TEXT_MAX)) from None
