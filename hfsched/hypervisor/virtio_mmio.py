"""The registers of a virtio-mmio transport: version 2, for any type of device, which is behind `VirtioBackend`.

What a driver does wrong is no error of ours.  A write of 0 to the status, and of 0 to QueueReady, returns when the device no longer
touches the queue's memory.
Source: Virtual I/O Device (VIRTIO) 1.3, sections 2.1, 3.1 and 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from hfsched.abi.virtio import CONFIG, MAGIC, Interrupt, Register, RingLayout, Status
from hfsched.hypervisor.records import VirtioRecord
from hfsched.hypervisor.virtio_backend import (
    ADDRESSES,
    NO_REGION,
    VirtioBackend,
    VirtioQueue,
    check_registers,
)

if TYPE_CHECKING:
    from hfsched.hypervisor.vm import Vcpu
    from hfsched.runtime.base import Runtime

__all__ = ["VirtioMmio"]

_VERSION = 2
_VENDOR = 0x7366_6668  # "hfsf"
_VERSION_1 = 1 << 32
_WORD = 0xFFFF_FFFF


class VirtioMmio:
    """A `Device` of the MMIO bus, of a virtio type by number.  `set_level` is its interrupt line.

    `used`, `config_changed` and `need_reset` are for the device behind it, from any task.
    """

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        device_id: int,
        backend: VirtioBackend,
        set_level: Callable[[bool], None],
    ) -> None:
        self.name = name
        self._id = device_id
        self._backend = backend
        self._set_level = set_level
        self._lock = runtime.lock(f"{name}.registers", state=self.key)
        self._status = Status(0)
        self._interrupt = Interrupt(0)
        self._selected = {"device": 0, "driver": 0, "queue": 0}
        self._driver_features = 0
        self._queues = self._fresh_queues()
        self._generation = 0
        self._stopping = False  # by a vCPU that waits for it: other vCPUs' writes are ignored

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        numbers = (int(self._status), int(self._interrupt), self._driver_features, self._generation)
        queues = tuple(queue.key() for queue in self._queues)
        return (numbers, tuple(self._selected.values()), queues, self._stopping)

    def _fresh_queues(self) -> list[VirtioQueue]:
        backend = self._backend
        return [VirtioQueue(backend.queue_size_max) for _ in range(backend.queues)]

    def save(self) -> VirtioRecord:
        """Return all of the state; no vCPU executes."""
        with self._lock:
            device, driver, queue = self._selected.values()
            return VirtioRecord(
                int(self._status),
                int(self._interrupt),
                (device, driver, queue),
                self._driver_features,
                tuple(each.save() for each in self._queues),
                self._generation,
            )

    def restore(self, record: VirtioRecord) -> None:
        """Put back what `save` returned; raises UserError for what no device can have.  The line is restored apart."""
        check_registers(record, self.name, len(self._queues))
        with self._lock:
            self._status, self._interrupt = Status(record.status), Interrupt(record.interrupt)
            self._selected = dict(zip(self._selected, record.selected, strict=True))
            self._driver_features = record.driver_features
            for queue, each in zip(self._queues, record.queues, strict=True):
                queue.restore(each)
            self._generation = record.generation

    # The bus.

    def read(self, vcpu: Vcpu, offset: int, size: int) -> int:  # noqa: ARG002
        """Return a register, or a part of the configuration space; 0 for what there is not."""
        if offset >= CONFIG:
            found = self._backend.config()[offset - CONFIG : offset - CONFIG + size]
            return int.from_bytes(found, "little")
        if size != 4:
            return 0
        with self._lock:
            return self._register(offset)

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int) -> None:  # noqa: ARG002
        """Take a register, or a part of the configuration space; ignore what there is not."""
        if offset >= CONFIG:
            at = offset - CONFIG
            if at + size <= len(self._backend.config()):
                self._backend.write_config(at, value.to_bytes(size, "little"))
        elif size != 4:
            pass
        elif offset == Register.QUEUE_NOTIFY:
            with self._lock:
                known = bool(self._status & Status.DRIVER_OK) and self._ready(value)
            if known:
                self._backend.notify(value)
        elif offset == Register.STATUS:
            self._write_status(value)
        elif offset == Register.QUEUE_READY:
            self._write_ready(value)
        else:
            with self._lock:
                if not self._stopping:
                    self._write_register(offset, value)
            if offset == Register.INTERRUPT_ACK:
                self._update_line()

    def _ready(self, index: int) -> bool:
        return index < len(self._queues) and self._queues[index].ready

    def _queue(self) -> VirtioQueue | None:
        selected = self._selected["queue"]
        return self._queues[selected] if selected < len(self._queues) else None

    def _register(self, offset: int) -> int:
        queue = self._queue()
        match offset:
            case Register.MAGIC_VALUE:
                return MAGIC
            case Register.VERSION:
                return _VERSION
            case Register.DEVICE_ID:
                return self._id
            case Register.VENDOR_ID:
                return _VENDOR
            case Register.DEVICE_FEATURES:
                selected = self._selected["device"]
                return self._backend.features >> 32 * selected & _WORD if selected < 2 else 0
            case Register.QUEUE_SIZE_MAX:
                return 0 if queue is None else self._backend.queue_size_max
            case Register.QUEUE_READY:
                return 0 if queue is None else int(queue.ready)
            case Register.INTERRUPT_STATUS:
                return int(self._interrupt)
            case Register.STATUS:
                return int(self._status)
            case Register.CONFIG_GENERATION:
                return self._generation
        return _WORD if offset in NO_REGION else 0

    def _write_register(self, offset: int, value: int) -> None:
        queue = self._queue()
        match offset:
            case Register.DEVICE_FEATURES_SEL:
                self._selected["device"] = value
            case Register.DRIVER_FEATURES_SEL:
                self._selected["driver"] = value
            case Register.QUEUE_SEL:
                self._selected["queue"] = value
            case Register.DRIVER_FEATURES:
                self._take_features(value)
            case Register.INTERRUPT_ACK:
                self._interrupt &= ~Interrupt(value & 3)
            case Register.QUEUE_SIZE if queue is not None and not queue.ready:
                queue.size = value
            case _ if offset in ADDRESSES and queue is not None and not queue.ready:
                part, shift = ADDRESSES[Register(offset)]
                kept = queue.addresses[part] & ~(_WORD << shift)
                queue.addresses[part] = kept | value << shift

    def _take_features(self, value: int) -> None:
        selected = self._selected["driver"]
        if self._status & Status.FEATURES_OK:
            return
        if selected < 2:
            kept = self._driver_features & ~(_WORD << 32 * selected)
            self._driver_features = kept | value << 32 * selected
        elif value:  # bits that were not offered: FEATURES_OK will not stay set
            self._driver_features |= 1 << 64

    # Queues.

    def _write_ready(self, value: int) -> None:
        with self._lock:
            queue, index = self._queue(), self._selected["queue"]
            if queue is None or self._stopping:
                return
            started = bool(self._status & Status.DRIVER_OK)
            if value & 1:
                if not started:  # no queue joins a device that works already
                    queue.ready = 0 < queue.size <= self._backend.queue_size_max
                return
            if not queue.ready:
                return
            self._stopping = started
        if started:
            self._backend.stop_queue(index)
        with self._lock:
            queue.ready = False
            self._stopping = False

    # Status.

    def _write_status(self, value: int) -> None:
        if not value:
            self._reset()
            return
        start = None
        with self._lock:
            if self._stopping:
                return
            before = self._status
            status = Status(value & 0xFF) | before  # bits are cleared by a reset alone
            status = status & ~Status.NEEDS_RESET | before & Status.NEEDS_RESET
            if status & Status.FEATURES_OK and not before & Status.FEATURES_OK:
                unknown = self._driver_features & ~self._backend.features
                if unknown or not self._driver_features & _VERSION_1:
                    status &= ~Status.FEATURES_OK
            if not status & Status.FEATURES_OK:
                status &= ~Status.DRIVER_OK
            self._status = status
            if status & Status.DRIVER_OK and not before & Status.DRIVER_OK:
                start = [
                    RingLayout(index, queue.size, *queue.addresses)
                    for index, queue in enumerate(self._queues)
                    if queue.ready
                ]
                features = self._driver_features
        if start is not None:
            self._backend.start(features, start)

    def _reset(self) -> None:
        with self._lock:
            if self._stopping:
                return
            started = bool(self._status & Status.DRIVER_OK)
            self._stopping = True
        if started:
            self._backend.stop()
        with self._lock:
            self._status, self._interrupt = Status(0), Interrupt(0)
            self._selected = dict.fromkeys(self._selected, 0)
            self._driver_features = 0
            self._queues = self._fresh_queues()
            self._stopping = False
        self._update_line()

    # From the device.

    def used(self) -> None:
        """Interrupt: requests were given back."""
        self._raise(Interrupt.USED)

    def config_changed(self) -> None:
        """Interrupt: the configuration space is another than before."""
        with self._lock:
            self._generation = self._generation + 1 & _WORD
        self._raise(Interrupt.CONFIG)

    def need_reset(self) -> None:
        """Let the driver know that nothing goes on until it resets the device."""
        with self._lock:
            if not self._status & Status.DRIVER_OK:
                return
            self._status |= Status.NEEDS_RESET
        self._raise(Interrupt.CONFIG)

    def _raise(self, why: Interrupt) -> None:
        with self._lock:
            if not self._status & Status.DRIVER_OK or self._stopping:
                return
            self._interrupt |= why
        self._update_line()

    def _update_line(self) -> None:
        """Set the line as the interrupts are, without the lock: who sets it last finds it right, or sets it again."""
        while True:
            with self._lock:
                level = bool(self._interrupt)
            self._set_level(level)
            with self._lock:
                if bool(self._interrupt) is level:
                    return
