"""The messages of a machine's socket `ports`.

The socket is AF_UNIX, SOCK_SEQPACKET: one packet is one message.  The client sends first, in JSON
of at most `HELLO_MAX` bytes; the server answers in JSON of at most `ANSWER_MAX` bytes::

    {"v": 1, "vm": "trusty", "port": 1, "local": null, "unread_ms": null}    connect to port 1 of that VM
        {"ok": true, "machine": "m12", "vm": "trusty", "host_port": 4294967296, "payload_max": 4080}
    {"v": 1, "ask": "trusty"}                                 is there such a VM?
        {"ok": true, "machine": "m12", "has": true, "vms": ["trusty"]}        and the server closes
    a first packet that is not valid, or a request that is refused
        {"error": "no VM 'x' in machine m12: ...", "code": "no-vm"}      and the server closes

`port` is any u64, or a name that the machine's manifest has for one; `vms` are at most `VMS_MAX` names;
`local` asks for a host port below 2**32 instead of a new one; `unread_ms` is after
which time the server closes the connection while it cannot send, for nothing is read (at most a day;
null or absent: the server's default, also with a server that does not know it).  After the first
form, each packet is a type byte and the rest, so that an empty message differs from the end of
file: `DATA` (both ways) and a payload; `REFUSED` (from the server) and why it did not deliver a
message, after which the connection stays open; `CLOSING` (from the server) and why the end of file
follows.  Texts are UTF-8, at most `TEXT_MAX` characters, and may come from a guest.

A client's end of file ends its sending; everything it sent before is delivered.

Both sides get the peer's user from the kernel, and accept the same user and root only.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from hfsched.errors import UserError
from hfsched.text import one_line

__all__ = [
    "ANSWER_MAX",
    "CLOSING",
    "CONTROL_SOCKET",
    "DATA",
    "HELLO_MAX",
    "LOCAL_PORTS",
    "PACKET_MAX",
    "REFUSED",
    "SEND_BUFFER",
    "TEXT_MAX",
    "UNREAD_MS_MAX",
    "VERSION",
    "VMS_MAX",
    "Ask",
    "Hello",
    "RefusedError",
    "Welcome",
    "check_peer",
    "closing",
    "encode",
    "error",
    "parse_answer",
    "parse_hello",
    "parse_welcome",
    "text_of",
]

VERSION = 1
HELLO_MAX = 1024  # bytes
ANSWER_MAX = 8192  # bytes; a text of TEXT_MAX characters takes at most 12 each
VMS_MAX = 100  # names in an answer
TEXT_MAX = 500  # characters
PACKET_MAX = 1 << 16  # bytes; more than any mailbox holds, and any text
UNREAD_MS_MAX = 86_400_000
LOCAL_PORTS = 1 << 32  # host ports below this are chosen by users
SEND_BUFFER = 16 << 10  # bytes; the kernel doubles it: about 4 messages of 4 KiB, 40 short ones

DATA = b"D"
REFUSED = b"E"
CLOSING = b"C"

CONTROL_SOCKET = (
    "a control socket, for `hfsched swap`, `suspend` and `events`: programs connect by the machine's name,"
    " or to the socket `ports` in its directory"
)
_U64 = 1 << 64


class RefusedError(UserError):
    """The other side refused; `code` is one of these words.

    "bad-hello", "version", "silent", "peer", "too-many", "no-vm", "no-port", "vm-ended", "port-in-use",
    "stopping"; "message" for one message of a connection that stays open; "bad-answer" for an
    answer that is not valid.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Hello(NamedTuple):
    """Connect to `port` (a number or a name) of `vm`, from host port `local` (None: a new one).

    What cannot be sent for `unread_ms`, None: for the server's default, ends the connection.
    """

    vm: str
    port: int | str
    local: int | None
    unread_ms: int | None = None

    def encode(self) -> bytes:
        """Return the packet."""
        return encode({"v": VERSION, **self._asdict()})


class Ask(NamedTuple):
    """Ask whether there is a VM of that name."""

    vm: str

    def encode(self) -> bytes:
        """Return the packet."""
        return encode({"v": VERSION, "ask": self.vm})


