"""A machine with a device is saved while its guest writes, and goes on with another back-end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from frontends.ours import OurDevice
from frontends.storage_daemon import StorageDaemon
from progress import QUIET, QUIET_NS
from talk import UNICORN, Talk

from hfsched.errors import UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.outbox import Sent
from hfsched.vmm.devicespec import DeviceSpec
from hfsched.vmm.machine import Machine
from hfsched.vmm.records import MachineRecord
from hfsched.vmm.saving import restore, save, spec_of

pytestmark = pytest.mark.skipif(UNICORN.why_not() is not None, reason=str(UNICORN.why_not()))

SECTOR = 512
COUNT = 1500


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SECTOR * 2048))
    return path


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def numbered(disk: Path, count: int) -> bool:
    data = disk.read_bytes()
    return all(
        data[at * SECTOR :][:SECTOR] == f"sector {at}".encode().ljust(SECTOR, b"\0")
        for at in range(1, 1 + count)
    )


def saved(machine: Talk) -> tuple[MachineRecord, bytes]:
    """Return the record of a machine, as it is stored, and its memory."""
    with machine.machine.suspension.held("save", machine.deadline(), frozen=True):
        record = save(machine.machine, machine.deadline())
        ram = machine.machine.rams["block"]
        stored = msgspec.msgpack.encode(record)
        return msgspec.msgpack.decode(stored, type=MachineRecord), ram.read(0, ram.size)


class Again:
    """A machine that was saved, used in a ``with``."""

    def __init__(self, record: MachineRecord, memory: bytes) -> None:
        self._failures: list[str] = []
        self.moved = threading.Event()
        self.runtime = ThreadRuntime(
            lambda task, error: self._failures.append(f"{task}: {error!r}")
        )
        self.machine = Machine(
            spec_of(record),
            self.runtime,
            lambda _vm, _line: None,
            on_activity=self.moved.set,
            saved=record,
        )
        try:
            self.machine.rams["block"].write(0, memory)
            restore(self.machine, record)
        except BaseException:
            self.machine.close()
            raise

    def __enter__(self) -> Self:
        self.machine.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.machine.close()
        self.runtime.close()
        assert self._failures == []

    def ask(self, text: str) -> str:
        end = self.machine.endpoint("block", 1)
        deadline = self.runtime.now() + QUIET_NS
        assert end.send(text.encode(), deadline) is Sent.SENT
        answer = end.recv(deadline)
        assert answer is not None
        return answer.payload.decode()


def test_a_guest_goes_on_writing_with_a_fresh_back_end(disk: Path, socket: Path) -> None:
    devices = [DeviceSpec(type="block", socket=str(socket))]
    with OurDevice(socket, "block", str(disk)), Talk(UNICORN, "block", devices=devices) as machine:
        machine.send(f"number 1 {COUNT} 4".encode())
        assert machine.until(lambda: numbered(disk, 100))
        with machine.machine.suspension.held("test", machine.deadline()):
            record, memory = saved(machine)
            then = disk.read_bytes()
    for _ in range(2):  # the same state any number of times
        disk.write_bytes(then)
        assert not numbered(disk, COUNT)
        with OurDevice(socket, "block", str(disk)), Again(record, memory) as again:
            assert again.ask("state") == f"completed {COUNT} odd 0"
            assert numbered(disk, COUNT)
            assert again.ask("read 7") == "sector 7"


def test_a_device_that_no_driver_uses_is_saved_too(disk: Path, socket: Path) -> None:
    devices = [DeviceSpec(type=4, socket=str(socket))]
    with OurDevice(socket, "block", str(disk)):
        with Talk(UNICORN, "block", devices=devices) as machine:
            assert machine.line() == "block: stopped: a device of another type"
            record, memory = saved(machine)
        with Again(record, memory) as again:
            again.moved.wait(QUIET)
            assert again.machine.vm_states()[0].abort is None


def test_a_back_end_without_device_state_is_named(disk: Path, socket: Path) -> None:
    devices = [DeviceSpec(type="block", socket=str(socket))]
    with StorageDaemon(socket, disk), Talk(UNICORN, "block", devices=devices) as machine:
        why = r"device block at .*: its back-end cannot save its state \(DEVICE_STATE\)"
        with pytest.raises(UserError, match=why):
            saved(machine)
        assert machine.ask("read 0") == ""


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("frontend", "features"), 1 << 63, "does not offer features 0x8000000000000000"),
        (("frontend", "state"), b"no state", "CHECK_DEVICE_STATE: it has failed"),
        (("frontend", "rings", 0, "base"), 1 << 20, "queue 0 goes on at 1048576"),
        (("frontend", "rings", 0, "layout", "index"), 1, "queue 1: its back-end has 1"),
        (("frontend", "rings", 0, "layout", "driver"), 0, "driver area at 0x0: not in the VM's"),
        (("registers", "status"), 256, "status 0x100"),
        (("registers", "interrupt"), 4, "interrupt 0x4"),
        (("registers", "queues"), [], "0 queues"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(
    disk: Path, socket: Path, place: tuple[Any, ...], value: object, why: str
) -> None:
    devices = [DeviceSpec(type="block", socket=str(socket))]
    with OurDevice(socket, "block", str(disk)):
        with Talk(UNICORN, "block", devices=devices) as machine:
            assert machine.ask("read 0") == ""
            record, memory = saved(machine)
        found: Any = msgspec.msgpack.decode(msgspec.msgpack.encode(record))
        within = found["vms"][0]["devices"][0]
        for key in place[:-1]:
            within = within[key]
        within[place[-1]] = value
        changed = msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=MachineRecord)
        with pytest.raises(UserError, match=why):
            Again(changed, memory)
