"""Carries out a front-end's messages on a device, its queues and its memory.

One error policy: a message that makes no sense where it comes raises RefusedError or UserError, changes nothing, and is answered with
a failure where the front-end asked for an answer; else the connection ends, since there is no other way to tell.

Suspended is: no ring runs.  The device is resumed by the first one that starts, and suspended when the last one has stopped, before
that request is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.errors import UserError, describe
from hfsched.vhost.channel import Channel
from hfsched.vhost.errors import MemoryFaultError, RefusedError
from hfsched.vhost.inflight import InflightRing, inflight_size
from hfsched.vhost.memory import SLOTS_MAX, DirtyLog, SharedMemory
from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.numbers import (
    CONFIG_MAX,
    PROTOCOL_FEATURES_KNOWN,
    BackendRequestId,
    Feature,
    ProtocolFeature,
    RequestId,
)
from hfsched.vhost.queue import Queue
from hfsched.vhost.transfer import Transfers

if TYPE_CHECKING:
    from hfsched.runtime.base import EventFd, Runtime, Waitable
    from hfsched.vhost.channel import Descriptors, Message
    from hfsched.vhost.device import Device
    from hfsched.vhost.files import Files
    from hfsched.vhost.mapping import Mapping

__all__ = ["Handler", "Reply"]

_RING_FEATURES = Feature.VERSION_1 | Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.RING_PACKED
_OFFERED = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.DEVICE_STATE
)
_NO_FD = 0x100  # in a reply to SET_DEVICE_STATE_FD

# What a request needs to be acknowledged.
_GATES = {
    RequestId.GET_QUEUE_NUM: ProtocolFeature.MQ,
    RequestId.SET_LOG_BASE: ProtocolFeature.LOG_SHMFD,
    RequestId.SET_BACKEND_REQ_FD: ProtocolFeature.BACKEND_REQ,
    RequestId.GET_CONFIG: ProtocolFeature.CONFIG,
    RequestId.SET_CONFIG: ProtocolFeature.CONFIG,
    RequestId.GET_INFLIGHT_FD: ProtocolFeature.INFLIGHT_SHMFD,
    RequestId.SET_INFLIGHT_FD: ProtocolFeature.INFLIGHT_SHMFD,
    RequestId.RESET_DEVICE: ProtocolFeature.RESET_DEVICE,
    RequestId.GET_MAX_MEM_SLOTS: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    RequestId.ADD_MEM_REG: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    RequestId.REM_MEM_REG: ProtocolFeature.CONFIGURE_MEM_SLOTS,
    RequestId.SET_DEVICE_STATE_FD: ProtocolFeature.DEVICE_STATE,
    RequestId.CHECK_DEVICE_STATE: ProtocolFeature.DEVICE_STATE,
    RequestId.GET_SHMEM_CONFIG: ProtocolFeature.SHMEM,
    RequestId.POSTCOPY_ADVISE: ProtocolFeature.PAGEFAULT,
    RequestId.POSTCOPY_LISTEN: ProtocolFeature.PAGEFAULT,
    RequestId.POSTCOPY_END: ProtocolFeature.PAGEFAULT,
    RequestId.GET_STATUS: ProtocolFeature.STATUS,
    RequestId.SET_STATUS: ProtocolFeature.STATUS,
}


class Reply(Struct, frozen=True):
    """What is answered; `fd` is closed when it was sent."""

    payload: bytes
    fd: int | None = None


def _number(value: int) -> Reply:
    return Reply(wire.encode_number(value))


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
        self._drain = drain
        self._notice = notice
        self.memory = SharedMemory(files.map)
        self.queues = [make_queue(index, self.memory, notice) for index in range(device.queues)]
        self.backend: Channel | None = None
        self._owned = False
        self._features: Feature | None = None  # None: none were acknowledged yet
        self._protocol = ProtocolFeature(0)
        self._log: DirtyLog | None = None  # what writes are noted in with LOG_ALL
        self._inflight: Mapping | None = None
        self._config_changed = False
        self._transfers = Transfers(runtime, device, files)
        self.failed = ""  # why the device has failed for good
        self._requests: dict[RequestId, Callable[..., Reply | None]] = {
            RequestId.GET_FEATURES: lambda _body, _fds: _number(self._offered()),
            RequestId.SET_FEATURES: self._set_features,
            RequestId.SET_OWNER: self._set_owner,
            RequestId.RESET_OWNER: self._reset_owner,
            RequestId.SET_MEM_TABLE: self._set_memory,
            RequestId.ADD_MEM_REG: self._add_memory,
            RequestId.REM_MEM_REG: self._remove_memory,
            RequestId.SET_LOG_BASE: self._set_log,
            RequestId.SET_LOG_FD: self._set_log_fd,
            RequestId.SET_VRING_NUM: self._set_size,
            RequestId.SET_VRING_ADDR: self._set_addresses,
            RequestId.SET_VRING_BASE: self._set_base,
            RequestId.GET_VRING_BASE: self._get_base,
            RequestId.SET_VRING_KICK: self._set_kick,
            RequestId.SET_VRING_CALL: self._set_call,
            RequestId.SET_VRING_ERR: self._set_error,
            RequestId.SET_VRING_ENABLE: self._enable,
            RequestId.GET_PROTOCOL_FEATURES: lambda _body, _fds: _number(_OFFERED),
            RequestId.SET_PROTOCOL_FEATURES: self._set_protocol,
            RequestId.GET_QUEUE_NUM: lambda _body, _fds: _number(len(self.queues)),
            RequestId.GET_MAX_MEM_SLOTS: lambda _body, _fds: _number(SLOTS_MAX),
            RequestId.SET_BACKEND_REQ_FD: self._set_backend,
            RequestId.GET_CONFIG: self._get_config,
            RequestId.SET_CONFIG: self._set_config,
            RequestId.GET_INFLIGHT_FD: self._get_inflight,
            RequestId.SET_INFLIGHT_FD: self._set_inflight,
            RequestId.RESET_DEVICE: self._reset_device,
            RequestId.SET_DEVICE_STATE_FD: self._transfer,
            RequestId.CHECK_DEVICE_STATE: lambda _body, _fds: _number(self._check_transfer()),
        }

    def key(self) -> Hashable:
        """Return all of the session's state, but the transfer's."""
        regions = tuple((each.guest, each.size, each.user) for each in self.memory.regions)
        said = (self._owned, self._features and int(self._features), int(self._protocol))
        has = (self.backend is None, self._log is None, self._inflight is None)
        queues = tuple(queue.key() for queue in self.queues)
        return (regions, said, has, queues, self._config_changed, self.failed)

    # Messages.

    @property
    def suspended(self) -> bool:
        """Whether no ring runs."""
        return not any(queue.running for queue in self.queues)

    def carry_out(self, channel: Channel, message: Message) -> None:
        """Do what a message says, and answer it.  Raises RefusedError when the connection has to end."""
        request = message.request
        acks = message.header.wants_reply and bool(self._protocol & ProtocolFeature.REPLY_ACK)
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
                reply = _number(0)
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
        gate = _GATES.get(request)
        if gate is not None and not self._protocol & gate:
            raise RefusedError(f"{gate.name} was not acknowledged")
        action = self._requests.get(request)
        if action is None:
            raise RefusedError("it is not supported")
        if self.failed:
            raise RefusedError(f"the device has failed: {self.failed}")
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
                return _number(_NO_FD | 1)
            case RequestId.CHECK_DEVICE_STATE | RequestId.SET_LOG_BASE:
                return _number(1)
        return _number(1) if acks else None

    def close(self) -> None:
        """Stop what runs, and free what the front-end gave: it is gone."""
        for queue in self.queues:
            if queue.running:
                self._stop(queue)
            queue.close()
        self._transfers.close()
        self._set_owned_log(None)
        self.memory.close()
        if self._inflight is not None:
            self._inflight.close()
        if self.backend is not None:
            self.backend.close()

    # Features.

    def _offered(self) -> int:
        own = self._device.features
        return int(own | _RING_FEATURES | Feature.PROTOCOL_FEATURES | Feature.LOG_ALL)

    def _set_features(self, body: wire.Number, _fds: Descriptors) -> None:
        if not self._owned:
            raise RefusedError("there is no owner")
        unknown = body.value & ~self._offered()
        if unknown:
            raise RefusedError(f"features {unknown:#x} were not offered")
        first = self._features is None
        self._features = Feature(body.value)
        if first and not self._features & Feature.PROTOCOL_FEATURES:
            for queue in self.queues:
                queue.enable(enabled=True)
        self._apply_log()
        self._device.acknowledge(body.value & self._device.features)

    def _set_owner(self, _body: wire.Empty, _fds: Descriptors) -> None:
        if self._owned:
            raise RefusedError("there is an owner already")
        self._owned = True

    def _reset_owner(self, _body: wire.Empty, _fds: Descriptors) -> None:
        self._owned = False
        self._features = None
        self._protocol = ProtocolFeature(0)
        self._apply_log()

    def _set_protocol(self, body: wire.Number, _fds: Descriptors) -> None:
        unknown = body.value & ~PROTOCOL_FEATURES_KNOWN
        if unknown:
            raise RefusedError(f"protocol features {unknown:#x} mean nothing")
        self._protocol = ProtocolFeature(body.value & int(_OFFERED))

    # Memory.

    def _set_memory(self, body: wire.MemoryTable, fds: Descriptors) -> None:
        self.memory.replace(body.regions, fds.look())
        self._relocate()

    def _add_memory(self, body: wire.MemoryTable, fds: Descriptors) -> None:
        if len(fds) != 1:
            raise RefusedError("it has no descriptor")
        self.memory.add(body.regions[0], fds.look()[0])

    def _remove_memory(self, body: wire.MemoryTable, _fds: Descriptors) -> None:
        self.memory.remove(body.regions[0])
        self._relocate()

    def _relocate(self) -> None:
        """Have running rings use the memory as it is now; one that is not there any more is broken."""
        for queue in self.queues:
            if queue.running:
                try:
                    queue.relocate()
                except MemoryFaultError as exc:
                    queue.break_down(str(exc))

    def _set_log(self, body: wire.LogBase, fds: Descriptors) -> Reply:
        mapping = self._files.map(fds.look()[0], body.offset, body.size)
        self._set_owned_log(DirtyLog(mapping))
        return _number(0)

    def _set_log_fd(self, _body: wire.Empty, _fds: Descriptors) -> None:
        """Take the descriptor that says that the log has changed: it need not be told."""

    def _set_owned_log(self, log: DirtyLog | None) -> None:
        before, self._log = self._log, log
        self._apply_log()
        if before is not None:
            before.close()

    def _apply_log(self) -> None:
        logged = self._features is not None and self._features & Feature.LOG_ALL
        self.memory.log = self._log if logged else None

    # Queues.

    def _queue(self, number: int) -> Queue:
        if number >= len(self.queues):
            raise RefusedError(f"queue {number}: there are {len(self.queues)}")
        return self.queues[number]

    def _set_size(self, body: wire.RingState, _fds: Descriptors) -> None:
        self._queue(body.ring).set_size(body.value, self._device.queue_size_max)

    def _set_addresses(self, body: wire.RingAddresses, _fds: Descriptors) -> None:
        self._queue(body.ring).set_addresses(body)

    def _set_base(self, body: wire.RingState, _fds: Descriptors) -> None:
        queue = self._queue(body.ring)
        if queue.running:
            raise RefusedError(f"queue {body.ring}: its index is set while it runs")
        queue.next_base = body.value

    def _get_base(self, body: wire.RingState, _fds: Descriptors) -> Reply:
        queue = self._queue(body.ring)
        if queue.running:
            self._stop(queue)
        return Reply(wire.encode_ring_state(body.ring, queue.next_base))

    def _eventfd(self, body: wire.RingFd, fds: Descriptors, what: str) -> EventFd | None:
        if not body.has_fd:
            return None
        self._files.check_eventfd(fds.look()[0])
        return self._runtime.adopt_eventfd(f"queue.{body.ring}.{what}", fds.take())

    def _set_kick(self, body: wire.RingFd, fds: Descriptors) -> None:
        queue = self._queue(body.ring)
        if queue.running:
            raise RefusedError(f"queue {body.ring}: it is started while it runs")
        if self._features is None:
            raise RefusedError(
                f"queue {body.ring}: it is started before features were acknowledged"
            )
        kick = self._eventfd(body, fds, "kick")
        if queue.kick is not None:
            queue.kick.close()
        queue.kick = kick
        was_suspended = self.suspended
        queue.start(self._features)
        if was_suspended:
            self._resume(queue)
        try:
            self._device.start_queue(queue)
        except Exception as exc:
            queue.stop()
            self._suspend_if_stopped()
            raise RefusedError(f"queue {body.ring}: {describe(exc)}") from exc

    def _set_call(self, body: wire.RingFd, fds: Descriptors) -> None:
        self._queue(body.ring).set_call(self._eventfd(body, fds, "call"))

    def _set_error(self, body: wire.RingFd, fds: Descriptors) -> None:
        queue = self._queue(body.ring)
        if queue.error is not None:
            queue.error.close()
        queue.error = self._eventfd(body, fds, "error")

    def _enable(self, body: wire.RingState, _fds: Descriptors) -> None:
        queue = self._queue(body.ring)
        if body.value > 1:
            raise RefusedError(f"queue {body.ring}: enabled {body.value}: 0 or 1")
        if self._features is None or not self._features & Feature.PROTOCOL_FEATURES:
            raise RefusedError("PROTOCOL_FEATURES was not acknowledged")
        queue.enable(enabled=bool(body.value))

    def _stop(self, queue: Queue) -> None:
        """Stop a queue's ring, and suspend the device with the last one."""
        if queue.under_way:
            self._device.drain(queue)
            self._drain(queue)
        self._device.stop_queue(queue)
        queue.stop()
        if queue.kick is not None:
            queue.kick.close()
            queue.kick = None
        self._suspend_if_stopped()

    def _suspend_if_stopped(self) -> None:
        if self.suspended:
            try:
                self._device.suspend()
            except Exception as exc:  # noqa: BLE001 - a device that fails here has failed for good
                self._fail(f"suspend: {exc}")

    def _resume(self, queue: Queue) -> None:
        try:
            self._device.resume()
        except Exception as exc:  # noqa: BLE001 - likewise
            queue.stop()
            self._fail(f"resume: {exc}")
            raise RefusedError(f"the device has failed: {self.failed}") from None

    def _fail(self, why: str) -> None:
        self.failed = why
        self._notice(f"the device has failed for good: {why}")

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
        if self.backend is None or not self._protocol & ProtocolFeature.CONFIG:
            self._config_changed = False
            return False
        self._config_changed = not self.backend.tell(BackendRequestId.CONFIG_CHANGE_MSG)
        return self._config_changed

    def _reset_device(self, _body: wire.Empty, _fds: Descriptors) -> None:
        for queue in self.queues:
            if queue.running:
                self._stop(queue)
            queue.enable(enabled=False)
            queue.next_base = 0
        self._features = None
        self._apply_log()
        self._device.reset()

    # In-flight descriptors.

    def _get_inflight(self, body: wire.Inflight, _fds: Descriptors) -> Reply:
        size = self._inflight_size(body)
        fd, mapping = self._files.make(size)
        mapping.close()
        reply = wire.Inflight(size, 0, body.rings, body.ring_size)
        return Reply(wire.encode_inflight(reply), fd)

    def _inflight_size(self, body: wire.Inflight) -> int:
        if not 1 <= body.rings <= len(self.queues) or not body.ring_size:
            raise RefusedError(
                f"in-flight memory for {body.rings} queues of {body.ring_size}: there are {len(self.queues)}"
            )
        return inflight_size(body.ring_size) * body.rings

    def _set_inflight(self, body: wire.Inflight, fds: Descriptors) -> None:
        if not self.suspended:
            raise RefusedError("a queue runs")
        size = self._inflight_size(body)
        if body.size < size:
            raise RefusedError(f"in-flight memory of {body.size} bytes: {size} are needed")
        mapping = self._files.map(fds.look()[0], body.offset, size)
        before, self._inflight = self._inflight, mapping
        each = inflight_size(body.ring_size)
        for queue in self.queues:
            has = queue.index < body.rings
            start = each * queue.index
            queue.inflight = InflightRing(mapping, start, body.ring_size) if has else None
        if before is not None:
            before.close()

    # The transfer of its state.

    def _transfer(self, body: wire.Transfer, fds: Descriptors) -> Reply:
        if not self.suspended:
            raise RefusedError("a queue runs")
        self._transfers.begin(body.direction, body.phase, fds, self._acknowledged())
        return _number(_NO_FD)

    def _acknowledged(self) -> Sequence[int]:
        return (0 if self._features is None else int(self._features), int(self._protocol))

    def _check_transfer(self) -> int:
        return self._transfers.check()

    @property
    def sources(self) -> Sequence[Waitable]:
        """What the transfer waits for: `go_on` when one is ready."""
        return self._transfers.sources

    def go_on(self) -> None:
        """Carry the transfer on as far as it goes now."""
        self._transfers.go_on()
