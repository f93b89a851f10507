"""The client's side of a snapshot: makes the directory, has a running machine write it, gives it its name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

from msgspec import Struct

from hfsched.control import commands
from hfsched.control.command_client import Conversation, RefusedError
from hfsched.control.snapshot_messages import (
    Layer,
    SnapshotConfirm,
    SnapshotProgress,
    SnapshotReport,
    SnapshotStatus,
    SnapshotTake,
    SnapshotWritten,
)
from hfsched.errors import SnapshotError, UserError
from hfsched.snapshot.directory import CHAIN_MAX, Making, making_layer, name_of, open_chain
from hfsched.text import is_utf8, one_line, printable

__all__ = ["Wanted", "take"]


class Wanted(Struct, frozen=True, kw_only=True):
    """What is asked for.

    `end`: the machine ends by the snapshot; `incremental`: it has only what has changed since the one before,
    which must lie beside it; `live`: memory is written while the guests run, if that can be done; `within_ms` is
    for the suspension.
    """

    codec: Literal["lz4", "zstd", "raw"] = "lz4"
    end: bool = False
    incremental: bool = False
    live: bool = False
    within_ms: int = commands.WITHIN_MS


def take(
    path: Path,
    directory: str,
    wanted: Wanted,
    deadline: float,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    last: Callable[[], None] = lambda: None,
) -> SnapshotWritten:
    """Have the machine of a control socket write a snapshot, whole or not at all; return its reply.

    `deadline` (of `time.monotonic`) is for the suspension; what is written after it takes as long as it
    takes.  `last` is called when the layer has its name, before the machine is told so: what it raises is still in time.
    Raises UserError, TimeoutError; then, and after any other exception, nothing is left and the machine
    goes on, unless the error, or a note of the exception, says otherwise.
    """
    name = name_of(directory)
    if not is_utf8(name):
        raise UserError(f"{printable(directory)}: the name of a snapshot must be UTF-8")
    with Conversation(path, deadline) as machine:
        parent = _parent(machine, directory, deadline) if wanted.incremental else None
        with making_layer(directory) as making:
            request = SnapshotTake(
                name=name,
                created=time.time_ns(),
                codec=wanted.codec,
                hold=wanted.end,
                progress=True,
                incremental=wanted.incremental,
                parent=parent,
                live=wanted.live,
                within_ms=wanted.within_ms,
                shown=one_line(directory.rstrip("/"), 4096),
            )
            machine.send(request, making.files)
            written = _written(machine, path, deadline, progress)
            making.publish()
            last()
            _confirm(machine, directory, making, end=wanted.end)
    return written


def _confirm(machine: Conversation, directory: str, making: Making, *, end: bool) -> None:
    """Tell the machine that the layer is on the disk; raises as `take` does.

    A machine that was to end may have done so whatever the client knows of it: then its layer is all there
    is of it, and is removed only after a refusal.
    """
    making.kept = end
    try:
        machine.ask(SnapshotConfirm(end=end), _soon())
    except RefusedError:
        making.kept = False
        raise
    except BaseException as exc:
        if not end:
            raise  # the machine goes on, or has ended, without it
        kept = (
            f"{printable(directory)} is kept: the machine may have ended by it;"
            " remove it if the machine runs on"
        )
        if isinstance(exc, UserError | TimeoutError):
            raise UserError(f"{exc}: {kept}") from None
        exc.add_note(kept)
        raise
    making.kept = True


def _parent(machine: Conversation, directory: str, deadline: float) -> Layer | None:
    """Return what an incremental snapshot is based on, None if the machine has nothing.

    Raises UserError unless it lies beside the new one, with all that it is based on: without that nothing
    can be restored.
    """
    report = machine.ask(SnapshotStatus(), deadline)
    assert isinstance(report, SnapshotReport)
    base = report.base
    if base is not None:
        folder = os.path.dirname(directory.rstrip("/"))  # noqa: PTH120
        beside = os.path.join(folder, base.name)  # noqa: PTH118
        try:
            chain = open_chain(beside)
        except SnapshotError as exc:
            raise UserError(f"{exc}: take a full one") from None
        with closing(chain):
            try:
                chain.check_sizes()
            except SnapshotError as exc:
                raise UserError(f"{exc}: take a full one") from None
            newest = chain.newest.hash.hex()
            if newest != base.hash:
                raise UserError(
                    f"{beside}: not the machine's newest snapshot, {base.hash[:16]}: it has hash"
                    f" {newest[:16]}: take a full one"
                )
            if len(chain.layers) == CHAIN_MAX:
                raise UserError(
                    f"{beside}: a chain of {CHAIN_MAX} layers, the most there can be: take a full one"
                )
    return base


def _soon() -> float:
    return time.monotonic() + commands.WITHIN_MS / 1000


def _written(
    machine: Conversation,
    path: Path,
    deadline: float | None,
    progress: Callable[[int, int], None],
) -> SnapshotWritten:
    """Return the reply that ends the writing, and show how far it is."""
    while True:
        answer = machine.reply(deadline)
        if isinstance(answer, SnapshotWritten):
            return answer
        if not isinstance(answer, SnapshotProgress):
            raise UserError(
                f"{path}: not an answer to a snapshot's request: {type(answer).__name__}"
            )
        deadline = None  # the machine is suspended: from here on it writes
        progress(answer.done, answer.total)
