"""The guest `block` on a disk that another program serves: ours, and qemu-storage-daemon."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from frontends.ours import OurDevice
from frontends.storage_daemon import StorageDaemon
from progress import QUIET
from talk import KVM_X86, UNICORN, Talk, Target

from hfsched.vmm.devicespec import DeviceSpec

SECTOR = 512
SECTORS = 2048
PART = 8 * SECTOR  # what the guest reads at once for a sum
Backend = OurDevice | StorageDaemon


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a disk of random bytes, with a text in its first sector."""
    path = tmp_path / "disk"
    path.write_bytes(b"hello".ljust(SECTOR, b"\0") + random.Random(1).randbytes(SECTOR * 2047))
    return path


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def ours(socket: Path, disk: Path) -> OurDevice:
    return OurDevice(socket, "block", str(disk))


BACKENDS: list[Callable[[Path, Path], Backend]] = [ours, StorageDaemon]


@pytest.fixture(params=BACKENDS, ids=["ours", "storage-daemon"])
def backend(request: pytest.FixtureRequest) -> Callable[[Path, Path], Backend]:
    made: Callable[[Path, Path], Backend] = request.param
    return made


@pytest.fixture(params=[UNICORN, KVM_X86], ids=str)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    why_not = found.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    return found


def talk(socket: Path, target: Target = UNICORN) -> Talk:
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    return Talk(target, "block", devices=[DeviceSpec(type="block", socket=str(socket))])


def sum_of(data: bytes) -> str:
    """Return the sum that the guest says of these sectors."""
    parts = range(0, len(data), PART)
    sums = (zlib.crc32(data[at : at + PART]).to_bytes(4, "little") for at in parts)
    return f"{zlib.crc32(b''.join(sums)):#x}"


def numbered(disk: Path, first: int, count: int) -> bool:
    """Whether sectors have their numbers."""
    data = disk.read_bytes()
    return all(
        data[at * SECTOR :][:SECTOR] == f"sector {at}".encode().ljust(SECTOR, b"\0")
        for at in range(first, first + count)
    )


def until_logged(machine: Talk, text: str) -> None:
    """Wait for a line of the guest."""
    while machine.line() != text:
        pass


def next_notice(machine: Talk, text: str) -> None:
    """Wait for a notice that has this text."""
    while text not in machine.notices.get(timeout=QUIET):
        pass


def test_a_guest_reads_and_writes_a_disk(
    backend: Callable[[Path, Path], Backend], target: Target, disk: Path, socket: Path
) -> None:
    with backend(socket, disk), talk(socket, target) as machine:
        assert machine.ask("size") == f"{SECTORS} sectors"
        assert machine.ask("read 0") == "hello"
        assert machine.ask("write 1 from the guest") == "wrote 1"
        assert machine.ask("read 1") == "from the guest"
        assert machine.ask("flush") == "flushed"
        assert machine.ask("number 100 40 4") == "numbered 40"
        assert numbered(disk, 100, 40)
        found = disk.read_bytes()
        assert found[SECTOR : SECTOR + 15] == b"from the guest\0"
        count = SECTORS if target is UNICORN else 64
        assert machine.ask(f"sum 0 {count}") == sum_of(found[: count * SECTOR])
        assert machine.ask(f"read {SECTORS}") == "error: the device says that it failed"
        assert machine.ask("state").endswith("odd 0")


def test_a_disk_grows(disk: Path, socket: Path) -> None:
    with StorageDaemon(socket, disk) as daemon, talk(socket) as machine:
        until_logged(machine, "block: up, 2048 sectors")
        daemon.resize(2 * SECTORS * SECTOR)
        until_logged(machine, "block: 4096 sectors")


@pytest.mark.parametrize(("make", "depth"), [(ours, 4), (StorageDaemon, 1)])
def test_a_back_end_is_killed_while_the_guest_writes(
    make: Callable[[Path, Path], Backend], depth: int, disk: Path, socket: Path
) -> None:
    """Each request is completed once: with several in flight where the back-end notes them, else with one."""
    with ExitStack() as stack:
        device: Backend = stack.enter_context(make(socket, disk))
        machine = stack.enter_context(talk(socket))
        for turn in range(3):
            first = 1 + 600 * turn
            machine.send(f"number {first} 600 {depth}".encode())
            assert machine.until(lambda first=first: numbered(disk, first, 20))
            device.kill()
            next_notice(machine, "the back-end is lost: it has closed the connection")
            device = stack.enter_context(make(socket, disk))
            next_notice(machine, "the back-end is back")
            assert machine.receive().decode() == "numbered 600"
            assert numbered(disk, first, 600)
        assert machine.ask("state") == "completed 1800 odd 0"
