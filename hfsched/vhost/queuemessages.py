"""A front-end's messages about queues: they start and stop rings, and with them the device."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from hfsched.errors import describe
from hfsched.vhost.errors import RefusedError
from hfsched.vhost.inflight import InflightRing, inflight_size
from hfsched.vhost.negotiation import Acknowledged, Actions, Reply, number
from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.numbers import Feature, RequestId

if TYPE_CHECKING:
    from hfsched.runtime.base import EventFd, Runtime
    from hfsched.vhost.channel import Descriptors
    from hfsched.vhost.device import Device
    from hfsched.vhost.files import Files
    from hfsched.vhost.mapping import Mapping
    from hfsched.vhost.queue import Queue

__all__ = ["QueueMessages"]


class QueueMessages:
    """Carries them out on queues and their device.

    The device is resumed by the first ring that starts, and suspended when the last one has stopped, before that is answered.
    `drain(queue)` waits, on the device's task, until nothing of a queue is under way; `notice(text)` is told what goes wrong.
    """

    def __init__(
        self,
        runtime: Runtime,
        device: Device,
        queues: Sequence[Queue],
        files: Files,
        acknowledged: Acknowledged,
        drain: Callable[[Queue], None],
        notice: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self._device = device
        self._queues = queues
        self._files = files
        self._acknowledged = acknowledged
        self._drain = drain
        self._notice = notice
        self._inflight: Mapping | None = None
        self.failed = ""  # why the device has failed for good
        self.actions: Actions = {
            RequestId.GET_QUEUE_NUM: lambda _body, _fds: number(len(self._queues)),
            RequestId.SET_VRING_NUM: self._set_size,
            RequestId.SET_VRING_ADDR: self._set_addresses,
            RequestId.SET_VRING_BASE: self._set_base,
            RequestId.GET_VRING_BASE: self._get_base,
            RequestId.SET_VRING_KICK: self._set_kick,
            RequestId.SET_VRING_CALL: self._set_call,
            RequestId.SET_VRING_ERR: self._set_error,
            RequestId.SET_VRING_ENABLE: self._enable,
            RequestId.GET_INFLIGHT_FD: self._get_inflight,
            RequestId.SET_INFLIGHT_FD: self._set_inflight,
        }

    def key(self) -> Hashable:
        """Return its state."""
        return (tuple(queue.key() for queue in self._queues), self._inflight is None, self.failed)

    def reset(self) -> None:
        """Stop all rings, and have queues as they were at first."""
        for queue in self._queues:
            if queue.running:
                self.stop(queue)
            queue.enable(enabled=False)
            queue.next_base = 0

    def close(self) -> None:
        """Stop all rings, and free what the front-end has given."""
        for queue in self._queues:
            if queue.running:
                self.stop(queue)
            queue.close()
        if self._inflight is not None:
            self._inflight.close()

    @property
    def suspended(self) -> bool:
        """Whether no ring runs."""
        return not any(queue.running for queue in self._queues)

    def _find(self, number: int) -> Queue:
        if number >= len(self._queues):
            raise RefusedError(f"queue {number}: there are {len(self._queues)}")
        return self._queues[number]

    def _set_size(self, body: wire.RingState, _fds: Descriptors) -> None:
        self._find(body.ring).set_size(body.value, self._device.queue_size_max)

    def _set_addresses(self, body: wire.RingAddresses, _fds: Descriptors) -> None:
        self._find(body.ring).set_addresses(body)

    def _set_base(self, body: wire.RingState, _fds: Descriptors) -> None:
        queue = self._find(body.ring)
        if queue.running:
            raise RefusedError(f"queue {body.ring}: its index is set while it runs")
        queue.next_base = body.value

    def _get_base(self, body: wire.RingState, _fds: Descriptors) -> Reply:
        queue = self._find(body.ring)
        if queue.running:
            self.stop(queue)
        return Reply(wire.encode_ring_state(body.ring, queue.next_base))

    def _eventfd(self, body: wire.RingFd, fds: Descriptors, what: str) -> EventFd | None:
        if not body.has_fd:
            return None
        self._files.check_eventfd(fds.look()[0])
        return self._runtime.adopt_eventfd(f"queue.{body.ring}.{what}", fds.take())

    def _set_kick(self, body: wire.RingFd, fds: Descriptors) -> None:
        queue = self._find(body.ring)
        if queue.running:
            raise RefusedError(f"queue {body.ring}: it is started while it runs")
        if self._acknowledged.features is None:
            raise RefusedError(
                f"queue {body.ring}: it is started before features were acknowledged"
            )
        kick = self._eventfd(body, fds, "kick")
        if queue.kick is not None:
            queue.kick.close()
        queue.kick = kick
        was_suspended = self.suspended
        queue.start(self._acknowledged.features)
        if was_suspended:
            self._resume(queue)
        try:
            self._device.start_queue(queue)
        except Exception as exc:
            queue.stop()
            self._suspend_if_stopped()
            raise RefusedError(f"queue {body.ring}: {describe(exc)}") from exc

    def _set_call(self, body: wire.RingFd, fds: Descriptors) -> None:
        self._find(body.ring).set_call(self._eventfd(body, fds, "call"))

    def _set_error(self, body: wire.RingFd, fds: Descriptors) -> None:
        queue = self._find(body.ring)
        if queue.error is not None:
            queue.error.close()
        queue.error = self._eventfd(body, fds, "error")

    def _enable(self, body: wire.RingState, _fds: Descriptors) -> None:
        queue = self._find(body.ring)
        if body.value > 1:
            raise RefusedError(f"queue {body.ring}: enabled {body.value}: 0 or 1")
        if not self._acknowledged.has(Feature.PROTOCOL_FEATURES):
            raise RefusedError("PROTOCOL_FEATURES was not acknowledged")
        queue.enable(enabled=bool(body.value))

    def stop(self, queue: Queue) -> None:
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

    # In-flight descriptors.

    def _get_inflight(self, body: wire.Inflight, _fds: Descriptors) -> Reply:
        size = self._inflight_size(body)
        fd, mapping = self._files.make(size)
        mapping.close()
        reply = wire.Inflight(size, 0, body.rings, body.ring_size)
        return Reply(wire.encode_inflight(reply), fd)

    def _inflight_size(self, body: wire.Inflight) -> int:
        if not 1 <= body.rings <= len(self._queues) or not body.ring_size:
            raise RefusedError(
                f"in-flight memory for {body.rings} queues of {body.ring_size}: there are {len(self._queues)}"
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
        for queue in self._queues:
            has = queue.index < body.rings
            start = each * queue.index
            queue.inflight = InflightRing(mapping, start, body.ring_size) if has else None
        if before is not None:
            before.close()
