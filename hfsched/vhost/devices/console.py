"""A console (virtio 1.3, section 5.3): one port, whose other end is a terminal, a socket or a pair of files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from hfsched.runtime.base import ChannelClosedError, Waitable
from hfsched.vhost.device import Device
from hfsched.vhost.errors import ChainError, MemoryFaultError, RefusedError

if TYPE_CHECKING:
    from hfsched.runtime.base import Listener
    from hfsched.vhost.queue import Queue
    from hfsched.vhost.request import Request

__all__ = ["KEPT", "OUTPUT_MAX", "Console", "Line"]

KEPT = 1 << 16  # bytes of output, the last ones, that are kept for who will listen
OUTPUT_MAX = (
    1 << 20
)  # bytes that are taken from a driver that stops its queue before they were sent
_PART = 1 << 12  # bytes that are moved at once
_PARTS = 64  # of a request, before others have their turn
_IN, _OUT = range(2)


class Line(Waitable, Protocol):
    """The other end; a `Connection` is one.  Raises ChannelClosedError, OSError when it is gone."""

    @property
    def room(self) -> Waitable:
        """Ready when there may be room to send, or it is gone."""

    @property
    def hangup(self) -> Waitable:
        """Ready when it is gone, whatever is there to be received."""

    def send(self, data: bytes, /) -> int:
        """Send as many bytes as have room; return their number."""

    def recv(self, size: int, deadline: int | None = None, /) -> bytes | None:
        """Return bytes; empty: no more will come; None: there are none at the deadline."""

    def close(self) -> None:
        """Close it."""


class Console(Device):
    """`line` is the other end, or `listener` is what it connects to: one at a time, the next ones wait.  Both are the device's to close.

    Output waits for an end that has no room, in the guest.  While there is none, the last `KEPT` bytes are kept, for the next one.
    Input is taken when the guest has room.
    """

    type_id = 3
    queues = 2

    def __init__(self, line: Line | None = None, listener: Listener | None = None) -> None:
        self._line = line
        self._listener = listener
        self._queues: dict[int, Queue] = {}
        self._output = bytearray()
        self._request: Request | None = None  # of which a part was sent
        self._taken = 0  # bytes of it
        self._readable = True  # there may be input
        self._ended = False  # no more will come
        self._watched: dict[str, Waitable] = {}

    def config(self) -> bytes:
        """See `Device`: neither a size nor more ports are offered."""
        return bytes(12)

    # Queues.

    def start_queue(self, queue: Queue) -> None:
        """See `Device`."""
        self._queues[queue.index] = queue

    def stop_queue(self, queue: Queue) -> None:
        """See `Device`."""
        del self._queues[queue.index]

    def drain(self, queue: Queue) -> None:  # noqa: ARG002 - of output alone one can be under way
        """Keep what was not sent yet of the request that is under way."""
        while self._request is not None and len(self._output) < OUTPUT_MAX:
            self._take_part(self._request)
        if self._request is not None:
            self.host.notice(f"output of more than {OUTPUT_MAX} bytes is lost")
            self._complete()

    def available(self, queue: Queue) -> None:
        """See `Device`."""
        if queue.index == _OUT:
            self._send(queue)
        else:
            self._receive()
        self._wait()

    # Output.

    def _send(self, queue: Queue | None) -> None:
        """Send what there is, as long as there is room."""
        if self._finish() and queue is not None:
            for self._request in queue.requests():
                self._taken = 0
                if not self._finish():
                    return

    def _finish(self) -> bool:
        """Send what was begun; return whether it was done, and more can be taken."""
        for _ in range(_PARTS):
            if not self._flush():
                return False
            if self._request is None:
                return True
            self._take_part(self._request)
        return False

    def _flush(self) -> bool:
        """Send what was taken from the guest; return whether more can be taken."""
        while self._output and self._line is not None:
            try:
                sent = self._line.send(bytes(self._output[:_PART]))
            except (ChannelClosedError, OSError):
                self._hang_up()
                break
            if not sent:
                return False
            del self._output[:sent]
        if self._line is None:
            del self._output[:-KEPT]
        return True

    def _take_part(self, request: Request) -> None:
        if self._line is None:
            self._taken = max(self._taken, request.read_size - KEPT)
        count = min(_PART, request.read_size - self._taken)
        try:
            self._output += request.read(count, self._taken)
        except (ChainError, MemoryFaultError) as exc:
            self.host.notice(f"output that cannot be read: {exc}")
            self._complete()
            return
        self._taken += count
        if self._taken == request.read_size:
            self._complete()

    def _complete(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.complete(0)

    # Input.

    def _receive(self) -> None:
        """Give the guest what has come, as long as it has room."""
        queue = self._queues.get(_IN)
        if queue is None or not self._may_receive():
            return
        for request in queue.requests():
            size = min(request.write_size, _PART)
            data = self._take_input(size) if size else b""
            if data is None:
                queue.unpop(request)
                return
            try:
                request.write(data)
            except (ChainError, MemoryFaultError) as exc:
                self.host.notice(f"input that cannot be written: {exc}")
            request.complete()

    def _may_receive(self) -> bool:
        return self._line is not None and self._readable and not self._ended

    def _take_input(self, size: int) -> bytes | None:
        """Return what has come; None: nothing has."""
        if self._line is None:
            return None
        try:
            data = self._line.recv(size, self.host.runtime.now())
        except (ChannelClosedError, OSError):
            self._hang_up()
            return None
        if data:
            return data
        self._readable = False
        self._ended = data is not None
        return None

    # The other end.

    def _wait(self) -> None:
        """Wait for what can be gone on with, and for nothing else."""
        line = self._line
        if line is not None:
            self._watch("input", line, self._has_input, not self._readable and not self._ended)
            waits = bool(self._output) or self._request is not None
            self._watch("room", line.room, self._has_room, waits)
            self._watch("hangup", line.hangup, self._gone, self._ended)
        elif self._listener is not None:
            self._watch("listener", self._listener, self._accept, True)

    def _watch(
        self,
        name: str,
        source: Waitable,
        ready: Callable[[], None],
        wanted: bool,  # noqa: FBT001
    ) -> None:
        if wanted == (name in self._watched):
            return
        if wanted:
            self._watched[name] = source
            self.host.watch(source, ready)
        else:
            self.host.unwatch(self._watched.pop(name))

    def _unwatch(self) -> None:
        for source in self._watched.values():
            self.host.unwatch(source)
        self._watched.clear()

    def _has_input(self) -> None:
        self._readable = True
        self._receive()
        self._wait()

    def _has_room(self) -> None:
        self._send(self._queues.get(_OUT))
        self._wait()

    def _gone(self) -> None:
        self._hang_up()
        self._has_room()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            line = self._listener.accept()
        except OSError as exc:
            self.host.notice(f"a terminal cannot be connected: {exc.strerror}")
            self._unwatch()  # until the guest has something to say
            return
        if line is None or self._line is not None:
            return
        self._unwatch()
        self._line, self._readable, self._ended = line, True, False
        self._receive()
        self._has_room()

    def _hang_up(self) -> None:
        """Close the other end, which is gone."""
        if self._line is not None:
            self._unwatch()
            self._line.close()
            self._line = None
            self.host.notice("the console's other end is gone")

    # Its life.

    def resume(self) -> None:
        """See `Device`."""
        self._readable = True
        self._has_room()

    def suspend(self) -> None:
        """See `Device`."""
        self._flush()
        self._unwatch()

    def reset(self) -> None:
        """See `Device`: what was said before is still said."""

    def save(self) -> Any:
        """See `Device`: what was not sent yet."""
        return {"output": bytes(self._output)}

    def restore(self, state: Any) -> None:
        """See `Device`."""
        output = state.get("output") if isinstance(state, dict) else None
        if not isinstance(output, bytes) or len(output) > OUTPUT_MAX + _PART:
            raise RefusedError("a console's state without its output")
        self._output = bytearray(output)

    def close(self) -> None:
        """See `Device`."""
        for each in (self._line, self._listener):
            if each is not None:
                each.close()
