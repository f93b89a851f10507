"""Carries out a front-end's messages on a device, its queues and its memory.

One error policy: a message that makes no sense where it comes raises RefusedError or UserError, changes nothing, and is answered with
a failure where the front-end asked for an answer; else the connection ends, since there is no other way to tell.

Suspended is: no ring runs.  The device is resumed by the first one that starts, and suspended when the last one has stopped, before
that request is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from hfsched.errors import UserError
from hfsched.vhost.channel import Channel
from hfsched.vhost.errors import RefusedError
from hfsched.vhost.memory import SharedMemory
from hfsched.vhost.memorymessages import MemoryMessages
from hfsched.vhost.negotiation import OFFERED, RING_FEATURES, Acknowledged, Actions, Reply, number
from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.numbers import (
    CONFIG_MAX,
    NO_STATE_FD,
    PROTOCOL_FEATURES_KNOWN,
    BackendRequestId,
    Feature,
    ProtocolFeature,
    RequestId,
)
from hfsched.vhost.queuemessages import QueueMessages
from hfsched.vhost.transfer import Transfers

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime, Waitable
    from hfsched.vhost.channel import Descriptors, Message
    from hfsched.vhost.device import Device
    from hfsched.vhost.files import Files
    from hfsched.vhost.queue import Queue

__all__ = ["Handler"]


class Handler:
    """One front-end's session.  `drain(queue)` waits, on the device's task, until nothing of a queue is under way.

    `notice(text)` is told what a front-end or a guest does wrong.  Everything is done on the device's task.
    """

    def __init__(
        self,
        runtime: Runtime,
        device: Device,
        files: Files,
        drain: Callable[[Queue], None],
        notice: Callable[[str], None],
        make_queue: Callable[[int, SharedMemory, Callable[[str], None]], Queue],
    ) -> None:
        self._runtime = runtime
        self._device = device
        self._files = files
        self._notice = notice
        self._acknowledged = Acknowledged()
        memory = SharedMemory(files.map)
        self.queues = [make_queue(index, memory, notice) for index in range(device.queues)]
        self._memory = MemoryMessages(memory, self.queues, files, self._acknowledged)
        self._rings = QueueMessages(
            runtime, device, self.queues, files, self._acknowledged, drain, notice
        )
        self.backend: Channel | None = None
        self._config_changed = False
        self._transfers = Transfers(runtime, device, files)
        self._by_request: Actions = {
            RequestId.GET_FEATURES: lambda _body, _fds: number(self._offered()),
            RequestId.SET_FEATURES: self._set_features,
            RequestId.SET_OWNER: self._set_owner,
            RequestId.RESET_OWNER: self._reset_owner,
            RequestId.GET_PROTOCOL_FEATURES: lambda _body, _fds: number(OFFERED),
            RequestId.SET_PROTOCOL_FEATURES: self._set_protocol,
            RequestId.SET_BACKEND_REQ_FD: self._set_backend,
            RequestId.GET_CONFIG: self._get_config,
            RequestId.SET_CONFIG: self._set_config,
            RequestId.RESET_DEVICE: self._reset_device,
            RequestId.SET_DEVICE_STATE_FD: self._transfer,
            RequestId.CHECK_DEVICE_STATE: lambda _body, _fds: number(self._transfers.check()),
            **self._memory.actions,
            **self._rings.actions,
        }

    def key(self) -> Hashable:
        """Return all of the session's state, but the transfer's."""
        said = (self._acknowledged.key(), self._memory.key(), self._rings.key())
        return (said, self.backend is None, self._config_changed)

    @property
    def suspended(self) -> bool:
        """Whether no ring runs."""
        return self._rings.suspended

    # Messages.

    def carry_out(self, channel: Channel, message: Message) -> None:
        """Do what a message says, and answer it.  Raises RefusedError when the connection has to end."""
        request = message.request
        acks = message.header.wants_reply and bool(
            self._acknowledged.protocol & ProtocolFeature.REPLY_ACK
        )
        try:
            reply = self._do(request, message.body, message.fds)
        except (RefusedError, UserError) as exc:
            text = f"{request.name}: {exc}"
            failure = self._failure(request, acks=acks)
            if failure is None:
                raise RefusedError(text) from None
            self._notice(text)
            reply = failure
        else:
            if reply is None and acks:
                reply = number(0)
        finally:
            message.fds.close()
        if reply is None:
            return
        try:
            channel.reply(request, reply.payload, () if reply.fd is None else (reply.fd,))
        finally:
            if reply.fd is not None:
                self._files.close(reply.fd)

    def _do(self, request: RequestId, body: wire.Body, fds: Descriptors) -> Reply | None:
        self._acknowledged.check(request)
        action = self._by_request.get(request)
        if action is None:
            raise RefusedError("it is not supported")
        if self._rings.failed:
            raise RefusedError(f"the device has failed: {self._rings.failed}")
        return action(body, fds)

    @staticmethod
    def _failure(request: RequestId, *, acks: bool) -> Reply | None:
        """Return the answer that says a request has failed; None: there is none."""
        match request:
            case RequestId.GET_CONFIG:
                return Reply(b"")
            case RequestId.GET_INFLIGHT_FD:
                return Reply(wire.encode_inflight(wire.Inflight(0, 0, 0, 0)))
            case RequestId.GET_VRING_BASE:  # it has no form of a failure
                return None
            case RequestId.SET_DEVICE_STATE_FD:
                return number(NO_STATE_FD | 1)
            case RequestId.CHECK_DEVICE_STATE | RequestId.SET_LOG_BASE:
                return number(1)
        return number(1) if acks else None

    def close(self) -> None:
        """Stop what runs, and free what the front-end gave: it is gone."""
        self._rings.close()
        self._transfers.close()
        self._memory.close()
        if self.backend is not None:
            self.backend.close()

    # Features.

    def _offered(self) -> int:
        own = self._device.features
        return int(own | RING_FEATURES | Feature.PROTOCOL_FEATURES | Feature.LOG_ALL)

    def _set_features(self, body: wire.Number, _fds: Descriptors) -> None:
        if not self._acknowledged.owned:
            raise RefusedError("there is no owner")
        unknown = body.value & ~self._offered()
        if unknown:
            raise RefusedError(f"features {unknown:#x} were not offered")
        first = self._acknowledged.features is None
        self._acknowledged.features = Feature(body.value)
        if first and not self._acknowledged.has(Feature.PROTOCOL_FEATURES):
            for queue in self.queues:
                queue.enable(enabled=True)
        self._memory.apply()
        self._device.acknowledge(body.value & self._device.features)

    def _set_owner(self, _body: wire.Empty, _fds: Descriptors) -> None:
        if self._acknowledged.owned:
            raise RefusedError("there is an owner already")
        self._acknowledged.owned = True

    def _reset_owner(self, _body: wire.Empty, _fds: Descriptors) -> None:
        self._acknowledged.owned = False
        self._acknowledged.features = None
        self._acknowledged.protocol = ProtocolFeature(0)
        self._memory.apply()

    def _set_protocol(self, body: wire.Number, _fds: Descriptors) -> None:
        unknown = body.value & ~PROTOCOL_FEATURES_KNOWN
        if unknown:
            raise RefusedError(f"protocol features {unknown:#x} mean nothing")
        self._acknowledged.protocol = ProtocolFeature(body.value & int(OFFERED))

    # The device.

    def _set_backend(self, _body: wire.Empty, fds: Descriptors) -> None:
        connection = self._runtime.adopt_connection("backend", fds.take())
        if self.backend is not None:
            self.backend.close()
        self.backend = Channel(self._runtime, connection)

    def _get_config(self, body: wire.Config, _fds: Descriptors) -> Reply:
        config = self._device.config()[:CONFIG_MAX]
        found = config[body.offset : body.offset + len(body.data)]
        return Reply(wire.encode_config(body.offset, found.ljust(len(body.data), b"\0")))

    def _set_config(self, body: wire.Config, _fds: Descriptors) -> None:
        if body.offset + len(body.data) > len(self._device.config()):
            raise RefusedError(f"configuration [{body.offset}, +{len(body.data)}): it ends before")
        self._device.write_config(body.offset, body.data)

    def config_changed(self) -> None:
        """See `DeviceHost`."""
        self._config_changed = True

    def tell(self) -> bool:
        """Tell the front-end what it is to know; return whether there is no room for it now."""
        if not self._config_changed or self.suspended:
            return False
        if self.backend is None or not self._acknowledged.protocol & ProtocolFeature.CONFIG:
            self._config_changed = False
            return False
        self._config_changed = not self.backend.tell(BackendRequestId.CONFIG_CHANGE_MSG)
        return self._config_changed

    def _reset_device(self, _body: wire.Empty, _fds: Descriptors) -> None:
        self._rings.reset()
        self._acknowledged.features = None
        self._memory.apply()
        self._device.reset()

    # The transfer of its state.

    def _transfer(self, body: wire.Transfer, fds: Descriptors) -> Reply:
        if not self.suspended:
            raise RefusedError("a queue runs")
        features = 0 if self._acknowledged.features is None else int(self._acknowledged.features)
        acknowledged = (features, int(self._acknowledged.protocol))
        self._transfers.begin(body.direction, body.phase, fds, acknowledged)
        return number(NO_STATE_FD)

    @property
    def sources(self) -> Sequence[Waitable]:
        """What the transfer waits for: `go_on` when one is ready."""
        return self._transfers.sources

    def go_on(self) -> None:
        """Carry the transfer on as far as it goes now."""
        self._transfers.go_on()
