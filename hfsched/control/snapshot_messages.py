"""The messages of the group ``snapshot``; `hfsched.control.commands` has how they are sent.

A client makes a layer's directory, and sends the descriptors of its two empty files, ``pages`` and ``index``,
with `SnapshotTake`.  The reply comes when the machine has written both.  The client then has them on the disk,
gives the directory its name, and says so by `SnapshotConfirm`, on the same connection::

    {"version": 1, "group": "snapshot", "command": "take", "name": "monday", "created": 1760000000000000000}, and two descriptors
        {"is": "written", "machine": "demo", "hash": "c7001404...", "layer": "full", "paused_ns": 12000000, "notices": []}
    {"version": 1, "group": "snapshot", "command": "confirm"}
        {"is": "done", "pages": 0}

A client that leaves before has cancelled it.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from hfsched.control.message import AnswerBase, Count, Name, RequestBase

__all__ = [
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


class _SnapshotRequest(RequestBase, frozen=True):
    group: Literal["snapshot"] = "snapshot"


class SnapshotTake(_SnapshotRequest, frozen=True, kw_only=True, tag="take"):
    """Write a snapshot into the files whose descriptors come along; return `SnapshotWritten`.

    `within_ms` is for the suspension, not for the writing.  `name` is the directory's.  With `hold` the
    machine stays suspended until `SnapshotConfirm`, or until the client leaves.  With `progress`,
    `SnapshotProgress` come before the reply.
    """

    name: _LayerName
    created: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]  # ns since 1970, by the client's clock
    codec: Literal["lz4", "zstd", "raw"] = "lz4"
    hold: bool = False
    progress: bool = False


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
    """Both files of a `machine` are written: the hash of the index, how long it was suspended so far."""

    machine: str
    hash: Annotated[str, Meta(min_length=64, max_length=64)]
    layer: Name
    paused_ns: Count
    notices: tuple[str, ...] = ()


class SnapshotReport(AnswerBase, frozen=True, tag="snapshot"):
    """The snapshot that is under way: `name` None without one; `written`: it waits for its client's word."""

    name: _LayerName | None
    written: bool = False
    done: Count = 0
    total: Count = 0


SnapshotRequest: TypeAlias = SnapshotTake | SnapshotConfirm | SnapshotCancel | SnapshotStatus
SnapshotAnswer: TypeAlias = SnapshotProgress | SnapshotWritten | SnapshotReport
