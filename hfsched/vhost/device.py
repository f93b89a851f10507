"""What a vhost-user device is made of: derive from `Device`, and give it to `hfsched.vhost.serve`.

    class Upper(Device):
        type_id = 0x2000
        queues = 1

        def process(self, queue: Queue, request: Request) -> None:
            request.write(request.read().upper())
            request.complete()

The protocol, memory, rings, suspension and the transfer of state are the handler's.  All methods are called on one task, one at a
time, and may call each method of their `Queue` and `Request`.  While one runs, the front-end waits for its answers: one
that has to wait for something long gives the request back later, from a callback of `DeviceHost.watch` or `DeviceHost.post`.

What holds, in the order of a device's life:

1. `start_queue` for each queue that the front-end starts; `resume` before the first of them.
2. `available` when a queue may have requests; only for queues that are started.
3. `stop_queue` for each queue that was started, when none of its requests is under way any more; `suspend` after the last.
4. Between `suspend` and `resume` it must touch neither its front-end (the handler sees to that) nor what stands behind it,
   a disk for example.  It is suspended at first.  `save` and `restore` are called then alone.
5. `close` once, suspended.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from hfsched.vhost.errors import RefusedError
from hfsched.vhost.queue import Queue
from hfsched.vhost.request import Request

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime, Waitable

__all__ = ["Device", "DeviceHost", "Queue", "Request"]


class DeviceHost(Protocol):
    """What serves a device; `Device.host`, from before its first method is called."""

    runtime: Runtime

    def post(self, work: Callable[[], None]) -> None:
        """Do something on the device's task, soon; any task.  What is posted while it is suspended waits."""

    def watch(self, source: Waitable, ready: Callable[[], None]) -> None:
        """Call `ready()` whenever a source is ready, but not while the device is suspended.

        What it raises is told, if it is an HfschedError, an OSError or a ChannelClosedError, and ends nothing.
        """

    def unwatch(self, source: Waitable) -> None:
        """End that; nothing if it is not watched.  In this turn it may be called once more."""

    def config_changed(self) -> None:
        """Tell the front-end that the configuration space has changed: now, or when the device is resumed."""

    def notice(self, text: str) -> None:
        """Tell whoever runs the device, in a line."""


class Device:
    """See the module's text.  What is not overridden is right for a device that has nothing to do there."""

    type_id: ClassVar[int]  # of virtio
    queues: int = 1
    queue_size_max: int = 1024
    features: int = 0  # those of its type
    host: DeviceHost

    def key(self) -> Hashable:
        """Return its state, for exploration; what is nowhere else."""
        return None

    # Configuration.  In any state.

    def config(self) -> bytes:
        """Return the configuration space, at most 4096 bytes; the same size each time."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:  # noqa: ARG002
        """Change the configuration space, as the driver asks; within its size.  Raises RefusedError."""
        raise RefusedError("this device's configuration cannot be written")

    def acknowledge(self, features: int) -> None:
        """Learn which of its `features` the driver has taken; again whenever it changes its mind."""

    # Queues.  Not suspended.

    def start_queue(self, queue: Queue) -> None:
        """Begin to serve a queue, which runs from now on; without blocking."""

    def available(self, queue: Queue) -> None:
        """See whether a queue has requests: take them by `queue.requests()`, or later by `queue.pop()`."""
        for request in queue.requests():
            try:
                self.process(queue, request)
            except BaseException:
                request.complete()
                raise

    def process(self, queue: Queue, request: Request) -> None:
        """Carry out a request, and complete it, now or later."""
        raise NotImplementedError

    def stop_queue(self, queue: Queue) -> None:
        """Keep nothing of a queue, which is about to stop; without blocking."""

    def drain(self, queue: Queue) -> None:
        """See that the requests of a queue that are under way are completed soon: it is about to stop.

        Those that wait for what may never come (a line of input) are put back by `Queue.unpop`, the last one first.
        """

    # Its life.

    def resume(self) -> None:
        """Begin to use what stands behind it.  Raising means that the device has failed for good."""

    def suspend(self) -> None:
        """Use it no more until `resume`, and have all that was written be there.  Raising means the same."""

    def reset(self) -> None:
        """Be as new; suspended."""

    def save(self) -> Any:
        """Return its state: of None, bool, int, str, bytes, list and dict (it travels as CBOR).  Suspended."""
        return None

    def restore(self, state: Any) -> None:
        """Take over a state, or raise RefusedError and be as before.  Suspended."""
        if state is not None:
            raise RefusedError("this device has no state")

    def close(self) -> None:
        """Free what it has."""
