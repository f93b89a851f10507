"""The snapshots of a running machine: one at a time, written by whose task asks for it.

A snapshot is `written` when its files are, and done when its client says that they are on the disk; until
then another one waits for its turn.  One that is `held` keeps the machine suspended meanwhile, so that
the machine may end by it: then it goes on from the snapshot, elsewhere, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hfsched.errors import SnapshotError
from hfsched.services.host import ServiceError
from hfsched.vmm.attempt import Attempt, Base, OpenFiles, Underway, Watch, Wish, Write, Written

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime, Waitable
    from hfsched.vmm.attempt import Writing
    from hfsched.vmm.machine import Machine

__all__ = ["HOLDER", "Snapshots"]

HOLDER = "snapshot"  # the holder's name
_FROZEN_MS = 10_000  # clocks, of a guest that may not answer: it thaws by itself after this time,
_THAW_WITHIN = 2_000_000_000  # ns; and the client is told that its snapshot is written


def _layer(*args: Any) -> Writing:
    from hfsched.vmm.snapshotting import Capture  # noqa: PLC0415 - only where one is taken

    return Capture(*args)


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
        write: Write = _layer,
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
        self._cancelled = runtime.event("snapshots.cancelled")  # the one that is under way
        self._hibernated = False
        self._base: Base | None = None
        # Pages that will be dirty: as many as the last time.  Of one attempt at a time.
        self._expected = 0

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        attempt = None if self._attempt is None else self._attempt.key()
        return (attempt, self._hibernated, self._base)

    @property
    def base(self) -> Base | None:
        """The newest snapshot, since which it is known what has changed."""
        with self._lock:
            return self._base

    def begin_at(self, base: Base) -> None:
        """Note that the machine is as a snapshot has it; before its start."""
        why_not = self._machine.dirty.start(first=True)
        with self._lock:
            self._base = base if why_not is None else None

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
            if attempt is None or self._hibernated:
                return None
            attempt.cancelled = True
            self._cancelled.set()
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
        stop: Sequence[Waitable] = (),
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> tuple[Attempt, Written]:
        """Suspend the machine by the deadline (ns), and write it into the open files {pages, index}.

        Then `confirm` the attempt, or `drop` it.  It is cancelled when one of `stop` is ready;
        `progress(done, total)` is told bytes of guest memory, on this task.  Raises SuspendError, UserError (SnapshotError:
        also when it is cancelled); then the machine goes on, and the files are of no use.
        """
        attempt = Attempt(wish, sum(ram.size for ram in self._machine.rams.values()))
        self._begin(attempt, deadline)
        try:
            return attempt, self._carry_out(attempt, files, deadline, stop, progress)
        except BaseException:
            self._end(attempt)
            raise

    def _carry_out(
        self,
        attempt: Attempt,
        files: tuple[int, int],
        deadline: int | None,
        stop: Sequence[Waitable],
        progress: Callable[[int, int], None],
    ) -> Written:
        def told(done: int) -> None:
            with self._lock:
                attempt.done = done
            progress(done, attempt.total)

        suspension, runtime = self._machine.suspension, self._runtime

        def unwanted() -> bool:
            with self._lock:
                if attempt.cancelled:
                    return True
            return bool(stop) and bool(runtime.select(stop, runtime.now()))

        wish = attempt.wish
        suspended = False
        writing: Writing | None = None
        try:
            expected = None if wish.parent is None else self._expected
            watch = Watch(unwanted, told)
            writing = self._write(self._machine, files, wish, expected, watch)
            notices = writing.prepare(deadline)
            notices += self._freeze(attempt, deadline, (self._cancelled, *stop))
            if unwanted():
                raise SnapshotError(f"{wish.called}: cancelled")
            suspension.suspend(HOLDER, deadline, frozen=True)
            suspended = True
            began = runtime.now()
            told(0)
            notices += self._look_for_changes(attempt)
            if wish.held:
                self._machine.ports.hold()  # what lies there is in the snapshot
            writing.copy(deadline, wish.parent, attempt.dirty)
            if not wish.held:
                suspended = False
                suspension.resume(HOLDER)
            paused = runtime.now() - began
            if not wish.held:
                self._thaw(attempt)
            found, more = writing.finish()
            attempt.made = Base(wish.name, found)
            with self._lock:  # from here on `cancel` drops it
                if attempt.cancelled:
                    raise SnapshotError(f"{wish.called}: cancelled")
                attempt.written = True
        except BaseException:
            if suspended:
                self._resume(wish)
            self._thaw(attempt)
            raise
        finally:
            if writing is not None:
                writing.close()
        on = None if attempt.dirty is None else wish.parent
        if wish.held:
            paused = runtime.now() - began
        return Written(hash=found, paused_ns=paused, notices=notices + more, on=on)

    def _freeze(
        self, attempt: Attempt, deadline: int | None, stop: Sequence[Waitable]
    ) -> tuple[str, ...]:
        """Have the guests that can keep their file systems as they are; return what the user may want to know.

        All are asked at the same time, and have half of the time until the deadline: the other is for the suspension.
        When one of `stop` is ready none is waited for.
        """
        if self._machine.suspended_by():  # no guest can answer
            return ()
        if deadline is not None:
            now = self._runtime.now()
            deadline = now + max(0, deadline - now) // 2
        notices = []
        services = self._machine.services
        asked = [
            (vm, services.begin_freeze(vm, _FROZEN_MS, deadline)) for vm in self._machine.vm_names()
        ]
        for vm, finish in asked:
            if finish is None:
                continue
            try:
                finish(stop)
                attempt.frozen.append(vm)
            except ServiceError as exc:
                notices.append(f"{attempt.wish.called}: not frozen before: {exc}")
        return tuple(notices)

    def _thaw(self, attempt: Attempt) -> None:
        """End what `_freeze` began; a guest that does not answer thaws by itself."""
        frozen, attempt.frozen = attempt.frozen, []
        by = self._runtime.now() + _THAW_WITHIN
        for finish in [self._machine.services.begin_thaw(vm, by) for vm in frozen]:
            if finish is not None:
                with suppress(ServiceError):
                    finish(())

    def _look_for_changes(self, attempt: Attempt) -> tuple[str, ...]:
        """Find out which pages the layer has, and have changes tracked from here on."""
        wish, dirty = attempt.wish, self._machine.dirty
        why_all = "there is no snapshot of this run since which changes are known"
        if wish.parent is not None:
            with self._lock:
                base = self._base
            if base == wish.parent:
                found = dirty.collect()
                if found.why_all is None:
                    attempt.dirty = found
                    self._expected = found.pages()
                    return ()
                why_all = found.why_all
                with self._lock:  # tracking has begun again: what was written before is not known
                    self._base = None
            else:
                why_all = f"{wish.parent.name} is not the newest one of this run any more"
        attempt.tracks = not wish.held
        why_not = dirty.start() if attempt.tracks else None
        if not wish.incremental:
            return ()
        return (f"{wish.called} is a full snapshot: {why_not or why_all}",)

    def confirm(self, attempt: Attempt, *, end: bool = False) -> None:
        """Note that a written snapshot is on the disk; with `end` the machine ends by it, or else goes on.

        Raises SnapshotError if it was cancelled meanwhile.
        """
        with self._lock:
            if self._attempt is not attempt or attempt.cancelled:
                raise SnapshotError(f"{attempt.wish.called}: cancelled")
            self._hibernated = end and attempt.wish.held
            ends = self._hibernated
            if attempt.tracks or attempt.dirty is not None:
                self._base = attempt.made if self._machine.dirty.started else None
            attempt.tracks, attempt.dirty = False, None
            if not ends:
                self._attempt = None  # from here on nobody cancels it
            self._ended.set()  # who waits for its turn has it, or has none any more
        if ends:
            self._on_change()  # it stays suspended to its end
        else:
            self._go_on(attempt)

    def drop(self, attempt: Attempt) -> None:
        """End a written snapshot, whatever became of its files; the machine goes on.

        Nothing happens if it has ended.
        """
        with self._lock:
            if self._attempt is not attempt or self._hibernated:
                return
            self._give_back(attempt)
            self._attempt = None
            self._ended.set()
        self._go_on(attempt)

    def _go_on(self, attempt: Attempt) -> None:
        """Let the machine go on, after the end of an attempt."""
        if attempt.wish.held:
            self._resume(attempt.wish)
            self._thaw(attempt)
        self._machine.user_hold.let_go()

    def _resume(self, wish: Wish) -> None:
        if wish.held:
            self._machine.ports.release()
        self._machine.suspension.resume(HOLDER)

    def _begin(self, attempt: Attempt, deadline: int | None) -> None:
        while True:
            with self._lock:
                if self._hibernated:
                    raise SnapshotError(f"{attempt.wish.called}: the machine has hibernated")
                if self._attempt is None:
                    self._attempt = attempt
                    self._cancelled.clear()
                    break
                before = self._attempt.wish.name
                self._ended.clear()
            self._runtime.retain_only(before, level=1)
            if not self._ended.wait(deadline):
                raise SnapshotError(
                    f"{attempt.wish.called}: the snapshot {before} is not finished yet:"
                    " wait for it, or `hfsched snapshot cancel`"
                )
        self._machine.user_hold.keep()

    def _give_back(self, attempt: Attempt) -> None:
        """Note that what a layer has is in none after all; under the lock."""
        if attempt.dirty is not None:
            self._machine.dirty.give_back(attempt.dirty)
        elif attempt.tracks:
            self._base = None

    def _end(self, attempt: Attempt) -> None:
        """End an attempt that failed."""
        with self._lock:
            self._give_back(attempt)
            self._attempt = None
            self._ended.set()
        self._machine.user_hold.let_go()