class Welcome(NamedTuple):
    """What a client is connected to; `payload_max` is in bytes, `host_port` -1 without framing."""

    machine: str
    vm: str
    host_port: int
    payload_max: int

    def encode(self) -> bytes:
        """Return the packet."""
        return encode({"ok": True, **self._asdict()})


def encode(value: dict[str, Any]) -> bytes:
    """Return an object as a packet."""
    return json.dumps(value).encode()


def error(code: str, text: str) -> bytes:
    """Return the answer to a request that is refused."""
    return encode({"error": one_line(text, TEXT_MAX), "code": code})


def closing(reason: str) -> bytes:
    """Return the packet before the end of file."""
    return CLOSING + one_line(reason, TEXT_MAX).encode()


def text_of(packet: bytes) -> str:
    """Return the text of a `REFUSED` or `CLOSING` packet."""
    return one_line(packet[1:].decode(errors="replace"), TEXT_MAX)


def _object(code: str, data: bytes, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise RefusedError(code, f"a first packet of more than {limit} bytes")
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise RefusedError(code, "the first packet is not JSON") from None
    if not isinstance(value, dict):
        raise RefusedError(code, "the first packet is not a JSON object")
    return value


def _name(value: dict[str, Any], key: str) -> str:
    name = value.get(key)
    if not isinstance(name, str) or not 1 <= len(name) <= 64:
        raise RefusedError("bad-hello", f"{key!r} must be a name of 1 to 64 characters")
    return name


def _number(value: dict[str, Any], key: str, limit: int) -> int:
    number = value.get(key)
    if type(number) is not int or not 0 <= number < limit:  # True is an int, too
        raise RefusedError("bad-hello", f"{key!r} must be a number from 0 to {limit - 1}")
    return number


def _optional(value: dict[str, Any], key: str, limit: int) -> int | None:
    return None if value.get(key) is None else _number(value, key, limit)


def parse_hello(data: bytes) -> Hello | Ask:
    """Parse a client's first packet, any bytes; raises RefusedError."""
    value = _object("bad-hello", data, HELLO_MAX)
    version = value.get("v")
    if type(version) is not int or version != VERSION:
        raise RefusedError("version", f"this machine speaks version {VERSION} of the protocol")
    if "ask" in value:
        return Ask(_name(value, "ask"))
    local = _optional(value, "local", LOCAL_PORTS)
    unread_ms = _optional(value, "unread_ms", UNREAD_MS_MAX + 1)
    if unread_ms == 0:
        raise RefusedError("bad-hello", f"'unread_ms' must be a number from 1 to {UNREAD_MS_MAX}")
    named = isinstance(value.get("port"), str)
    port = _name(value, "port") if named else _number(value, "port", _U64)
    return Hello(_name(value, "vm"), port, local, unread_ms)


def parse_answer(data: bytes) -> dict[str, Any]:
    """Parse a server's answer to an `Ask`; raises RefusedError, also for what the server refused."""
    value = _object("bad-answer", data, ANSWER_MAX)
    if "error" in value:
        text, code = value["error"], value.get("code")
        raise RefusedError(one_line(str(code), TEXT_MAX), one_line(str(text), TEXT_MAX))
    if value.get("is") == "refused":
        raise RefusedError("bad-answer", CONTROL_SOCKET)
    if value.get("ok") is not True:
        raise RefusedError("bad-answer", "the machine's answer is neither ok nor an error")
    return value


def parse_welcome(data: bytes) -> Welcome:
    """Parse a server's answer to a `Hello`; raises RefusedError, also for what it refused."""
    value = parse_answer(data)
    machine, vm = value.get("machine"), value.get("vm")
    host_port, payload_max = value.get("host_port"), value.get("payload_max")
    if (
        not isinstance(machine, str)
        or not isinstance(vm, str)
        or type(host_port) is not int
        or type(payload_max) is not int
        or not 0 < payload_max < PACKET_MAX
    ):
        raise RefusedError("bad-answer", "the machine's answer is not valid")
    return Welcome(one_line(machine, TEXT_MAX), one_line(vm, TEXT_MAX), host_port, payload_max)


def check_peer(uid: int) -> None:
    """Raise RefusedError unless the other side is this user, or root.

    The kernel has the user that connected or, at the client, that listens.
    """
    if uid not in (os.geteuid(), 0):
        raise RefusedError("peer", f"the peer is user {uid}, not user {os.geteuid()} or root")
