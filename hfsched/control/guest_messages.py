"""The group `guest` of a control socket: requests to the utility services of a VM's guest.

Values and data are bytes, in JSON base64.  A file is copied by `copy-begin`, then `copy-data` and `copy-end` on
the same connection; when that ends before, the copy is cancelled on both sides.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from hfsched.control.message import AnswerBase, Name, RequestBase
from hfsched.services.bodies import DATA_MAX, KEY_MAX, NAME_MAX, VALUE_MAX

__all__ = [
    "COPY_MAX",
    "CopyBegin",
    "CopyData",
    "CopyEnd",
    "CopyRequest",
    "GuestAnswer",
    "GuestPing",
    "GuestRequest",
    "GuestShutdown",
    "Keys",
    "KvpDelete",
    "KvpGet",
    "KvpList",
    "KvpSet",
    "Pong",
    "Value",
]

COPY_MAX = 2 * DATA_MAX  # bytes of a file in a request, which guests get in messages

Key: TypeAlias = Annotated[str, Meta(min_length=1, max_length=KEY_MAX)]


class _GuestRequest(RequestBase, frozen=True):
    """`vm`: the VM that it is about; None: the only one."""

    group: Literal["guest"] = "guest"
    vm: Name | None = None


class _KvpRequest(_GuestRequest, frozen=True):
    """`host`: of the keys that the host keeps for the guest, not of the guest's own."""

    host: bool = False


class KvpGet(_KvpRequest, frozen=True, kw_only=True, tag="kvp-get"):
    """Return the `Value` of a key."""

    key: Key


class KvpSet(_KvpRequest, frozen=True, kw_only=True, tag="kvp-set"):
    """Set a key."""

    key: Key
    value: Annotated[bytes, Meta(max_length=VALUE_MAX)]


class KvpDelete(_KvpRequest, frozen=True, kw_only=True, tag="kvp-delete"):
    """Delete a key."""

    key: Key


class KvpList(_KvpRequest, frozen=True, tag="kvp-list"):
    """Return `Keys`: those after this one, in their order; ask again after the last until there are none."""

    after: Annotated[str, Meta(max_length=KEY_MAX)] = ""


class GuestPing(_GuestRequest, frozen=True, tag="ping"):
    """Return a `Pong` once the guest has answered."""


class GuestShutdown(_GuestRequest, frozen=True, tag="shutdown"):
    """Have the guest end orderly; it is done when the guest has agreed."""

    reboot: bool = False


class CopyBegin(_GuestRequest, frozen=True, kw_only=True, tag="copy-begin"):
    """Begin to copy a file of `size` bytes into the guest."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_MAX)]
    size: Annotated[int, Meta(ge=0, lt=1 << 62)]
    mode: Annotated[int, Meta(ge=0, le=0o7777)] = 0o644


class CopyData(_GuestRequest, frozen=True, kw_only=True, tag="copy-data"):
    """Send the bytes that come next."""

    data: Annotated[bytes, Meta(min_length=1, max_length=COPY_MAX)]


class CopyEnd(_GuestRequest, frozen=True, tag="copy-end"):
    """Have the guest check the whole, and give it its name."""


CopyRequest: TypeAlias = CopyBegin | CopyData | CopyEnd
GuestRequest: TypeAlias = (
    KvpGet
    | KvpSet
    | KvpDelete
    | KvpList
    | GuestPing
    | GuestShutdown
    | CopyBegin
    | CopyData
    | CopyEnd
)


class Value(AnswerBase, frozen=True, kw_only=True, tag="value"):
    """A key's value."""

    value: bytes


class Keys(AnswerBase, frozen=True, kw_only=True, tag="keys"):
    """Some keys."""

    keys: tuple[str, ...]


class Pong(AnswerBase, frozen=True, kw_only=True, tag="pong"):
    """The guest has answered, after so many ns."""

    ns: int


GuestAnswer: TypeAlias = Value | Keys | Pong
