"""Serves a device: to one front-end, or to one after another.

One task does it all.  In each turn it carries out a message, has queues' requests done that a kick has announced (at most
`BATCH` of each, so that none starves another), and shows drivers what was given back.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hfsched.errors import HfschedError, describe
from hfsched.runtime.base import ChannelClosedError
from hfsched.vhost.channel import Channel
from hfsched.vhost.errors import RefusedError
from hfsched.vhost.files import Files
from hfsched.vhost.handler import Handler
from hfsched.vhost.protocol.messages import MessageError
from hfsched.vhost.queue import Queue, QueueState

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Event, EventFd, Listener, Runtime, Waitable
    from hfsched.vhost.device import Device

__all__ = ["Session", "serve", "serve_connected"]

_LOOK_EVERY = 1_000_000  # ns: rings whose driver has given no descriptor to kick by
_RETRY_AFTER = 100_000_000  # ns, when the process has no descriptor left for a front-end


class Session:
    """One front-end's connection, which it owns; also the `DeviceHost` of the device meanwhile."""

    def __init__(
        self,
        runtime: Runtime,
        device: Device,
        connection: Connection,
        closing: Event,
        *,
        files: Files | None = None,
        notice: Callable[[str], None] = lambda _text: None,
        make_queue: Callable[..., Queue] = Queue,
    ) -> None:
        files = Files() if files is None else files
        self.runtime = runtime
        self.notice = notice
        self._device = device
        self._closing = closing
        self._channel = Channel(runtime, connection, files.close)
        self._posted: deque[Callable[[], None]] = deque()
        self._inbox = runtime.event("device.posted")
        self._lock = runtime.lock("device.posted", state=lambda: len(self._posted))
        self._sources: list[tuple[Waitable, Callable[[], None]]] = []
        self._handler = Handler(runtime, device, files, self._drain, notice, make_queue)
        device.host = self

    # `DeviceHost`.

    def post(self, work: Callable[[], None]) -> None:
        """See `DeviceHost`."""
        with self._lock:
            self._posted.append(work)
        self._inbox.set()

    def watch(self, source: Waitable, ready: Callable[[], None]) -> None:
        """See `DeviceHost`."""
        self._sources.append((source, ready))

    def unwatch(self, source: Waitable) -> None:
        """See `DeviceHost`."""
        self._sources = [each for each in self._sources if each[0] is not source]

    def config_changed(self) -> None:
        """See `DeviceHost`."""
        self._handler.config_changed()

    # The loop.

    def run(self) -> bool:
        """Serve until the front-end is gone, or `closing` is set; return whether the front-end has gone by itself."""
        try:
            while True:
                self.runtime.retain_only(self._handler.key, self._device.key, len(self._sources))
                if not self._turn():
                    return False
        except ChannelClosedError:
            return True
        except (MessageError, RefusedError) as exc:
            self.notice(f"the connection ends: {exc}")
            return True
        finally:
            self._handler.close()
            self._channel.close()
            self._inbox.close()

    def _turn(self) -> bool:
        """Wait for something, and do it; False: it is to end."""
        handler = self._handler
        pending = any(map(_pending, handler.queues))
        full = handler.tell()
        ready = self.runtime.select(self._wanted(full=full), self._deadline(pending=pending))
        if self._closing in ready:
            return False
        if any(each in ready for each in handler.sources):
            handler.go_on()
        for queue in handler.queues:
            if queue.kick is not None and queue.kick in ready:
                self._take_kick(queue, queue.kick)
        if self._channel.connection in ready:
            self._carry_out()
        self._serve_queues()
        if not handler.suspended:
            if self._inbox in ready:
                self._do_posted()
            self._call_ready(ready)
        self._flush()
        return True

    def _wanted(self, *, full: bool) -> list[Waitable]:
        """Return what can go on now."""
        handler = self._handler
        wanted: list[Waitable] = [self._closing, self._channel.connection, *handler.sources]
        wanted += [queue.kick for queue in handler.queues if _listens(queue)]  # type: ignore[misc]
        if not handler.suspended:
            wanted += [self._inbox, *(source for source, _ in self._sources)]
        if full and handler.backend is not None:
            wanted.append(handler.backend.connection.room)
        return wanted

    def _deadline(self, *, pending: bool) -> int | None:
        if pending:
            return self.runtime.now()
        if any(queue.running and queue.kick is None for queue in self._handler.queues):
            return self.runtime.now() + _LOOK_EVERY
        return None

    @staticmethod
    def _take_kick(queue: Queue, kick: EventFd) -> None:
        kick.take()
        queue.pending = True

    def _carry_out(self) -> None:
        message = self._channel.receive()
        self._handler.carry_out(self._channel, message)

    def _serve_queues(self) -> None:
        for queue in self._handler.queues:
            if _pending(queue) or (_serves(queue) and queue.kick is None):
                queue.pending = False
                self._serve(queue)

    def _serve(self, queue: Queue) -> None:
        before = queue.taken
        try:
            self._device.available(queue)
        except HfschedError as exc:
            self.notice(f"queue {queue.index}: {exc}")
            queue.pending = queue.taken != before  # what was behind it

    def _do_posted(self) -> None:
        self._inbox.clear()
        while True:
            with self._lock:
                work = self._posted.popleft() if self._posted else None
            if work is None:
                return
            self._call(work)

    def _call_ready(self, ready: Sequence[Waitable]) -> None:
        for source, call in list(self._sources):
            if source in ready:
                self._call(call)

    def _call(self, work: Callable[[], None]) -> None:
        """Call what is the device's; what a guest or the world has done wrong ends nothing."""
        try:
            work()
        except (HfschedError, ChannelClosedError, OSError) as exc:
            self.notice(f"the device: {describe(exc)}")

    def _flush(self) -> None:
        for queue in self._handler.queues:
            if queue.state is QueueState.RUNNING:
                queue.flush()

    def _drain(self, queue: Queue) -> None:
        """Wait until nothing of a queue is under way."""
        while queue.under_way:
            ready = self.runtime.select(
                [self._closing, self._inbox, *(source for source, _ in self._sources)]
            )
            if self._inbox in ready:
                self._do_posted()
            self._call_ready(ready)
            if self._closing in ready:
                return


def _serves(queue: Queue) -> bool:
    return queue.state is QueueState.RUNNING and queue.enabled


def _pending(queue: Queue) -> bool:
    return _serves(queue) and queue.pending


def _listens(queue: Queue) -> bool:
    return queue.state is QueueState.RUNNING and queue.kick is not None


def serve(
    runtime: Runtime,
    device: Device,
    listener: Listener,
    closing: Event,
    *,
    once: bool = False,
    notice: Callable[[str], None] = lambda _text: None,
) -> None:
    """Serve front-ends one after another, until `closing` is set; with `once` only the first one.

    Between them the device is suspended.
    """
    with contextlib.closing(device):
        while closing not in runtime.select([listener, closing]):
            try:
                connection = listener.accept()
            except OSError:
                closing.wait(runtime.now() + _RETRY_AFTER)
                continue
            if connection is None:
                continue
            session = Session(runtime, device, connection, closing, notice=notice)
            if not session.run() or once:
                return


def serve_connected(
    runtime: Runtime,
    device: Device,
    connection: Connection,
    closing: Event,
    *,
    notice: Callable[[str], None] = lambda _text: None,
) -> None:
    """Serve the front-end of a connection, until it is gone or `closing` is set."""
    with contextlib.closing(device):
        Session(runtime, device, connection, closing, notice=notice).run()
