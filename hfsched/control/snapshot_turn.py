"""A client's snapshot, from its request to the client's word that the files are on the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hfsched.control import commands
from hfsched.control.commands import Done
from hfsched.control.listener import offer
from hfsched.control.snapshot_messages import (
    Layer,
    SnapshotConfirm,
    SnapshotProgress,
    SnapshotTake,
    SnapshotWritten,
)
from hfsched.errors import HfschedError
from hfsched.scheduler.suspension import SuspendError
from hfsched.vmm.attempt import Base, Wish

if TYPE_CHECKING:
    from hfsched.control.handlers import CommandMachine
    from hfsched.runtime.base import Connection, Event, Runtime
    from hfsched.vmm.attempt import Attempt

__all__ = ["FILES", "SnapshotTurn", "layer_of"]

FILES = 2  # descriptors that come with a request: of the files `pages` and `index`
_PARTS = 200  # of all memory: progress is told once for each
_NS_PER_MS = 1_000_000


def layer_of(base: Base | None) -> Layer | None:
    """Return a snapshot as messages have it."""
    return None if base is None else Layer(base.name, base.hash.hex())


class SnapshotTurn:
    """Takes the snapshots of one client, one after the other, on its task; `leave` when it has gone.

    One under way is cancelled when the client hangs up, and when `closing` is set.
    """

    def __init__(
        self, runtime: Runtime, machine: CommandMachine, connection: Connection, closing: Event
    ) -> None:
        self._runtime = runtime
        self._machine = machine
        self._connection = connection
        self._closing = closing
        self._attempt: Attempt | None = None  # written, and not confirmed

    def take(self, request: SnapshotTake, files: Sequence[int]) -> SnapshotWritten:
        """Write a snapshot into the files of these descriptors, which are the caller's; raises HfschedError."""
        if self._attempt is not None:
            raise HfschedError(f"{request.name}: confirm the one before")
        if request.live and request.hold:
            raise HfschedError(f"{request.name}: live and hold do not go together")
        if len(files) != FILES:
            raise HfschedError(f"{request.name}: {FILES} descriptors must come along: pages, index")
        for name, fd in zip(("pages", "index"), files, strict=True):
            if (problem := self._machine.snapshots.files.problem(fd)) is not None:
                raise HfschedError(f"{request.shown or request.name}/{name}: {problem}")
        parent = request.parent
        wish = Wish(
            name=request.name,
            created=request.created,
            codec=request.codec,
            held=request.hold,
            incremental=request.incremental,
            live=request.live,
            parent=None if parent is None else Base(parent.name, bytes.fromhex(parent.hash)),
            shown=request.shown,
        )
        deadline = self._runtime.now() + request.within_ms * _NS_PER_MS
        try:
            self._attempt, written = self._machine.snapshots.take(
                (files[0], files[1]),
                wish,
                deadline,
                stop=(self._connection.hangup, self._closing),
                progress=self._teller() if request.progress else lambda _done, _total: None,
            )
        except SuspendError as exc:
            text = f"{wish.called}: {exc}, which was {request.within_ms} ms: allow more (--within)"
            raise HfschedError(text) from None
        return SnapshotWritten(
            machine=self._machine.name,
            hash=written.hash.hex(),
            on=layer_of(written.on),
            paused_ns=written.paused_ns,
            notices=written.notices,
        )

    def confirm(self, request: SnapshotConfirm) -> Done:
        """Carry out the client's word; raises HfschedError."""
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            raise HfschedError("confirm: this connection has no snapshot that is written")
        self._machine.snapshots.confirm(attempt, end=request.end)
        return Done()

    def leave(self) -> None:
        """Drop what was not confirmed: the client has gone."""
        if self._attempt is not None:
            self._machine.snapshots.drop(self._attempt)

    def _teller(self) -> Callable[[int, int], None]:
        """Return what tells the client how far it is, as far as it reads."""
        told = -1

        def tell(done: int, total: int) -> None:
            nonlocal told
            part = done * _PARTS // total
            if part != told:
                told = part
                packet = commands.encode(SnapshotProgress(done=done, total=total))
                offer(self._connection, packet)

        return tell
