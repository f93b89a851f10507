"""`hfsched device vsock` under QEMU, with the socket driver of a Linux guest."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from frontends.linux import Device, LinuxGuest
from frontends.ours import OurDevice
from frontends.serial import ShellError

SOURCE = Path(__file__).with_name("vsock.c")
WITHIN = 60.0  # seconds that a socket may be silent
SIZE = 1 << 22
_FLAGS = (
    "-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie",
    "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none,-z,noseparate-code,-z,norelro,-s,-N",
)  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the guest's program."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc for the guest's program")
    made = tmp_path_factory.mktemp("guest") / "vsock"
    subprocess.run([compiler, *_FLAGS, "-o", made, SOURCE], check=True, capture_output=True)
    return made.read_bytes()


class Bed:
    """A guest with the device, and the program as /vsock."""

    def __init__(self, stack: ExitStack, path: Path, program: bytes) -> None:
        self.stack, self.uds = stack, path / "uds"
        arguments = ("--cid", "42", "--uds", str(self.uds))
        self.device = stack.enter_context(OurDevice(path / "device", "vsock", *arguments))
        self.guest = stack.enter_context(LinuxGuest.bare())
        self.plug()
        typed = base64.b64encode(gzip.compress(program)).decode()
        self.guest.shell(f"echo {typed} | base64 -d | gunzip >/vsock && chmod +x /vsock")

    def plug(self) -> None:
        """Plug the device in, and wait until the guest's driver has it."""
        self.guest.plug(Device("vsock", self.device.path))
        self.guest.wait_until("ls /sys/bus/virtio/drivers/vmw_vsock_virtio_transport/virtio*")

    def listen(self, port: int) -> socket.socket:
        """Listen at a port of the host."""
        made = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        made.settimeout(WITHIN)
        made.bind(f"{self.uds}_{port}")
        made.listen()
        return made

    def accept(self, listener: socket.socket) -> socket.socket:
        made = self.stack.enter_context(listener.accept()[0])
        made.settimeout(WITHIN)
        return made

    def call(self, port: int) -> tuple[socket.socket, bytes]:
        """Connect to a port of the guest; return the socket and what is answered, nothing if it refuses."""
        made = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        made.settimeout(WITHIN)
        made.connect(os.fspath(self.uds))
        made.sendall(b"CONNECT %d\n" % port)
        line = b""
        while not line.endswith(b"\n") and (data := made.recv(1)):
            line += data
        return made, line


@pytest.fixture
def bed(tmp_path: Path, program: bytes) -> Iterator[Bed]:
    with ExitStack() as stack:
        yield Bed(stack, tmp_path, program)


def to_the_end(sock: socket.socket) -> bytes:
    found = b""
    while data := sock.recv(1 << 16):
        found += data
    return found


def test_what_the_host_sends_arrives(bed: Bed) -> None:
    data = random.Random(1).randbytes(SIZE)
    listener = bed.listen(80)
    token = bed.guest.serial.begin("/vsock connect 2 80 sha256sum")
    host = bed.accept(listener)
    host.sendall(data)
    host.shutdown(socket.SHUT_WR)
    assert to_the_end(host).split()[0].decode() == hashlib.sha256(data).hexdigest()
    bed.guest.serial.result(token)


def test_what_the_guest_sends_arrives(bed: Bed) -> None:
    listener = bed.listen(81)
    token = bed.guest.serial.begin("/vsock connect 2 81 'seq 500000'")
    assert to_the_end(bed.accept(listener)) == b"".join(b"%d\n" % at for at in range(1, 500_001))
    bed.guest.serial.result(token)


def test_a_host_program_connects_and_what_it_sends_comes_back(bed: Bed) -> None:
    bed.guest.shell("/vsock listen 1234 cat >/said &")
    bed.guest.wait_until("[ -s /said ]")
    host, answer = bed.call(1234)
    assert answer.startswith(b"OK ")
    data = random.Random(2).randbytes(SIZE)

    def send() -> None:
        host.sendall(data)
        host.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    assert to_the_end(host) == data
    sender.join()


def test_ports_at_which_nobody_listens(bed: Bed) -> None:
    with pytest.raises(ShellError):
        bed.guest.shell("/vsock connect 2 99 true")
    _, answer = bed.call(99)
    assert answer == b""
    with pytest.raises(ShellError):
        bed.guest.shell("/vsock connect 7 99 true")


def test_a_guest_that_is_stopped_finds_its_connections_ended(bed: Bed) -> None:
    listener = bed.listen(82)
    token = bed.guest.serial.begin("/vsock connect 2 82 cat")
    host = bed.accept(listener)
    host.sendall(b"hello")
    assert host.recv(5, socket.MSG_WAITALL) == b"hello"
    bed.guest.pause()
    assert to_the_end(host) == b""
    bed.guest.go_on()
    bed.guest.serial.result(token)  # cat has read the end
    token = bed.guest.serial.begin("/vsock connect 2 82 'echo again'")
    assert to_the_end(bed.accept(listener)) == b"again\n"
    bed.guest.serial.result(token)


def test_many_connections_at_once(bed: Bed) -> None:
    listener = bed.listen(83)
    token = bed.guest.serial.begin(
        'for at in $(seq 20); do /vsock connect 2 83 "seq 1000; echo end $at" & done; wait'
    )
    hosts = [bed.accept(listener) for _ in range(20)]
    found = [to_the_end(host).splitlines() for host in hosts]
    bed.guest.serial.result(token)
    assert all(len(lines) == 1001 for lines in found)
    assert {lines[-1] for lines in found} == {b"end %d" % at for at in range(1, 21)}


def test_it_is_stopped_plugged_out_and_in_again(bed: Bed) -> None:
    bed.guest.pause()
    bed.guest.go_on()
    bed.guest.unplug(Device("vsock", bed.device.path))
    with pytest.raises(ShellError):
        bed.guest.shell("/vsock connect 2 84 true")
    bed.plug()
    listener = bed.listen(84)
    token = bed.guest.serial.begin("/vsock connect 2 84 'echo again'")
    assert to_the_end(bed.accept(listener)) == b"again\n"
    bed.guest.serial.result(token)
    assert bed.device.alive
    assert "connection ends" not in bed.device.errors()
