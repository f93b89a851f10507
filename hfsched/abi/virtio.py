"""Numbers of virtio: device types, status bits, the registers of virtio-mmio, and where a driver puts a ring.

Source: Virtual I/O Device (VIRTIO) 1.3, sections 2.1, 2.7, 4.2.2 and 5.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from msgspec import Struct

__all__ = [
    "CONFIG",
    "DEVICES_MAX",
    "DEVICE_TYPES",
    "FIRST_INTID",
    "MAGIC",
    "WINDOW_BASE",
    "WINDOW_SIZE",
    "Interrupt",
    "Register",
    "RingLayout",
    "Status",
]

MAGIC = 0x7472_6976  # "virt"
CONFIG = 0x100  # offset of the configuration space

# Where hfsched puts the transports of a VM: the n-th has a page of its own, and an interrupt id.
WINDOW_BASE = 0x0A00_0000
WINDOW_SIZE = 0x1000
FIRST_INTID = 32
DEVICES_MAX = 16

DEVICE_TYPES = {
    "net": 1,
    "block": 2,
    "console": 3,
    "rng": 4,
    "balloon": 5,
    "scsi": 8,
    "gpu": 16,
    "input": 18,
    "vsock": 19,
    "crypto": 20,
    "sound": 25,
    "fs": 26,
    "i2c": 34,
    "can": 36,
    "gpio": 41,
}
"""Names for the numbers of some types of devices; any other is given by its number."""


class Register(IntEnum):
    """Offsets of the 32-bit registers."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_SIZE_MAX = 0x034
    QUEUE_SIZE = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_SEL = 0x0AC
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    QUEUE_RESET = 0x0C0
    CONFIG_GENERATION = 0x0FC


class Status(IntFlag):
    """The bits of the device status."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


class Interrupt(IntFlag):
    """Why a device interrupts."""

    USED = 1
    CONFIG = 2


class RingLayout(Struct, frozen=True):
    """Queue `index` of `size` entries: guest addresses of its descriptors, of the driver's and of the device's area."""

    index: int
    size: int
    descriptors: int
    driver: int
    device: int
