"""The messages of a machine's control socket: typed requests in groups, each with one reply.

The socket is AF_UNIX, SOCK_SEQPACKET; one packet is one message in JSON.  A request has at most
`REQUEST_MAX` bytes and names the version of the protocol, a group and a command of that group; a reply
has at most `ANSWER_MAX` bytes and the field ``is``::

    {"version": 1, "group": "swap", "command": "enable", "vm": "trusty", "within_ms": 10000}
        {"is": "done", "pages": 2078}
    {"version": 1, "group": "machine", "command": "status"}
        {"is": "machine", "name": "demo", "vms": [{"name": "trusty", "vcpus": ["..."], "abort": null}], ...}
    {"version": 1, "group": "machine", "command": "suspend"}
        {"is": "suspension", "name": "demo", "changed": true, "suspended_by": ["user"]}
    {"version": 1, "group": "events", "command": "subscribe"}
        {"is": "subscribed"}, and from then on events (`hfsched.control.events`), between other replies
    a request that is not valid, or that the machine cannot do
        {"is": "refused", "code": "group", "text": "unknown group 'disk': there are machine, swap, snapshot, guest, events"}

Requests of one connection are answered one after another.  `within_ms` is the time that a request may
take, after which it is refused.  A refused request has had no effect; but what the monitor
"did not answer in time" may still be done later.  `docs/control.md` has all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import Meta

from hfsched.control.guest_messages import GuestAnswer, GuestRequest
from hfsched.control.message import VERSION, WITHIN_MS, AnswerBase, Count, Name, RequestBase
from hfsched.control.snapshot_messages import SnapshotAnswer, SnapshotRequest
from hfsched.errors import HfschedError
from hfsched.swap.protocol.messages import TEXT_MAX, Status
from hfsched.swap.report.footprint import Memory
from hfsched.text import one_line
from hfsched.vmm.report import SwapFault, VmState

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ANSWER_MAX",
    "CELLS_MAX",
    "CONTROL",
    "GROUPS",
    "REQUEST_MAX",
    "VERSION",
    "WITHIN_MS",
    "Answer",
    "CommandError",
    "Done",
    "EventsRequest",
    "EventsSubscribe",
    "MachineReport",
    "MachineRequest",
    "MachineResume",
    "MachineStatus",
    "MachineSuspend",
    "Refused",
    "Request",
    "Subscribed",
    "Suspension",
    "SwapDisable",
    "SwapDiscard",
    "SwapEnable",
    "SwapFaults",
    "SwapLog",
    "SwapOut",
    "SwapReport",
    "SwapRequest",
    "SwapStatus",
    "SwapTrim",
    "decode_answer",
    "decode_request",
    "encode",
]

CONTROL = "control"  # the socket's name in a machine's directory
REQUEST_MAX = 1 << 14  # bytes
ANSWER_MAX = 1 << 16  # bytes
CELLS_MAX = (
    48 << 10
)  # characters of all pictures in an answer; the rest of it needs less than 16 KiB
FAULTS_MAX = 200  # in an answer: each takes at most 300 bytes

_T = TypeVar("_T")


class CommandError(HfschedError):
    """A request that is refused, or bytes that are not a message; the text is one line.

    `code` is "bad-request" (not a valid message), "version", "group" or "command" (unknown here),
    "no-group" (this machine lacks the group), "no-vm", "no-service" (its guest does not offer that), "too-many" (clients), "silent" (no request came), "ending" (the machine is
    about to end) or "failed" (valid, and it could not be done).
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


# Requests.


class _MachineRequest(RequestBase, frozen=True):
    group: Literal["machine"] = "machine"


class MachineStatus(_MachineRequest, frozen=True, tag="status"):
    """Return a `MachineReport`."""


class MachineSuspend(_MachineRequest, frozen=True, tag="suspend"):
    """Keep the machine suspended, whatever becomes of this connection; return a `Suspension`."""


class MachineResume(_MachineRequest, frozen=True, tag="resume"):
    """End what `MachineSuspend` began, on whatever connection; return a `Suspension`."""


class _SwapRequest(RequestBase, frozen=True):
    """`vm`: the VM that it is about; None for all of the machine."""

    group: Literal["swap"] = "swap"
    vm: Name | None = None


class SwapEnable(_SwapRequest, frozen=True, tag="enable"):
    """Stage the machine's memory."""


class SwapTrim(_SwapRequest, frozen=True, tag="trim"):
    """Begin to drop what need not be written."""


class SwapOut(_SwapRequest, frozen=True, tag="out"):
    """Begin to move what is staged out of memory."""


class SwapDisable(_SwapRequest, frozen=True, tag="disable"):
    """Begin to bring everything back."""

    slow_file_cleanup: bool = False


class SwapDiscard(_SwapRequest, frozen=True, kw_only=True, tag="discard"):
    """Make a range of a VM's memory zero, and give it back; `vm` must be given."""

    address: Annotated[int, Meta(ge=0, lt=1 << 52)]  # guest-physical
    size: Annotated[int, Meta(gt=0, lt=1 << 52)]  # bytes; both are multiples of 4096


class SwapLog(_SwapRequest, frozen=True, tag="log"):
    """Return `SwapFaults`, of this VM or of all: the faults from number `since` on."""

    since: Count = 0


class SwapStatus(_SwapRequest, frozen=True, tag="status"):
    """Return a `SwapReport`; `fine`: with small cells where the memory is small."""

    fine: bool = False


