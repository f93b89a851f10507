"""The only source of concurrency, processes, time and choice.

Concurrent code takes a `Runtime` and uses nothing else.  Production implements it with threads and
processes (`hfsched.runtime.threads`); an explorer can implement it with the same operations as
scheduling points.

Times are integers in nanoseconds on the runtime's monotonic clock; a deadline is such a time, or None
for none.  Names are for traces and for replay: every object needs a name that is the same in every
run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from hfsched.runtime.foreign import Connection, EventFd, Listener
from hfsched.runtime.waitable import Waitable

__all__ = [
    "Cell",
    "ChannelClosedError",
    "Connection",
    "End",
    "Event",
    "EventFd",
    "Flag",
    "Listener",
    "Lock",
    "Process",
    "Runtime",
    "Shared",
    "SpawnerLostError",
    "Task",
    "Waitable",
    "guards_nothing",
]

T = TypeVar("T")


class ChannelClosedError(Exception):
    """The other end of a channel is closed, or its process is dead, and every message was read."""


class SpawnerLostError(Exception):
    """No process can be started any more: see `Runtime.spawner_lost`."""


def guards_nothing() -> None:
    """Say, as the `state` of a lock, that it guards no data: it orders operations of the outside world."""


class Lock(Protocol):
    """Mutual exclusion, not reentrant.  Use it in a ``with``.

    In hot code, `acquire` and `release` in a ``try`` do the same in a quarter of the time.
    """

    def acquire(self) -> Any: ...
    def release(self) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, kind: Any, value: Any, trace: Any, /) -> bool | None: ...


class Event(Waitable, Protocol):
    """A flag that tasks can sleep on; it stays set until cleared."""

    def set(self) -> None:
        """Set the flag and wake every sleeper."""

    def clear(self) -> None:
        """Clear the flag."""

    def is_set(self) -> bool:
        """Return whether the flag is set."""

    def wait(self, deadline: int | None = None) -> bool:
        """Sleep until the flag is set or the deadline (ns) has passed; return whether it is set."""

    def close(self) -> None:
        """Free the event's resources; no task may use it afterwards."""


class Cell(Protocol, Generic[T]):
    """One value with atomic operations; each is a scheduling point."""

    def get(self) -> T: ...
    def set(self, value: T) -> None: ...
    def exchange(self, value: T) -> T:
        """Store `value`, return the old value."""

    def compare_and_set(self, expected: T, value: T) -> bool:
        """Store `value` if the cell holds `expected`; return whether it did."""


class Flag(Protocol):
    """A truth value that tasks read and write, each a scheduling point; it costs less than a `Cell`."""

    def get(self) -> bool: ...
    def set(self, value: bool) -> None: ...  # noqa: FBT001 - as a cell's


class Shared(Protocol, Generic[T]):
    """A plain value that a lock or an order of events must protect: no scheduling point.

    The explorer checks every access for data races.
    """

    value: T


class End(Waitable, Protocol):
    """One end of a channel of whole messages."""

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send one message (at most 64 KiB) with descriptors (at most 32).

        Raises `ChannelClosedError` when the peer is closed.
        """

    def recv(self, deadline: int | None = None) -> tuple[bytes, list[int]] | None:
        """Return the next message and its descriptors, or None when the deadline has passed.

        Raises `ChannelClosedError` when the peer is closed and every message was read.
        """

    def close(self) -> None:
        """Close this end; the peer reads the remaining messages and then the end of file."""


class Task(Protocol):
    """A task's handle, returned by `Runtime.spawn`."""

    name: str

    def join(self, deadline: int | None = None) -> bool:
        """Wait for the end of the task; return whether it ended before the deadline."""

    def processor_time(self) -> int | None:
        """Return the ns for which a processor has run it; None: it has ended, or that is unknown."""


class Process(Protocol):
    """A process's handle, returned by `Runtime.process`."""

    name: str

    def kill(self) -> None:
        """Kill it, at any point of its execution."""

    def join(self, deadline: int | None = None) -> bool:
        """Wait for its end; return whether it ended before the deadline."""

    @property
    def pid(self) -> int | None:
        """The process id; None when it has ended, or in an explorer."""

    @property
    def exit_status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""


class Runtime(Protocol):
    """See the module's docstring.  `state` of a lock returns everything that it guards.

    An explorer compares states by it (`guards_nothing`: there is nothing to compare).
    """

    def lock(self, name: str, *, state: Callable[[], object] | None = None) -> Lock: ...
    def event(self, name: str) -> Event: ...
    def cell(self, name: str, value: T) -> Cell[T]: ...
    def flag(self, name: str, *, value: bool) -> Flag: ...
    def shared(self, name: str, value: T) -> Shared[T]: ...
    def channel(self, name: str) -> tuple[End, End]: ...
    def adopt_end(self, name: str, fd: int) -> End:
        """Own an end of a channel, which another process of the run has made and sent."""

    def adopt_listener(self, name: str, fd: int) -> Listener:
        """Own a socket that listens, opened by the caller; see `hfsched.runtime.foreign`."""

    def adopt_connection(self, name: str, fd: int) -> Connection:
        """Own a connected socket, of a stream or of packets."""

    def adopt_eventfd(self, name: str, fd: int) -> EventFd:
        """Own an eventfd that another program or the kernel has too."""

    def select(self, waitables: Sequence[Waitable], deadline: int | None = None) -> list[Waitable]:
        """Wait until at least one is ready; return the ready ones, empty at the deadline."""

    def spawn(self, name: str, fn: Callable[[], None]) -> Task:
        """Start a task.  An exception that leaves `fn` is reported to `on_failure`."""

    def process(
        self, name: str, main: Callable[..., None], ends: Sequence[End], *, outlives: bool = False
    ) -> Process:
        """Start a process that calls the importable `main(runtime, *ends)` and inherits nothing else.

        It ends when this process ends, at the latest; with `outlives` it goes on, until `main` returns.
        The ends are handed over: this process's copies are closed.  Raises OSError if it cannot be started now, SpawnerLostError if none ever can; then
        the ends stay the caller's.
        """

    @property
    def spawner_lost(self) -> Event:
        """Set, and never cleared, when no process can be started any more.

        That is, the spawner has ended, and this process may not exec another.
        """

    def choose(self, name: str, n: int) -> int:
        """Return a number below `n`: 0 in production, any in exploration."""

    def now(self) -> int:
        """Return the time in nanoseconds."""

    def sleep_until(self, deadline: int) -> None: ...
    def checkpoint(self, label: str) -> None:
        """Mark a place in the trace; a scheduling point in exploration."""

    def retain_only(self, *live: object, level: int = 0) -> None:
        """Declare that, of all this task has observed so far, only `live` matters from here on.

        For the head of a loop.  `level` is 0 in a task's outermost loop, 1 in a loop inside that
        one's body, and so on: the live values of outer loops are retained.  A method among them stands for what it
        returns, and is called only where that is compared.  An explorer that compares
        states trusts this; in production it has no effect.
        """
