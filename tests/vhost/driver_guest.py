"""A guest's side of a vhost-user connection: memory, drivers of rings, messages; a part of `driver.FrontEnd`.

By itself it is a front-end of a device that another process serves.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import time
from types import TracebackType
from typing import Self

from driver_messages import Messenger, RefusedByDeviceError
from driver_ring import GUEST, SLOT, RingDriver, Window, ring_bytes

from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.numbers import Feature, ProtocolFeature, RequestId

__all__ = ["PROTOCOL", "WITHIN", "RemoteFrontEnd"]

WITHIN = 120.0  # seconds
USER = 0x7000_0000_0000  # where the memory begins, by the front-end's addresses
PROTOCOL = (
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
_RING_ADDRESSES = struct.Struct("<IIQQQQ")


class RemoteFrontEnd(Messenger):
    """A front-end of a device with so many queues, over a connected socket.  For `start` and `features` see `driver.FrontEnd`."""

    def __init__(
        self,
        connected: socket.socket,
        queues: int,
        *,
        size: int = 64,
        features: int = -1,
        protocol: int = int(PROTOCOL),
        start: bool = True,
    ) -> None:
        connected.settimeout(WITHIN)
        super().__init__(connected, [])
        self.backend: socket.socket | None = None  # where the device sends its own messages
        event_idx = bool(features & Feature.EVENT_IDX) and features >= 0
        each = ring_bytes(size) + SLOT * size
        self.memory_size = each * queues
        self.memory_fd = os.memfd_create("guest")
        os.ftruncate(self.memory_fd, self.memory_size)
        self.memory = mmap.mmap(self.memory_fd, self.memory_size)
        self._view = memoryview(self.memory)
        self._views = [self._view[at * each :][:each] for at in range(queues)]
        self.queues = [
            RingDriver(Window(view), at * each, size, event_idx=event_idx)
            for at, view in enumerate(self._views)
        ]
        if start:
            self.begin(features, protocol)

    def begin(self, features: int = -1, protocol: int = int(PROTOCOL)) -> None:
        """Acknowledge features, share the memory and start all queues."""
        self.negotiate(features, protocol)
        self.set_memory()
        self.resume()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(check=exc is None)

    def close(self, *, check: bool = True) -> None:
        """Be gone, as a process that ends."""
        self._socket.close()
        if self.backend is not None:
            self.backend.close()
            self.backend = None
        for queue in self.queues:
            self._close_eventfds(queue)
        self._free_memory()

    def _free_memory(self) -> None:
        if self.memory_fd < 0:
            return
        os.close(self.memory_fd)
        self.memory_fd = -1
        for view in (*self._views, self._view):
            view.release()
        self.memory.close()

    # Messages.

    def negotiate(self, features: int = -1, protocol: int = int(PROTOCOL)) -> None:
        """Own the device, and acknowledge features."""
        self.ask(RequestId.SET_OWNER)
        offered = self.number(RequestId.GET_FEATURES)
        if features < 0:  # packed rings and EVENT_IDX are for who asks
            features = offered & ~int(Feature.EVENT_IDX | Feature.RING_PACKED | Feature.LOG_ALL)
        self.features = features & offered | Feature.PROTOCOL_FEATURES
        protocol &= self.number(RequestId.GET_PROTOCOL_FEATURES)
        self.ask(RequestId.SET_PROTOCOL_FEATURES, wire.encode_number(protocol))
        self.protocol = protocol
        if protocol & ProtocolFeature.BACKEND_REQ:
            self.backend, theirs = socket.socketpair()
            self.backend.settimeout(WITHIN)
            with theirs:
                self.ask(RequestId.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        self.ask(RequestId.SET_FEATURES, wire.encode_number(self.features))

    def set_memory(self) -> None:
        """Share the memory."""
        region = wire.MemoryRegion(GUEST, self.memory_size, USER, 0)
        table = wire.encode_memory_table([region])
        self.ask(RequestId.SET_MEM_TABLE, table, [self.memory_fd])

    def start(self, index: int, *, enable: bool = True) -> None:
        """Start a queue where it has stopped, with new eventfds."""
        queue = self.queues[index]
        self._close_eventfds(queue)
        queue.kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        queue.call_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        user = USER + queue.offset
        addresses = (user, user + queue.ring.used, user + queue.ring.available)
        state, number = wire.encode_ring_state, wire.encode_number(index)
        self.ask(RequestId.SET_VRING_NUM, state(index, queue.size))
        self.ask(RequestId.SET_VRING_BASE, state(index, queue.base))
        self.ask(RequestId.SET_VRING_ADDR, _RING_ADDRESSES.pack(index, 0, *addresses, 0))
        self.ask(RequestId.SET_VRING_CALL, number, [queue.call_fd])
        self.ask(RequestId.SET_VRING_KICK, number, [queue.kick_fd])
        if enable:
            self.enable(index)

    def enable(self, index: int, value: bool = True) -> None:
        """Enable a queue, or disable it."""
        self.ask(RequestId.SET_VRING_ENABLE, wire.encode_ring_state(index, int(value)))

    def stop(self, index: int) -> int:
        """Stop a queue; return where it is to go on."""
        answer, _ = self.ask(RequestId.GET_VRING_BASE, wire.encode_ring_state(index, 0))
        found, self.queues[index].base = struct.unpack("<II", answer)
        assert found == index
        return self.queues[index].base

    def suspend(self) -> None:
        """Stop all queues, as QEMU does."""
        for index in range(len(self.queues)):
            self.enable(index, False)
        for index in range(len(self.queues)):
            self.stop(index)

    def resume(self) -> None:
        """Start them again."""
        for index in range(len(self.queues)):
            self.start(index)

    def reset(self) -> None:
        """Reset a device whose queues are stopped, its drivers too, and acknowledge its features anew."""
        self.ask(RequestId.RESET_DEVICE)
        for queue in self.queues:
            queue.reset()
        self.ask(RequestId.SET_FEATURES, wire.encode_number(self.features))

    def config(self, offset: int = 0, size: int = 8) -> bytes:
        """Read from the configuration space."""
        answer, _ = self.ask(RequestId.GET_CONFIG, wire.encode_config(offset, bytes(size)))
        return answer[12:]

    def write_config(self, offset: int, data: bytes) -> None:
        """Write to it."""
        self.ask(RequestId.SET_CONFIG, wire.encode_config(offset, data))

    def save(self) -> bytes:
        """Return the state of a device whose queues are stopped, as it travels."""
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb") as reader:
            self._transfer(0, theirs)
            state = reader.read()
            return state if not self._check() else b""

    def restore(self, state: bytes) -> None:
        """Have a device take over a state; raises RefusedByDeviceError."""
        theirs, ours = os.pipe()
        with os.fdopen(ours, "wb") as writer:
            self._transfer(1, theirs)
            writer.write(state)
        if self._check():
            raise RefusedByDeviceError(f"a state: {self.notices[-1:]}")

    def _transfer(self, direction: int, fd: int) -> None:
        try:
            answer, _ = self.ask(
                RequestId.SET_DEVICE_STATE_FD, struct.pack("<II", direction, 0), [fd]
            )
        finally:
            os.close(fd)
        if int.from_bytes(answer, "little") != 0x100:
            raise RefusedByDeviceError(f"a transfer: {self.notices[-1:]}")

    def _check(self) -> int:
        return self.number(RequestId.CHECK_DEVICE_STATE)

    # Requests.

    def request(self, out: bytes = b"", room: int = 0, index: int = 0) -> bytes:
        """Have the device carry out a request, of one that is alone on its queue; return what it has written."""
        queue = self.queues[index]
        head = queue.add(out, room)
        queue.kick()
        ((done, data),) = self.wait(index)
        assert done == head
        return data

    def wait(self, index: int = 0, count: int = 1) -> list[tuple[int, bytes]]:
        """Return {head, what was written} of so many chains or more, when they are given back: the device notifies."""
        queue = self.queues[index]
        found: list[tuple[int, bytes]] = []
        deadline = time.monotonic() + WITHIN
        while len(found := found + queue.take()) < count:
            self.wait_call(index, deadline)
        return found

    def wait_call(self, index: int, deadline: float | None = None) -> None:
        """Wait until the device has notified a queue's driver."""
        deadline = time.monotonic() + WITHIN if deadline is None else deadline
        fd = self.queues[index].call_fd
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
            raise TimeoutError(f"queue {index}: no notification; {self.notices}")
        os.eventfd_read(fd)

    @staticmethod
    def _close_eventfds(queue: RingDriver) -> None:
        for fd in (queue.kick_fd, queue.call_fd):
            if fd >= 0:
                os.close(fd)
        queue.kick_fd = queue.call_fd = -1
