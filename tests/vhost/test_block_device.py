"""`hfsched device block` under real front-ends: libblkio, and QEMU with a Linux guest."""

from __future__ import annotations

import errno
import hashlib
import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from disks import BLOCK, BLOCKS, COUNT, counted, random_disk
from frontends.blkio import Blkio, Request
from frontends.linux import Device, LinuxGuest
from frontends.ours import OurDevice
from longer import param


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a disk of random bytes."""
    return random_disk(tmp_path / "disk")


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def block(socket: Path, disk: Path, *arguments: str) -> OurDevice:
    return OurDevice(socket, "block", str(disk), *arguments)


# libblkio


def test_what_is_written_without_a_vm_is_on_the_disk(disk: Path, socket: Path) -> None:
    before = disk.read_bytes()
    after = bytearray(before)
    with block(socket, disk) as device:
        with Blkio(socket) as client:
            assert client.capacity == len(before)
            assert client.read(0, len(before)) == before
            client.write(8 * BLOCK, b"new" * BLOCK)
            client.write_zeroes(100 * BLOCK, 4 * BLOCK)
            client.discard(200 * BLOCK, 8 * BLOCK)
            client.flush()
            assert client.read(200 * BLOCK, 8 * BLOCK) == bytes(8 * BLOCK)
        after[8 * BLOCK : 11 * BLOCK] = b"new" * BLOCK
        after[100 * BLOCK : 104 * BLOCK] = bytes(4 * BLOCK)
        after[200 * BLOCK : 208 * BLOCK] = bytes(8 * BLOCK)
        assert disk.read_bytes() == after
        with Blkio(socket) as again:  # the next front-end
            assert again.read(0, len(after)) == after
        assert device.stop() == 0
        assert "connection ends" not in device.errors()


def test_requests_of_two_queues_are_in_flight_together(disk: Path, socket: Path) -> None:
    data = disk.read_bytes()
    drawn = random.Random(2)
    requests = [
        Request("read", drawn.randrange(BLOCKS - 16) * BLOCK, drawn.randint(1, 16) * BLOCK)
        for _ in range(500)
    ]
    with block(socket, disk, "--queues", "2"), Blkio(socket, queues=2, depth=8) as client:
        for queue in (0, 1):
            ended = client.run(requests, queue)
            assert len(ended) == len(requests)
            for each in ended:
                start = each.request.offset
                assert each.data == data[start : start + each.request.length]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Request("read", BLOCKS * BLOCK, BLOCK), -errno.EIO),
        (Request("read", (BLOCKS - 1) * BLOCK, 2 * BLOCK), -errno.EIO),
        (Request("write", BLOCKS * BLOCK, data=bytes(BLOCK)), -errno.EIO),
        (Request("discard", BLOCKS * BLOCK, BLOCK), -errno.EIO),
    ],
)
def test_what_lies_behind_the_end_is_an_error_and_nothing_else_is_lost(
    disk: Path, socket: Path, request_: Request, status: int
) -> None:
    before = disk.read_bytes()
    with block(socket, disk), Blkio(socket) as client:
        (done,) = client.run([request_])
        assert done.status == status
        assert client.read(0, len(before)) == before
    assert disk.read_bytes() == before


def test_a_disk_that_is_only_read(disk: Path, socket: Path) -> None:
    before = disk.read_bytes()
    with block(socket, disk, "--read-only"), Blkio(socket, read_only=True) as client:
        assert client.read(0, len(before)) == before


# A Linux guest


def test_a_guest_reads_a_disk_that_is_plugged_in_and_out(disk: Path, socket: Path) -> None:
    device = Device("blk", socket)
    with block(socket, disk, "--serial", "a serial of 20 byte"), LinuxGuest.bare() as guest:
        guest.plug(device)
        guest.wait_file("/dev/vda")
        assert guest.shell("cat /sys/block/vda/serial").strip() == "a serial of 20 byte"
        printed = guest.shell("sha256sum </dev/vda").split()[0]
        assert printed == hashlib.sha256(disk.read_bytes()).hexdigest()
        guest.unplug(device)
        guest.wait_until("[ ! -e /dev/vda ]")


def test_a_guest_waits_for_a_back_end_that_was_killed(disk: Path, socket: Path) -> None:
    with ExitStack() as stack:
        killed = stack.enter_context(block(socket, disk))
        fresh = stack.enter_context(ExitStack())  # ends after the guest
        guest = stack.enter_context(LinuxGuest.bare())
        guest.plug(Device("blk", socket, reconnect_ms=50))
        guest.wait_file("/dev/vda")
        killed.kill()
        token = guest.serial.begin("dd if=/dev/vda bs=512 count=8 iflag=direct | sha256sum")
        fresh.enter_context(block(socket, disk))
        printed = guest.serial.result(token)
        assert hashlib.sha256(disk.read_bytes()[: 8 * BLOCK]).hexdigest() in printed


@pytest.mark.parametrize("live", [param(False, "stopped"), pytest.param(True, id="live")])
def test_a_guest_that_writes_goes_on_with_a_fresh_back_end_twice(
    disk: Path, socket: Path, tmp_path: Path, live: bool
) -> None:
    device = Device("blk", socket)
    with block(socket, disk), LinuxGuest.bare() as guest:
        guest.plug(device)
        guest.wait_file("/dev/vda")
        guest.shell(COUNT)
        guest.wait_until("[ $(cat /last) -gt 20 ]")
        guest.migrate_to_file(tmp_path / "saved-0", live=live)
    for number in (1, 2):
        with (
            block(socket, disk),
            LinuxGuest([device], incoming=tmp_path / f"saved-{number - 1}") as guest,
        ):
            guest.wait_until(f"[ $(cat /last) -gt {100 * number} ]")
            last = int(guest.shell("cat /last"))
            assert counted(disk, last)
            guest.migrate_to_file(tmp_path / f"saved-{number}", live=live)
