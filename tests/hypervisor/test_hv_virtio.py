"""The registers of virtio-mmio, as a driver uses them, and as one that does not keep to the rules does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.abi.virtio import CONFIG, MAGIC, Interrupt, Register, RingLayout, Status
from hfsched.hypervisor.virtio_mmio import VirtioMmio
from hfsched.runtime.threads import ThreadRuntime

if TYPE_CHECKING:
    from hfsched.hypervisor.vm import Vcpu

VERSION_1 = 1 << 32
FEATURES = VERSION_1 | 1 << 9 | 1 << 5
WORD = 0xFFFF_FFFF


class FakeBackend:
    """A device that notes what is asked of it."""

    features = FEATURES
    queues = 2
    queue_size_max = 16

    def __init__(self) -> None:
        self.said: list[object] = []
        self.space = bytes(range(12))
        self.while_stopping: Callable[[], None] = lambda: None

    def config(self) -> bytes:
        return self.space

    def write_config(self, offset: int, data: bytes) -> None:
        self.said.append(("config", offset, data))

    def start(self, features: int, rings: Sequence[RingLayout]) -> None:
        self.said.append(("start", features, list(rings)))

    def stop(self) -> None:
        self.while_stopping()
        self.said.append("stop")

    def stop_queue(self, index: int) -> None:
        self.while_stopping()
        self.said.append(("stop", index))

    def notify(self, index: int) -> None:
        self.said.append(("notify", index))


class Registers:
    """The registers, and a driver of them; `levels` is what the line was set to."""

    def __init__(self, runtime: ThreadRuntime) -> None:
        self.backend = FakeBackend()
        self.levels: list[bool] = []
        self.device = VirtioMmio(runtime, "device", 2, self.backend, self.levels.append)
        self.vcpu = cast("Vcpu", None)

    def get(self, offset: int, size: int = 4) -> int:
        return self.device.read(self.vcpu, offset, size)

    def set(self, offset: int, value: int, size: int = 4) -> None:
        self.device.write(self.vcpu, offset, size, value)

    def acknowledge(self, features: int) -> bool:
        """Reset, and agree on features; return whether the device takes them."""
        self.set(Register.STATUS, 0)
        self.set(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
        for part in (0, 1):
            self.set(Register.DRIVER_FEATURES_SEL, part)
            self.set(Register.DRIVER_FEATURES, features >> 32 * part & WORD)
        self.set(Register.STATUS, self.get(Register.STATUS) | Status.FEATURES_OK)
        return bool(self.get(Register.STATUS) & Status.FEATURES_OK)

    def queue(self, ring: RingLayout) -> None:
        self.set(Register.QUEUE_SEL, ring.index)
        self.set(Register.QUEUE_SIZE, ring.size)
        for low, address in (
            (Register.QUEUE_DESC_LOW, ring.descriptors),
            (Register.QUEUE_DRIVER_LOW, ring.driver),
            (Register.QUEUE_DEVICE_LOW, ring.device),
        ):
            self.set(low, address & WORD)
            self.set(low + 4, address >> 32)
        self.set(Register.QUEUE_READY, 1)

    def begin(self, *rings: RingLayout) -> None:
        assert self.acknowledge(VERSION_1)
        for ring in rings:
            self.queue(ring)
        self.set(Register.STATUS, self.get(Register.STATUS) | Status.DRIVER_OK)


RING = RingLayout(1, 8, 0x1_4000_0000, 0x4000_1000, 0x4000_2000)


@pytest.fixture
def runtime() -> Iterator[ThreadRuntime]:
    made = ThreadRuntime()
    yield made
    made.close()


@pytest.fixture
def registers(runtime: ThreadRuntime) -> Registers:
    return Registers(runtime)


def test_what_a_driver_reads_first(registers: Registers) -> None:
    first = (Register.MAGIC_VALUE, Register.VERSION, Register.DEVICE_ID)
    assert [registers.get(offset) for offset in first] == [MAGIC, 2, 2]
    found = []
    for part in (0, 1, 2):
        registers.set(Register.DEVICE_FEATURES_SEL, part)
        found.append(registers.get(Register.DEVICE_FEATURES))
    assert found == [FEATURES & WORD, FEATURES >> 32, 0]
    for queue, size in ((0, 16), (1, 16), (2, 0)):
        registers.set(Register.QUEUE_SEL, queue)
        assert registers.get(Register.QUEUE_SIZE_MAX) == size
    assert registers.get(Register.SHM_LEN_LOW) == WORD, "no shared memory region"


def test_a_driver_starts_notifies_and_resets(registers: Registers) -> None:
    registers.begin(RING)
    registers.set(Register.QUEUE_NOTIFY, 1)
    registers.set(Register.QUEUE_NOTIFY, 0)
    registers.set(Register.QUEUE_NOTIFY, 2)
    assert registers.backend.said == [("start", VERSION_1, [RING]), ("notify", 1)]
    registers.set(Register.STATUS, 0)
    assert registers.backend.said[2:] == ["stop"]
    assert registers.get(Register.STATUS) == 0
    registers.set(Register.QUEUE_SEL, 1)
    assert registers.get(Register.QUEUE_READY) == 0
    registers.begin(RING)
    assert registers.backend.said[3:] == [("start", VERSION_1, [RING])]


@pytest.mark.parametrize("features", [0, 1 << 9, VERSION_1 | 1, VERSION_1 | 1 << 40])
def test_features_that_were_not_offered_are_not_taken(registers: Registers, features: int) -> None:
    assert not registers.acknowledge(features)
    registers.set(Register.STATUS, 0xF)
    assert registers.get(Register.STATUS) == Status.ACKNOWLEDGE | Status.DRIVER
    assert registers.backend.said == []
    assert registers.acknowledge(FEATURES)


def test_features_do_not_change_once_they_are_taken(registers: Registers) -> None:
    assert registers.acknowledge(VERSION_1)
    registers.set(Register.DRIVER_FEATURES_SEL, 0)
    registers.set(Register.DRIVER_FEATURES, 1 << 9)
    registers.set(Register.STATUS, 0xF)
    assert registers.backend.said == [("start", VERSION_1, [])]


def test_the_line_is_high_until_all_is_acknowledged(registers: Registers) -> None:
    registers.begin(RING)
    registers.device.used()
    registers.device.config_changed()
    assert registers.get(Register.INTERRUPT_STATUS) == Interrupt.USED | Interrupt.CONFIG
    assert registers.get(Register.CONFIG_GENERATION) == 1
    registers.set(Register.INTERRUPT_ACK, Interrupt.USED)
    assert registers.levels[-1] is True
    registers.set(Register.INTERRUPT_ACK, Interrupt.CONFIG)
    assert registers.levels[-1] is False
    registers.device.used()
    assert registers.levels[-1] is True
    registers.set(Register.STATUS, 0)
    assert registers.levels[-1] is False
    registers.device.used()
    assert registers.levels[-1] is False, "it was reset"


def test_an_interrupt_that_comes_while_another_is_acknowledged_is_not_lost(
    runtime: ThreadRuntime,
) -> None:
    """Whoever sets the line last finds it as it is to be, in whichever order the two set it."""
    registers = Registers(runtime)
    registers.begin(RING)
    registers.device.used()
    levels, set_level = registers.levels, registers.levels.append
    again = iter([True])

    def interrupted(level: bool) -> None:
        if not level and next(again, False):  # about to be lowered, when the next one comes
            registers.device.used()
        set_level(level)

    registers.device._set_level = interrupted
    registers.set(Register.INTERRUPT_ACK, Interrupt.USED)
    assert levels[-1] is True
    assert registers.get(Register.INTERRUPT_STATUS) == Interrupt.USED


def test_a_device_that_needs_a_reset_says_so_until_it_is_reset(registers: Registers) -> None:
    registers.device.need_reset()
    assert registers.get(Register.STATUS) == 0, "nobody uses it"
    registers.begin(RING)
    registers.device.need_reset()
    assert registers.levels[-1] is True
    registers.set(Register.STATUS, 0xF)
    assert registers.get(Register.STATUS) == 0xF | Status.NEEDS_RESET
    registers.set(Register.STATUS, 0)
    assert registers.get(Register.STATUS) == 0


def test_a_queue_is_stopped_alone(registers: Registers) -> None:
    registers.begin(RING)
    registers.set(Register.QUEUE_SEL, 1)
    registers.set(Register.QUEUE_READY, 0)
    assert registers.backend.said[1:] == [("stop", 1)]
    assert registers.get(Register.QUEUE_READY) == 0
    registers.set(Register.QUEUE_NOTIFY, 1)
    registers.set(Register.QUEUE_READY, 1)
    assert registers.get(Register.QUEUE_READY) == 0, "none joins a device that works"
    assert registers.backend.said[2:] == []


def test_other_vcpus_change_nothing_while_one_resets(registers: Registers) -> None:
    registers.begin(RING)

    def meddle() -> None:
        assert registers.get(Register.STATUS) == 0xF, "it is 0 when the device has stopped"
        registers.set(Register.STATUS, 0)
        registers.set(Register.STATUS, 0xF)
        registers.set(Register.QUEUE_SEL, 1)
        registers.set(Register.QUEUE_READY, 0)
        registers.device.used()

    registers.backend.while_stopping = meddle
    registers.set(Register.STATUS, 0)
    assert registers.backend.said[1:] == ["stop"]
    assert registers.get(Register.STATUS) == registers.get(Register.INTERRUPT_STATUS) == 0


def test_the_configuration_space_is_read_and_written_in_any_size(registers: Registers) -> None:
    assert registers.get(CONFIG + 4, 8) == int.from_bytes(bytes(range(4, 12)), "little")
    assert registers.get(CONFIG + 3, 1) == 3
    assert registers.get(CONFIG + 10, 4) == 0x0B0A, "0 behind the end"
    assert registers.get(0xFFC) == 0
    registers.set(CONFIG + 4, 0x1234, 2)
    registers.set(CONFIG + 11, 0x1234, 2)
    assert registers.backend.said == [("config", 4, b"\x34\x12")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*Register, *range(0, 0x120, 2), 0xFF8]),
            st.sampled_from([1, 2, 4, 8]),
            st.one_of(st.integers(0, 20), st.integers(0, (1 << 64) - 1)),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_any_accesses_do_no_harm(accesses: list[tuple[int, int, int, bool]]) -> None:
    registers = Registers(ThreadRuntime())
    started = False
    for offset, size, value, write in accesses:
        if write:
            registers.set(offset, value & ((1 << 8 * size) - 1), size)
        else:
            assert 0 <= registers.get(offset, size) < 1 << 8 * size
    for said in registers.backend.said:
        if isinstance(said, tuple) and said[0] == "start":
            assert not started
            assert said[1] & ~FEATURES == 0
            assert said[1] & VERSION_1
            assert all(1 <= ring.size <= 16 for ring in said[2])
            started = True
        elif said == "stop":
            assert started
            started = False
    assert registers.levels[-1:] in ([], [bool(registers.get(Register.INTERRUPT_STATUS))])