class _EventsRequest(RequestBase, frozen=True):
    group: Literal["events"] = "events"


class EventsSubscribe(_EventsRequest, frozen=True, tag="subscribe"):
    """Send the machine's events on this connection until the machine ends; once is enough."""


MachineRequest: TypeAlias = MachineStatus | MachineSuspend | MachineResume
SwapRequest: TypeAlias = (
    SwapEnable | SwapTrim | SwapOut | SwapDisable | SwapDiscard | SwapLog | SwapStatus
)
EventsRequest: TypeAlias = EventsSubscribe
Request: TypeAlias = MachineRequest | SwapRequest | SnapshotRequest | GuestRequest | EventsRequest

# By name; `hfsched.control.handlers` carries out what does not concern the connection.
GROUPS: dict[str, Any] = {
    "machine": MachineRequest,
    "swap": SwapRequest,
    "snapshot": SnapshotRequest,
    "guest": GuestRequest,
    "events": EventsRequest,
}


class _Envelope(msgspec.Struct, frozen=True):
    version: int
    group: str
    command: str


# Replies.


class Done(AnswerBase, frozen=True, tag="done"):
    """It is done or, for what takes long, has begun; `pages` where pages were counted."""

    pages: Count = 0


class Refused(AnswerBase, frozen=True, tag="refused"):
    """It is not done; `text` is one line, `code` is as `CommandError` has it."""

    text: Annotated[str, Meta(max_length=500)]
    code: Name = "failed"


class Subscribed(AnswerBase, frozen=True, tag="subscribed"):
    """Events follow: first those that describe the present state, then each as it happens."""


class MachineReport(AnswerBase, frozen=True, tag="machine"):
    """A machine: its VMs, the holders that keep it suspended, the groups of commands it answers.

    `versions` has "hfsched" and "protocol".
    """

    name: str
    versions: dict[Name, str]
    groups: tuple[Name, ...]
    suspended_by: tuple[str, ...]
    vms: tuple[VmState, ...]


class Suspension(AnswerBase, frozen=True, tag="suspension"):
    """The machine is suspended, or resumed, by the user, who has just `changed` that, or had before.

    It runs when `suspended_by`, the names of all holders, is empty.
    """

    name: str
    changed: bool
    suspended_by: tuple[str, ...]


class SwapReport(AnswerBase, frozen=True, tag="swap"):
    """The state of swap, the RAM it takes, and where each VM's memory is (`hfsched.swap.report.picture`).

    `empty`: how many of the resident pages take no memory: never touched, or zero and given back.
    `cell`: bytes that a character of a picture stands for: more than 2 MiB for very much memory.
    """

    status: Status
    memory: Memory
    empty: Count
    cell: Annotated[int, Meta(ge=4096)]
    pictures: dict[Name, str]


class SwapFaults(AnswerBase, frozen=True, tag="faults"):
    """Some of the faults in the log, oldest first; ask again with `since` = `next` until there are none."""

    faults: Annotated[tuple[SwapFault, ...], Meta(max_length=FAULTS_MAX)]
    next: Count


Answer: TypeAlias = (
    Done
    | Refused
    | Subscribed
    | MachineReport
    | Suspension
    | SwapReport
    | SwapFaults
    | SnapshotAnswer
    | GuestAnswer
)


# Encoding.


def _commands(requests: Any) -> list[str]:
    types = get_args(requests) or (requests,)
    return [str(each.__struct_config__.tag) for each in types]


_commands_of = {name: _commands(requests) for name, requests in GROUPS.items()}
_requests: dict[str, msgspec.json.Decoder[Request]] = {
    name: msgspec.json.Decoder(requests) for name, requests in GROUPS.items()
}
_envelopes: msgspec.json.Decoder[_Envelope] = msgspec.json.Decoder(_Envelope)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """Return a message as a packet."""
    return msgspec.json.encode(message)


def decode_request(data: bytes) -> Request:
    """Return a request; raises CommandError for any other bytes.

    The version is checked here and nowhere else: a later one that still answers requests of this one
    converts them here.
    """
    if len(data) > REQUEST_MAX:
        raise CommandError("bad-request", f"a request of more than {REQUEST_MAX} bytes")
    envelope = _decode("request", _envelopes, data)
    if envelope.version != VERSION:
        text = f"unknown version {envelope.version}: this machine speaks version {VERSION}"
        raise CommandError("version", text)
    group = envelope.group
    if group not in GROUPS:
        raise CommandError("group", _unknown("group", group, "", GROUPS))
    known = _commands_of[group]
    if envelope.command not in known:
        text = _unknown("command", envelope.command, f" of group {group}", known)
        raise CommandError("command", text)
    return _decode("request", _requests[group], data)


def _unknown(what: str, name: str, where: str, known: Iterable[str]) -> str:
    return f"unknown {what} {one_line(name, 64)!r}{where}: there are {', '.join(known)}"


def decode_answer(data: bytes) -> Answer:
    """Return a reply; raises CommandError for any other bytes."""
    if len(data) > ANSWER_MAX:
        raise CommandError("bad-reply", f"a reply of more than {ANSWER_MAX} bytes")
    return _decode("reply", _answers, data)


def _decode(what: str, decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        text = one_line(f"not a valid {what}: {exc}", TEXT_MAX)
        raise CommandError(f"bad-{what}", text) from None
