"""The messages of the group ``snapshot``; `hfsched.control.commands` has how they are sent.

A client makes a layer's directory, and sends the descriptors of its two empty files, ``pages`` and ``index``,
with `SnapshotTake`.  The reply comes when the machine has written both.  The client then has them on the disk,
gives the directory its name, and says so by `SnapshotConfirm`, on the same connection::

    {"version": 1, "group": "snapshot", "command": "take", "name": "monday", "created": 1760000000000000000}, and two descriptors
        {"is": "written", "machine": "demo", "hash": "c7001404...", "on": null, "paused_ns": 12000000, "notices": []}
    {"version": 1, "group": "snapshot", "command": "confirm"}
        {"is": "done", "pages": 0}

A client that leaves before has cancelled it.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from hfsched.control.message import AnswerBase, Count, RequestBase

__all__ = [
    "Layer",
    "SnapshotAnswer",
    "SnapshotCancel",
    "SnapshotConfirm",
    "SnapshotProgress",
    "SnapshotReport",
    "SnapshotRequest",
    "SnapshotStatus",
    "SnapshotTake",
    "SnapshotWritten",
]

_LayerName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
_Hash: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Layer(Struct, frozen=True, forbid_unknown_fields=True):
    """A snapshot: its directory's name, and the hash of its index, in hexadecimal."""

    name: _LayerName
    hash: _Hash


class _SnapshotRequest(RequestBase, frozen=True):
    group: Literal["snapshot"] = "snapshot"


class SnapshotTake(_SnapshotRequest, frozen=True, kw_only=True, tag="take"):
    """Write a snapshot into the files whose descriptors come along; return `SnapshotWritten`.

    `within_ms` is for the suspension, not for the writing.  `name` is the directory's, and `shown` what errors
    and notices are to call it, such as its path; empty: its name.  With `hold` the
    machine stays suspended until `SnapshotConfirm`, or until the client leaves.  With `progress`,
    `SnapshotProgress` come before the reply.  With `incremental` only what has changed since `parent` is
    written, which must be the `base` of a `SnapshotReport`; all is, with a notice, where there is none or
    the changes are not known.  With `live` the machine is suspended only for the instant that memory is of, and
    memory is written when it runs again; where that cannot be done, a notice says why.  It does not go with `hold`.
    """

    name: _LayerName
    created: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]  # ns since 1970, by the client's clock
    codec: Literal["lz4", "zstd", "raw"] = "lz4"
    hold: bool = False
    progress: bool = False
    incremental: bool = False
    parent: Layer | None = None
    shown: Annotated[str, Meta(max_length=4096)] = ""
    live: bool = False


class SnapshotConfirm(_SnapshotRequest, frozen=True, tag="confirm"):
    """The snapshot of this connection is on the disk; with `end` the machine, held suspended, ends by it."""

    end: bool = False


class SnapshotCancel(_SnapshotRequest, frozen=True, tag="cancel"):
    """Cancel the snapshot that is under way, on whatever connection; return `SnapshotReport` of it."""


class SnapshotStatus(_SnapshotRequest, frozen=True, tag="status"):
    """Return a `SnapshotReport`."""


class SnapshotProgress(AnswerBase, frozen=True, tag="progress"):
    """So many bytes of guest memory, of all there are, have been read.  The reply is still to come."""

    done: Count
    total: Count


class SnapshotWritten(AnswerBase, frozen=True, tag="written"):
    """Both files of a `machine` are written: the hash of the index, how long it was suspended so far.

    `on`: the snapshot that it is based on, None for a full one.
    """

    machine: str
    hash: _Hash
    on: Layer | None
    paused_ns: Count
    notices: tuple[str, ...] = ()


class SnapshotReport(AnswerBase, frozen=True, tag="snapshot"):
    """The snapshot that is under way: `name` None without one; `written`: it waits for its client's word.

    `base`: the newest one, since which it is known what has changed.
    """

    name: _LayerName | None
    written: bool = False
    done: Count = 0
    total: Count = 0
    base: Layer | None = None


SnapshotRequest: TypeAlias = SnapshotTake | SnapshotConfirm | SnapshotCancel | SnapshotStatus
SnapshotAnswer: TypeAlias = SnapshotProgress | SnapshotWritten | SnapshotReport
