"""The front-ends of our tests, tried with a back-end that is known to be right: qemu-storage-daemon."""

from __future__ import annotations

import errno
import hashlib
from contextlib import ExitStack
from pathlib import Path

import pytest
from disks import BLOCK, BLOCKS, COUNT, counted, random_disk
from frontends import blkio_tools, packages
from frontends.blkio import Blkio, BlkioError, Request
from frontends.child import FrontEndError
from frontends.linux import Device, LinuxGuest
from frontends.qmp import QmpError
from frontends.serial import ShellError
from frontends.storage_daemon import StorageDaemon
from longer import param


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a disk of random bytes."""
    return random_disk(tmp_path / "disk")


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "socket"


# libblkio


def test_what_is_written_without_a_vm_is_on_the_disk(disk: Path, socket: Path) -> None:
    before = disk.read_bytes()
    with StorageDaemon(socket, disk), Blkio(socket) as client:
        assert client.capacity == len(before)
        assert client.read(0, len(before)) == before
        client.write(8 * BLOCK, b"new" * BLOCK)
        client.write_zeroes(100 * BLOCK, 4 * BLOCK)
        client.discard(200 * BLOCK, 8 * BLOCK)
        client.flush()
        after = bytearray(before)
        after[8 * BLOCK : 11 * BLOCK] = b"new" * BLOCK
        after[100 * BLOCK : 104 * BLOCK] = bytes(4 * BLOCK)
        found = disk.read_bytes()
        assert found[: 200 * BLOCK] == after[: 200 * BLOCK]
        assert found[208 * BLOCK :] == after[208 * BLOCK :]


def test_requests_of_two_queues_are_in_flight_together(disk: Path, socket: Path) -> None:
    data = disk.read_bytes()
    requests = [Request("read", at * BLOCK, BLOCK) for at in range(500)]
    with StorageDaemon(socket, disk, queues=2), Blkio(socket, queues=2, depth=8) as client:
        for queue in (0, 1):
            client.submit(requests[queue], queue)
        for queue in (1, 0):
            (done,) = client.complete(queue)
            assert done.request == requests[queue]
            assert done.data == data[queue * BLOCK :][:BLOCK]
        ended = client.run(requests, 1)
        assert len(ended) == len(requests)
        assert all(each.data == data[each.request.offset :][:BLOCK] for each in ended)


def test_what_a_back_end_refuses_has_its_errno(disk: Path, socket: Path) -> None:
    with StorageDaemon(socket, disk), Blkio(socket) as client:
        (done,) = client.run([Request("read", disk.stat().st_size, BLOCK)])
        assert done.status == -errno.EIO
        with pytest.raises(BlkioError) as caught:
            client.read(disk.stat().st_size, BLOCK)
        assert caught.value.errno == errno.EIO
    with pytest.raises(BlkioError):
        Blkio(socket)  # nobody listens


def test_a_back_end_that_does_not_answer_is_noticed(disk: Path, socket: Path) -> None:
    with StorageDaemon(socket, disk) as daemon, Blkio(socket) as client:
        daemon.suspend()
        client.submit(Request("read", 0, BLOCK))
        with pytest.raises(TimeoutError):
            client.complete(timeout=0.1)
        daemon.resume()
        (done,) = client.complete()
        assert done.data == disk.read_bytes()[:BLOCK]


def test_blkio_copy_and_blkio_bench(disk: Path, socket: Path, tmp_path: Path) -> None:
    with StorageDaemon(socket, disk):
        blkio_tools.copy(socket, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == disk.read_bytes()
        (tmp_path / "other").write_bytes(b"other" * (disk.stat().st_size // 5))
        blkio_tools.copy(tmp_path / "other", socket, to_socket=True)
        assert disk.read_bytes().startswith(b"other" * 1000)
        assert blkio_tools.bench(socket, "--iodepth=4")["aggregate"]["kiops"] > 0


# A Linux guest


def test_a_guest_reads_a_disk_that_is_plugged_in_and_out(disk: Path, socket: Path) -> None:
    device = Device("blk", socket)
    with StorageDaemon(socket, disk) as daemon, LinuxGuest.bare() as guest:
        guest.plug(device)
        guest.wait_file("/dev/vda")
        printed = guest.shell("sha256sum </dev/vda").split()[0]
        assert printed == hashlib.sha256(disk.read_bytes()).hexdigest()
        daemon.resize(2 * disk.stat().st_size)
        guest.wait_until(f"[ $(cat /sys/block/vda/size) = {2 * BLOCKS} ]")
        guest.unplug(device)
        guest.wait_until("[ ! -e /dev/vda ]")


def test_a_guest_waits_for_a_back_end_that_was_killed(disk: Path, socket: Path) -> None:
    with ExitStack() as stack:
        daemon = stack.enter_context(StorageDaemon(socket, disk))
        fresh = stack.enter_context(ExitStack())  # ends after the guest
        guest = stack.enter_context(LinuxGuest.bare())
        guest.plug(Device("blk", socket, reconnect_ms=50))
        guest.wait_file("/dev/vda")
        daemon.kill()
        token = guest.serial.begin("dd if=/dev/vda bs=512 count=8 iflag=direct | sha256sum")
        fresh.enter_context(StorageDaemon(socket, disk))
        printed = guest.serial.result(token)
        assert hashlib.sha256(disk.read_bytes()[: 8 * BLOCK]).hexdigest() in printed


@pytest.mark.parametrize("live", [param(False, "stopped"), param(True, "live")])
def test_a_guest_goes_on_with_a_fresh_back_end(
    disk: Path, socket: Path, tmp_path: Path, live: bool
) -> None:
    device = Device("blk", socket)
    with StorageDaemon(socket, disk) as daemon, LinuxGuest.bare() as guest:
        guest.plug(device)
        guest.wait_file("/dev/vda")
        guest.shell(COUNT)
        guest.wait_until("[ $(cat /last) -ge 20 ]")
        guest.migrate_to_file(tmp_path / "state", live=live)
        guest.quit()
        daemon.kill()
    with (
        StorageDaemon(socket, disk),
        LinuxGuest([device], incoming=tmp_path / "state") as guest,
    ):
        before = int(guest.shell("cat /last"))
        guest.wait_until(f"[ $(cat /last) -ge {before + 20} ]")
        last = int(guest.shell("cat /last"))
        assert last >= before + 20
        assert counted(disk, last)


def test_what_fails_in_a_guest_or_in_qemu_is_told(socket: Path, tmp_path: Path) -> None:
    with LinuxGuest.bare() as guest:
        assert guest.shell("printf 'no newline'") == "no newline"
        with pytest.raises(ShellError, match="status 3: 'why"):
            guest.shell("echo why; (exit 3)")
        guest.wait_until("mkdir /once")  # a condition that holds is not tried again
        with pytest.raises(QmpError, match="chardev-add"):
            guest.plug(Device("blk", socket))  # nobody listens
        with pytest.raises(QmpError, match="No such file"):
            guest.migrate_to_file(tmp_path / "none" / "state")
        guest.kill()
        with pytest.raises(FrontEndError, match="status -9"):
            guest.shell("true")
    (tmp_path / "state").write_bytes(b"no state" * 1000)
    with pytest.raises(QmpError, match="migration"):
        LinuxGuest(incoming=tmp_path / "state")


# Where there are no packages


@pytest.fixture
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFSCHED_QEMU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "find", packages.find.__wrapped__)


@pytest.mark.usefixtures("nothing_cached")
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("PATH", "/nowhere", "no vhost-user front-ends: no apt-get, which Debian has"),
        ("HFSCHED_DEBIAN_MIRROR", "file:/nowhere", "no vhost-user front-ends: apt-get failed"),
    ],
)
def test_without_packages_a_test_is_skipped_with_a_reason_of_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv(variable, value)
    with pytest.raises(pytest.skip.Exception, match=reason) as caught:
        packages.programs()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/frontends-*"))
