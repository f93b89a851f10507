"""The snapshots of a running machine: one at a time, written by whose task asks for it.

A snapshot is `written` when its files are, and done when its client says that they are on the disk; until
then another one waits for its turn.  One that is `held` keeps the machine suspended meanwhile, so that
the machine may end by it: then it goes on from the snapshot, elsewhere, and nowhere else.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct

from hfsched.errors import SnapshotError

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime
    from hfsched.vmm.machine import Machine

__all__ = ["HOLDER", "Attempt", "OpenFiles", "Snapshots", "Underway", "Wish", "Write", "Written"]

HOLDER = "snapshot"  # the holder's name


class Wish(Struct, frozen=True, kw_only=True):
    """What is asked for: the layer's name, for errors, the time (ns since 1970), the codec; `held`: see the module."""

    name: str
    created: int
    codec: Literal["lz4", "zstd", "raw"] = "lz4"
    held: bool = False


class Written(Struct, frozen=True, kw_only=True):
    """What was written: the hash of the layer's index, the time of suspension so far, what the user may want to know."""

    hash: bytes
    paused_ns: int
    notices: tuple[str, ...] = ()


class Underway(Struct, frozen=True):
    """The snapshot that is under way: bytes of guest memory that were read, of all there are."""

    name: str
    written: bool
    done: int
    total: int


