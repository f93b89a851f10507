"""The guest `block` on a disk that another program serves: ours, and qemu-storage-daemon."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from frontends.ours import OurDevice
from frontends.storage_daemon import StorageDaemon
from progress import QUIET
from talk import KVM_X86, UNICORN, Talk, Target

from hfsched.errors import ConfigError, UserError
from hfsched.scheduler.suspension import SuspendError
from hfsched.vmm.attempt import Wish
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


def entered(stack: ExitStack, backend: Backend) -> Backend:
    """Have a back-end end with others."""
    stack.callback(backend.__exit__, None, None, None)
    return backend


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
        device = entered(stack, make(socket, disk))
        machine = stack.enter_context(talk(socket))
        for turn in range(3):
            first = 1 + 600 * turn
            machine.send(f"number {first} 600 {depth}".encode())
            assert machine.until(partial(numbered, disk, first, 20))
            device.kill()
            next_notice(machine, "the back-end is lost: it has closed the connection")
            device = entered(stack, make(socket, disk))
            next_notice(machine, "the back-end is back")
            assert machine.receive().decode() == "numbered 600"
            assert numbered(disk, first, 600)
        assert machine.ask("state") == "completed 1800 odd 0"


# Suspension


@pytest.mark.parametrize(("make", "depth"), [(ours, 4), (StorageDaemon, 4)])
def test_a_suspended_machine_writes_nothing_and_goes_on(
    make: Callable[[Path, Path], Backend], depth: int, disk: Path, socket: Path
) -> None:
    with make(socket, disk), talk(socket) as machine:
        suspension = machine.machine.suspension
        machine.send(f"number 1 1500 {depth}".encode())
        for turn in range(1, 4):
            assert machine.until(partial(numbered, disk, 1, 100 * turn))
            with suspension.held("test", machine.deadline()):
                before = disk.read_bytes()
                ram = machine.machine.rams["block"]
                memory = ram.read(0, ram.size)
                assert ram.read(0, ram.size) == memory
                assert disk.read_bytes() == before
        assert machine.receive().decode() == "numbered 1500"
        assert numbered(disk, 1, 1500)
        assert machine.ask("state") == "completed 1500 odd 0"


def test_a_back_end_is_killed_while_the_machine_is_suspended(disk: Path, socket: Path) -> None:
    with ExitStack() as stack:
        device = stack.enter_context(ours(socket, disk))
        machine = stack.enter_context(talk(socket))
        machine.send(b"number 1 600 4")
        assert machine.until(lambda: numbered(disk, 1, 20))
        with machine.machine.suspension.held("test", machine.deadline()):
            device.kill()
            next_notice(machine, "the back-end is lost")
            stack.enter_context(ours(socket, disk))
            next_notice(machine, "the back-end is back")
            before = disk.read_bytes()
            assert disk.read_bytes() == before
        assert machine.receive().decode() == "numbered 600"
        assert numbered(disk, 1, 600)
        assert machine.ask("state") == "completed 600 odd 0"


def test_a_machine_is_not_suspended_while_a_back_end_does_not_answer(
    disk: Path, socket: Path
) -> None:
    """It may still write to guest memory; once it answers again, the machine can be suspended."""
    with StorageDaemon(socket, disk) as daemon, talk(socket) as machine:
        suspension = machine.machine.suspension
        assert machine.ask("read 0") == "hello"
        daemon.suspend()
        with pytest.raises(SuspendError, match="devices did not stop in time"):
            suspension.suspend("test", machine.runtime.now() + 100_000_000)
        daemon.resume()
        assert machine.ask("read 0") == "hello"
        with suspension.held("test", machine.deadline()):
            pass
        assert machine.ask("read 0") == "hello"


# What cannot be


def test_a_back_end_that_is_not_there_is_named(socket: Path) -> None:
    with pytest.raises(UserError, match=rf"^vm block: device block at {socket}: No such file"):
        talk(socket)


def test_a_machine_with_a_device_is_not_swapped(socket: Path, tmp_path: Path) -> None:
    devices = [DeviceSpec(type="block", socket=str(socket))]
    why = f"vm block: device block at {socket}: no swap: its back-end would read zeros"
    with pytest.raises(ConfigError, match=why):
        Talk(UNICORN, "block", devices=devices, swap=str(tmp_path))
    with pytest.raises(ConfigError, match=why):
        Talk(UNICORN, "block", devices=devices, monitor=True)


@pytest.mark.parametrize(
    ("make", "wish", "why"),
    [
        (ours, Wish(name="s", created=0, live=True), "no live snapshot: what its back-end writes"),
        (ours, Wish(name="s", created=0, incremental=True), "no incremental snapshot: what its"),
        (StorageDaemon, Wish(name="s", created=0), r"cannot save its state \(DEVICE_STATE\)"),
    ],
)
def test_snapshots_that_would_lack_something_are_refused(
    make: Callable[[Path, Path], Backend],
    wish: Wish,
    why: str,
    disk: Path,
    socket: Path,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        stack.callback(make(socket, disk).__exit__, None, None, None)
        machine = stack.enter_context(talk(socket))
        files = [stack.enter_context((tmp_path / name).open("wb")).fileno() for name in "ab"]
        with pytest.raises(UserError, match=f"vm block: device block at {socket}: .*{why}"):
            machine.machine.snapshots.take((files[0], files[1]), wish)
        assert machine.ask("read 0") == "hello"


def test_another_type_than_the_guest_looks_for(disk: Path, socket: Path) -> None:
    with (
        ours(socket, disk),
        Talk(UNICORN, "block", devices=[DeviceSpec(type=4, socket=str(socket))]) as machine,
    ):
        assert machine.line() == "block: stopped: a device of another type"
