"""Typed records of the hypervisor's state, for snapshots; see `hfsched.mailbox.records`."""

from __future__ import annotations

import msgspec

from hfsched.mailbox.records import MailboxRecord

__all__ = [
    "InterruptsRecord",
    "PagesRecord",
    "PrimaryRecord",
    "VcpuRecord",
    "VirtioQueueRecord",
    "VirtioRecord",
    "VmRecord",
]


class InterruptsRecord(msgspec.Struct, frozen=True):
    """Bit n of `enabled` and `pending` is interrupt id n; `sources` are {id, source} of high lines."""

    enabled: int
    pending: int
    sources: tuple[tuple[int, str], ...] = ()


class PagesRecord(msgspec.Struct, frozen=True):
    """{page number, permissions, owned, exclusive} of each page whose mode is not the usual one."""

    overrides: tuple[tuple[int, int, bool, bool], ...] = ()


class VcpuRecord(msgspec.Struct, frozen=True):
    """One vCPU, but for its CPU's registers: those are the engine's (`Vcpu.save`)."""

    state: str
    start: tuple[int, int] | None
    direct_origin: int | None
    interrupts: InterruptsRecord


class VmRecord(msgspec.Struct, frozen=True):
    """One VM, but for its memory and the CPUs' registers."""

    name: str
    dialect: str
    mailbox: MailboxRecord
    pages: PagesRecord
    vcpus: tuple[VcpuRecord, ...]
    abort_reason: str | None = None
    log: bytes = b""


class VirtioQueueRecord(msgspec.Struct, frozen=True):
    """What a driver has said of a queue: its size, the addresses of its three parts, whether it is ready."""

    size: int
    addresses: tuple[int, int, int]
    ready: bool


class VirtioRecord(msgspec.Struct, frozen=True):
    """The registers of a virtio transport; `selected` are for the device's features, the driver's, and queues."""

    status: int
    interrupt: int
    selected: tuple[int, int, int]
    driver_features: int
    queues: tuple[VirtioQueueRecord, ...]
    generation: int


class PrimaryRecord(msgspec.Struct, frozen=True):
    """The primary: its mailbox, and the message in RX."""

    mailbox: MailboxRecord
    message: bytes
