"""Which pages of a machine's memory were written since a moment, by all processes that map it.

Use::

    with suspension.held("snapshot", deadline, frozen=True):
        why_not = tracker.start()        # all memory is protected; nothing is dirty
        ...                              # a full layer
    ...
    with suspension.held("snapshot", deadline, frozen=True):
        dirty = tracker.collect()        # what was written since, which is protected again
        if dirty.why_all is None: ...    # an incremental layer of dirty.runs
        else: ...                        # a full one, and the reason

`start`, `collect` and `stop` are for one task at a time, which holds the machine suspended with its memory frozen:
then no process maps memory anew, and no Enable is under way.  Guests may run during a `collect` all the same:
what they write is in this answer or in the next one.

A page is dirty when a process has written it, or when it was discarded: then it became zero without a write.
One that was swapped out and came back is not; swap keeps its protection (`hfsched/swap/core/uffd.h`).  What cannot
be known is not guessed: then all pages are dirty, and `why_all` says why.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hfsched.memory import writeprotect
from hfsched.memory.writeprotect import Run, merged

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["DirtyPages", "DirtyTracker", "Source", "TrackedProcess", "TrackedRange"]

_NOT_STARTED = "dirty pages are not tracked"


@dataclass(frozen=True, slots=True)
class TrackedRange:
    """Where a process has the memory of a VM, from its first byte: `size` bytes at `base`."""

    vm: str
    base: int
    size: int


@dataclass(frozen=True, slots=True)
class TrackedProcess:
    """A process that maps guest memory.

    `owner` is the object that stands for it, as long as it maps memory; `pagemap` has its page tables, None
    if `uffd` cannot track writes.  `served`: somebody serves missing pages and minor faults there.
    `protected`: all of it was registered and protected before anybody accessed it.
    """

    name: str
    owner: object
    uffd: int
    pagemap: int | None
    ranges: tuple[TrackedRange, ...]
    served: bool = False
    protected: bool = False


class Source(Protocol):
    """Where guest memory is mapped."""

    def why_not(self) -> str | None:
        """Return why dirty pages cannot be tracked, in a line; None: they can."""

    def processes(self) -> Sequence[TrackedProcess]:
        """Return all processes that map guest memory now; descriptors stay the source's."""

    def note(self, *, tracked: bool) -> None:
        """Note whether what arrives in a process must stay protected."""

    def out(self) -> bool:
        """Return whether memory may be out: then served ranges must stay registered."""

    def close(self) -> None:
        """Free what it has opened."""


@dataclass(frozen=True, slots=True)
class DirtyPages:
    """The dirty pages of each VM, by its name: runs in order, with at least a page between two.

    `why_all`: why every page has to count as dirty, in a line; `runs` has all of them then.
    """

    runs: Mapping[str, Sequence[Run]]
    why_all: str | None = None

    def pages(self) -> int:
        """Return how many they are."""
        return sum(count for runs in self.runs.values() for _, count in runs)