class Write(Protocol):
    """Writes a suspended machine into two open files; returns the index's hash, and what the user may want to know."""

    def __call__(
        self,
        machine: Machine,
        files: tuple[int, int],
        wish: Wish,
        deadline: int | None,
        /,
        *,
        cancelled: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> tuple[bytes, tuple[str, ...]]:
        """Return them; raises UserError if it cannot be saved by the deadline (ns), or written, or is cancelled."""


def _write(
    machine: Machine,
    files: tuple[int, int],
    wish: Wish,
    deadline: int | None,
    *,
    cancelled: Callable[[], bool],
    progress: Callable[[int], None],
) -> tuple[bytes, tuple[str, ...]]:
    from hfsched.vmm import snapshotting  # noqa: PLC0415 - only where one is taken

    return snapshotting.write_layer(
        machine,
        files,
        wish.name,
        wish.codec,
        wish.created,
        deadline,
        cancelled=cancelled,
        progress=progress,
    )


class OpenFiles:
    """The descriptors of a snapshot's files; an explorer, which has none, replaces it."""

    def problem(self, fd: int) -> str | None:
        """Return why nothing is to be written into a file."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if status.st_size:
            return f"it has {status.st_size} bytes already: give an empty file"
        reads = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        return "not open for writing" if reads else None

    def close(self, files: Sequence[int]) -> None:
        """Close them."""
        for fd in files:
            os.close(fd)


class Attempt:
    """A snapshot from its beginning to its end; `Snapshots.take` makes one, and has its lock."""

    def __init__(self, wish: Wish, total: int) -> None:
        self.wish = wish
        self.total = total
        self.done = 0
        self.written = False
        self.cancelled = False

    def key(self) -> Hashable:
        """Return its state."""
        return (self.wish.name, self.wish.held, self.done, self.written, self.cancelled)

    def look(self) -> Underway:
        """Return how far it is."""
        return Underway(self.wish.name, self.written, self.done, self.total)


class Snapshots:
    """Takes a machine's snapshots; any task may use it.

    The run does not end by itself meanwhile.  `on_change` is called, on the task of a request, when
    `hibernated` may have changed; it must not block.  `write` is what writes a snapshot into `files`.
    """

    def __init__(
        self,
        runtime: Runtime,
        machine: Machine,
        on_change: Callable[[], None] = lambda: None,
        write: Write = _write,
        files: OpenFiles | None = None,
    ) -> None:
        self.files = OpenFiles() if files is None else files
        self._runtime = runtime
        self._machine = machine
        self._on_change = on_change
        self._write = write
        self._lock = runtime.lock("snapshots", state=self.key)
        self._attempt: Attempt | None = None
        self._ended = runtime.event("snapshots.ended")  # an attempt
        self._hibernated = False

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        return (None if self._attempt is None else self._attempt.key(), self._hibernated)

    @property
    def hibernated(self) -> bool:
        """Whether the machine is to end, for it goes on from a snapshot."""
        with self._lock:
            return self._hibernated

    def peek(self) -> bool:
        """Return, without the lock, whether it has hibernated: for oracles."""
        return self._hibernated

    def look(self) -> Underway | None:
        """Return what is under way, None if nothing is."""
        with self._lock:
            return None if self._attempt is None else self._attempt.look()

    def cancel(self) -> Underway | None:
        """Cancel what is under way, and return it; None: nothing is."""
        with self._lock:
            attempt = self._attempt
            if attempt is None:
                return None
            attempt.cancelled = True
            there = attempt.look()
        if there.written:
            self.drop(attempt)
        return there

    def take(
        self,
        files: tuple[int, int],
        wish: Wish,
        deadline: int | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> tuple[Attempt, Written]:
        """Suspend the machine by the deadline (ns), and write it into the open files {pages, index}.

        Then `confirm` the attempt, or `drop` it.  `cancelled` is asked again and again, on this task;
        `progress(done, total)` is told bytes of guest memory.  Raises SuspendError, UserError (SnapshotError:
        also when it is cancelled); then the machine goes on, and the files are of no use.
        """
        attempt = Attempt(wish, sum(ram.size for ram in self._machine.rams.values()))
        self._begin(attempt, deadline)
        try:
            return attempt, self._carry_out(attempt, files, deadline, cancelled, progress)
        except BaseException:
            self._end()
            raise

    def _carry_out(
        self,
        attempt: Attempt,
        files: tuple[int, int],
        deadline: int | None,
        cancelled: Callable[[], bool],
        progress: Callable[[int, int], None],
    ) -> Written:
        def told(done: int) -> None:
            with self._lock:
                attempt.done = done
            progress(done, attempt.total)

        def unwanted() -> bool:
            with self._lock:
                if attempt.cancelled:
                    return True
            return cancelled()

        suspension, runtime = self._machine.suspension, self._runtime
        wish = attempt.wish
        suspension.suspend(HOLDER, deadline, frozen=True)
        began = runtime.now()
        held = False
        try:
            told(0)
            found, notices = self._write(
                self._machine,
                files,
                wish,
                deadline,
                cancelled=unwanted,
                progress=told,
            )
            with self._lock:  # from here on `cancel` drops it
                if attempt.cancelled:
                    raise SnapshotError(f"{wish.name}: cancelled")
                attempt.written = True
                held = wish.held
        finally:
            if not held:
                suspension.resume(HOLDER)
        return Written(hash=found, paused_ns=runtime.now() - began, notices=notices)

    def confirm(self, attempt: Attempt, *, end: bool = False) -> None:
        """Note that a written snapshot is on the disk; with `end` the machine ends by it, or else goes on.

        Raises SnapshotError if it was cancelled meanwhile.
        """
        with self._lock:
            if self._attempt is not attempt:
                raise SnapshotError(f"{attempt.wish.name}: cancelled")
            self._hibernated = end and attempt.wish.held
            ends = self._hibernated
        if not ends:
            self.drop(attempt)
            return
        self._on_change()  # it stays suspended to its end

    def drop(self, attempt: Attempt) -> None:
        """End a written snapshot, whatever became of its files; the machine goes on.

        Nothing happens if it has ended.
        """
        with self._lock:
            if self._attempt is not attempt or self._hibernated:
                return
            self._attempt = None
            self._ended.set()
        if attempt.wish.held:
            self._machine.suspension.resume(HOLDER)
        self._machine.user_hold.let_go()

    def _begin(self, attempt: Attempt, deadline: int | None) -> None:
        while True:
            with self._lock:
                if self._attempt is None:
                    self._attempt = attempt
                    break
                before = self._attempt.wish.name
                self._ended.clear()
            self._runtime.retain_only(before, level=1)
            if not self._ended.wait(deadline):
                raise SnapshotError(
                    f"{attempt.wish.name}: the snapshot {before} is not finished yet:"
                    " wait for it, or `hfsched snapshot cancel`"
                )
        self._machine.user_hold.keep()

    def _end(self) -> None:
        """End an attempt that failed."""
        with self._lock:
            self._attempt = None
            self._ended.set()
        self._machine.user_hold.let_go()
