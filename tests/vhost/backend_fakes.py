"""Back-ends for tests of the front-end: one that keeps to the protocol and notes what it is asked, and ours, on threads."""

from __future__ import annotations

import errno
import os
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from progress import QUIET, QUIET_NS

from hfsched.memory.ram import sealed_memfd
from hfsched.runtime.base import ChannelClosedError, Connection, EventFd, Runtime
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vhost.channel import Channel, Message
from hfsched.vhost.device import Device
from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.messages import MessageError
from hfsched.vhost.protocol.numbers import Feature, ProtocolFeature, RequestId
from hfsched.vhost.serving import Session

__all__ = ["FEATURES", "PROTOCOL", "NotingBackend", "NotingDriver", "TestPeers", "serve_device"]

FEATURES = int(Feature.VERSION_1 | Feature.PROTOCOL_FEATURES | Feature.EVENT_IDX | Feature.LOG_ALL)
PROTOCOL = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.CONFIG
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.DEVICE_STATE
)


class NotingDriver:
    """Who a front-end tells what happens."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def used(self) -> None:
        self.told.put("used")

    def config_changed(self) -> None:
        self.told.put("config")

    def need_reset(self) -> None:
        self.told.put("reset")

    def until(self, what: str) -> None:
        """Wait until it was told this."""
        while self.told.get(timeout=QUIET) != what:
            pass


class TestPeers:
    """See `hfsched.vhost.frontend.peers.Peers`: each connection's other end goes to `serve(fd)`, None: nobody listens."""

    __test__ = False

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.serve: Callable[[int], None] | None = None
        self.refused = threading.Event()

    def connect(self) -> Connection:
        if self.serve is None:
            self.refused.set()
            raise OSError(errno.ECONNREFUSED, "nobody listens")
        ours, theirs = socket.socketpair()
        self.serve(theirs.detach())
        return self._runtime.adopt_connection("backend", ours.detach())

    def eventfd(self, name: str) -> tuple[EventFd, int]:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._runtime.adopt_eventfd(name, fd), fd

    def pair(self, name: str) -> tuple[Connection, int]:
        ours, theirs = socket.socketpair()
        return self._runtime.adopt_connection(name, ours.detach()), theirs.detach()

    def close(self, fd: int) -> None:
        os.close(fd)


class NotingBackend:
    """Answers a front-end as the protocol says, on a thread; `asked` has what it was asked, with what the numbers were.

    `answers` replaces replies: bytes, without the header.  `silent`: these are not answered.
    """

    def __init__(
        self,
        runtime: ThreadRuntime,
        fd: int,
        *,
        features: int = FEATURES,
        protocol: int = int(PROTOCOL),
        config: bytes = bytes(range(60)),
        queues: int = 2,
    ) -> None:
        self._runtime = runtime
        self._channel = Channel(runtime, runtime.adopt_connection("fake", fd))
        self.features, self.protocol, self.queues = features, protocol, queues
        self.config = config
        self.bases = {0: 0, 1: 0}
        self.answers: dict[RequestId, bytes] = {}
        self.silent: set[RequestId] = set()
        self.asked: list[object] = []
        self.requests: Connection | None = None
        self.kicks: dict[int, int] = {}
        self.calls: dict[int, int] = {}
        self._ended = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(ChannelClosedError, MessageError):
            while True:
                self._runtime.select([self._channel.connection])
                self._carry_out(self._channel.receive())

    def _carry_out(self, message: Message) -> None:
        body, request = message.body, message.request
        self.asked.append(noted(request, body))
        fds: Sequence[int] = ()
        reply = self.answers.get(request)
        if reply is None:
            reply, fds = self._reply(message)
        if reply is None and message.header.wants_reply:
            reply = wire.encode_number(0)
        message.fds.close()
        if reply is not None and request not in self.silent:
            self._channel.reply(request, reply, fds)
        for fd in fds:
            os.close(fd)

    def _reply(self, message: Message) -> tuple[bytes | None, Sequence[int]]:
        body = message.body
        match message.request:
            case RequestId.GET_FEATURES:
                return wire.encode_number(self.features), ()
            case RequestId.GET_PROTOCOL_FEATURES:
                return wire.encode_number(self.protocol), ()
            case RequestId.GET_QUEUE_NUM:
                return wire.encode_number(self.queues), ()
            case RequestId.GET_CONFIG:
                assert isinstance(body, wire.Config)
                if len(body.data) > len(self.config):
                    return b"", ()
                return wire.encode_config(0, self.config[: len(body.data)]), ()
            case RequestId.GET_VRING_BASE:
                assert isinstance(body, wire.RingState)
                return wire.encode_ring_state(body.ring, self.bases[body.ring]), ()
            case RequestId.GET_INFLIGHT_FD:
                assert isinstance(body, wire.Inflight)
                where = wire.Inflight(4096, 0, body.rings, body.ring_size)
                return wire.encode_inflight(where), [sealed_memfd("inflight", 4096)]
            case RequestId.SET_BACKEND_REQ_FD:
                self.requests = self._runtime.adopt_connection("requests", message.fds.take())
            case RequestId.SET_VRING_KICK | RequestId.SET_VRING_CALL:
                assert isinstance(body, wire.RingFd)
                kept = self.kicks if message.request is RequestId.SET_VRING_KICK else self.calls
                if body.ring in kept:
                    os.close(kept[body.ring])
                kept[body.ring] = message.fds.take()
        return None, ()

    def take(self) -> list[object]:
        """Return what was asked since the last time."""
        found = list(self.asked)
        del self.asked[: len(found)]
        return found

    def end(self) -> None:
        """End the connection, as a process that dies does; the second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._channel.connection.shutdown()
        self._thread.join(QUIET)
        assert not self._thread.is_alive()
        self._channel.close()
        if self.requests is not None:
            self.requests.close()
        for fd in (*self.kicks.values(), *self.calls.values()):
            os.close(fd)


def noted(request: RequestId, body: wire.Body) -> object:
    """Return a request with what is of interest in it."""
    match body:
        case wire.RingState(ring, value):
            return (request.name, ring, value)
        case wire.RingFd(ring, _):
            return (request.name, ring)
        case wire.RingAddresses():
            return (request.name, body.ring)
        case wire.Number(value) if request is RequestId.SET_FEATURES:
            return (request.name, value)
        case wire.Config(offset, _, data):
            return (request.name, offset, len(data))
    return request.name


def serve_device(runtime: ThreadRuntime, device: Device, fd: int) -> Callable[[], None]:
    """Serve a device of ours on a thread; return what ends it."""
    closing = runtime.event("device.closing")
    session = Session(runtime, device, runtime.adopt_connection("device", fd), closing)
    task = runtime.spawn("device", lambda: (session.run(), None)[1])

    def end() -> None:
        closing.set()
        assert task.join(runtime.now() + QUIET_NS)
        closing.close()

    return end