class DirtyTracker:
    """See the module's text.  `pages`: how many each VM has; `source`: where they are mapped, which it closes."""

    def __init__(self, runtime: Runtime, pages: Mapping[str, int], source: Source) -> None:
        self._pages = dict(pages)
        self._source = source
        # The task that starts and collects alone.
        self._armed: list[TrackedProcess] = []
        self._why_all: str | None = _NOT_STARTED
        # Of all tasks, under the lock.
        self._lock = runtime.lock("dirty", state=self.key)
        self._noted: list[tuple[str, Run]] = []  # dirty, though no write was seen
        self._unknown: list[tuple[str, Run]] = []  # may become so at any time
        self._tracking = False
        self._unserved = False

    def key(self) -> object:
        """Return all that the lock guards."""
        return (tuple(self._noted), tuple(self._unknown), self._tracking, self._unserved)

    @property
    def started(self) -> bool:
        """Whether writes are tracked."""
        return bool(self._armed)

    def start(self, *, first: bool = False) -> str | None:
        """Protect all memory, so that no page is dirty; return in a line why that cannot be, None: it is done.

        It may have been started before: this begins again.  With `first` it was not, and what a process has
        `protected` already stays as it is: what was written since is dirty.
        """
        self._why_all = self._source.why_not()
        if self._why_all is not None:
            return self._why_all
        with self._lock:
            self._noted.clear()
            self._tracking = True
        self._source.note(tracked=True)
        self._armed = []
        for process in self._source.processes():
            why_not = self._arm(process, protect=not (first and process.protected))
            if why_not is None or writeprotect.is_alive(process.uffd):
                self._armed.append(process)
                self._why_all = self._why_all or why_not
        if self._why_all is not None:
            why_not = self._why_all
            self.stop()
            self._why_all = why_not
        return self._why_all

    def add(self, process: TrackedProcess) -> None:
        """Track another process, which has not accessed memory yet, if writes are tracked."""
        if self._armed:
            self._armed.append(process)
            self._why_all = self._why_all or self._arm(process)

    def collect(self, *, rearm: bool = True) -> DirtyPages:
        """Return what is dirty; with `rearm` it is protected again, and what is unknown begins anew."""
        with self._lock:
            noted = [*self._noted, *self._unknown]
            if rearm:
                self._noted.clear()
        runs: dict[str, list[list[Run]]] = {name: [] for name in self._pages}
        for name, run in noted:
            runs[name].append([run])
        if self._why_all is None:
            self._why_all = self._gather(runs, rearm=rearm)
        if self._why_all is None:
            return DirtyPages({name: _joined(found) for name, found in runs.items()})
        why_all = self._why_all
        if rearm and self._armed:
            self.start()
        return DirtyPages({name: [(0, pages)] for name, pages in self._pages.items()}, why_all)

    def give_back(self, dirty: DirtyPages) -> None:
        """Count pages as dirty that `collect` has returned: what they were collected for has failed."""
        if dirty.why_all is not None:
            self._why_all = dirty.why_all
            return
        with self._lock:
            self._noted += [(name, run) for name, runs in dirty.runs.items() for run in runs]

    def stop(self) -> None:
        """Track nothing any more, until `start`."""
        with self._lock:
            self._noted.clear()
            self._tracking = False
        self._source.note(tracked=False)
        self._forget(keep=self._source.out())
        self._why_all = _NOT_STARTED

    def close(self) -> None:
        """Free everything; no process accesses guest memory any more."""
        self._armed.clear()
        self._source.close()

    # On any task.

    @contextmanager
    def discarding(self, vm: str, first: int, count: int) -> Iterator[None]:
        """Count pages as dirty that become zero at some time during a ``with``, or after one that raises."""
        noted = (vm, (first, count))
        with self._lock:
            self._unknown.append(noted)
        yield  # after an error it may still be done, nobody knows when
        with self._lock:
            self._unknown.remove(noted)
            if self._tracking:
                self._noted.append(noted)

    def let_go(self) -> None:
        """Unregister everything for good: all memory is in, and nobody serves faults any more."""
        with self._lock:
            self._unserved = True
        for process in self._source.processes():
            _unregister(process)

    # Processes.

    def _arm(self, process: TrackedProcess, *, protect: bool = True) -> str | None:
        """Protect a process's memory, or find it protected; return why that cannot be."""
        if process.pagemap is None:
            return f"{process.name}: its userfaultfd has no WP_ASYNC"
        try:
            for part in process.ranges:
                writeprotect.register(process.uffd, part.base, part.size, faults=process.served)
        except OSError as exc:
            return _reason(process, exc)
        with self._lock:
            unserved = process.served and self._unserved
        if unserved:
            _unregister(process)
            return f"{process.name}: nobody can serve its page faults"
        try:
            for part in process.ranges if protect else ():
                writeprotect.protect(process.uffd, part.base, part.size)
        except OSError as exc:
            return _reason(process, exc)
        return self._why_unknown(process)

    def _gather(self, runs: Mapping[str, list[list[Run]]], *, rearm: bool) -> str | None:
        """Add what each process has written; return why that is not known."""
        now = list(self._source.processes())
        for process in self._armed:
            if all(process.owner is not each.owner for each in now):
                return _ended(process)
        for process in now:
            if all(process.owner is not each.owner for each in self._armed):
                if not writeprotect.is_alive(process.uffd):
                    continue  # it had ended before
                return f"{process.name} maps guest memory, and was not tracked"
            why_not = self._scan(process, runs, protect=rearm)
            if why_not is not None:
                return why_not
        return None

    def _scan(
        self, process: TrackedProcess, runs: Mapping[str, list[list[Run]]], *, protect: bool
    ) -> str | None:
        """Add what a process has written; return why that is not known."""
        assert process.pagemap is not None
        try:
            for part in process.ranges:
                runs[part.vm].append(
                    writeprotect.written(process.pagemap, part.base, part.size, protect=protect)
                )
        except OSError as exc:
            return _reason(process, exc)
        return self._why_unknown(process)

    def _why_unknown(self, process: TrackedProcess) -> str | None:
        """Return why it is not known what a process has written so far."""
        assert process.pagemap is not None
        try:
            # Nothing of what is not mapped is written: it must have been there all the while.
            there = all(
                writeprotect.is_tracked(process.pagemap, part.base, part.size)
                for part in process.ranges
            )
        except OSError as exc:
            return _reason(process, exc)
        if not writeprotect.is_alive(process.uffd):  # it died meanwhile
            return _ended(process)
        if not there:
            return f"{process.name} has unmapped guest memory, and what it wrote is unknown"
        return None

    def _forget(self, *, keep: bool) -> None:
        """End the tracking of every process; `keep`: served ranges stay registered."""
        for process in self._armed:
            if keep and process.served:
                for part in process.ranges:
                    with suppress(OSError):
                        writeprotect.release(process.uffd, part.base, part.size)
            else:
                _unregister(process)
        self._armed.clear()


def _joined(found: list[list[Run]]) -> list[Run]:
    """Return the pages of lists of runs as one."""
    some = [runs for runs in found if runs]
    return some[0] if len(some) == 1 else merged([run for runs in some for run in runs])


def _unregister(process: TrackedProcess) -> None:
    for part in process.ranges:
        with suppress(OSError):  # it has ended
            writeprotect.unregister(process.uffd, part.base, part.size)


def _ended(process: TrackedProcess) -> str:
    return f"{process.name} has ended, and what it wrote is unknown"


def _reason(process: TrackedProcess, exc: OSError) -> str:
    if exc.errno == errno.ESRCH:
        return _ended(process)
    if exc.errno == errno.EPERM:
        return f"{process.name}: a part of its guest memory is not tracked any more"
    return f"{process.name}: tracking dirty pages: {os.strerror(exc.errno or errno.EIO)}"
