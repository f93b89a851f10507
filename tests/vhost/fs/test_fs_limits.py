"""Ids, sizes and requests that make no sense, and a guest that wants more files than it may have."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from fuseguest import FakeRequest, Guest, raises, send

from hfsched.errors import UserError
from hfsched.vhost.devices.fs import Fs
from hfsched.vhost.devices.fs.wire import HEADER, ROOT, Opcode
from hfsched.vhost.errors import ChainError
from hfsched.vhost.queue import Queue
from hfsched.vhost.request import Request


@pytest.fixture
def share(tmp_path: Path) -> Path:
    path = tmp_path / "share"
    path.mkdir()
    return path


@pytest.fixture
def guest(share: Path) -> Iterator[Guest]:
    device = Fs(str(share), "tag")
    yield Guest(device)
    device.close()


def test_ids_that_are_none(guest: Guest, share: Path) -> None:
    node, handle = guest.create(b"file")
    other, _ = guest.create(b"other")
    directory = guest.open_directory()
    for number in (0, other + 1, 1 << 63, (1 << 64) - 1):
        for opcode, body in (
            (Opcode.GETATTR, bytes(16)),
            (Opcode.LOOKUP, b"file\0"),
            (Opcode.OPEN, bytes(8)),
            (Opcode.OPENDIR, bytes(8)),
            (Opcode.READLINK, b""),
            (Opcode.STATFS, b""),
        ):
            with raises(errno.ESTALE):
                guest.call(opcode, number, body)
        with raises(errno.ESTALE):
            guest.call(Opcode.LINK, ROOT, struct.pack("<Q", number) + b"link\0")
        with raises(errno.ESTALE):
            guest.call(Opcode.RENAME, ROOT, struct.pack("<Q", number) + b"file\0other\0")
    # A handle is one of its own node, and of its own kind.
    for at, number in ((node, handle + 100), (other, handle), (ROOT, directory), (node, directory)):
        with raises(errno.EBADF):
            guest.read(at, number, 0, 10)
        for opcode in (Opcode.RELEASE, Opcode.FLUSH, Opcode.FSYNC):
            with raises(errno.EBADF):
                guest.call(opcode, at, struct.pack("<QQQ", number, 0, 0))
    for opcode in (Opcode.READDIR, Opcode.FSYNCDIR, Opcode.RELEASEDIR):
        with raises(errno.EBADF):
            guest.call(opcode, node, struct.pack("<QQIIQII", handle, 0, 0, 0, 0, 0, 0))
    assert guest.read(node, handle, 0, 10) == b""


def test_forgetting_more_than_was_known(guest: Guest, share: Path) -> None:
    (share / "file").touch()
    node = guest.look_up(b"file")
    assert guest.look_up(b"file") == node
    guest.forget(node, 0)
    guest.forget(node)
    guest.attributes(node)
    guest.forget(node, (1 << 64) - 1)
    guest.forget(node)
    guest.forget(ROOT, 1 << 40)
    guest.attributes(ROOT)
    with raises(errno.ESTALE):
        guest.attributes(node)
    one, two = guest.look_up(b"file"), guest.create(b"two")[0]
    batch = struct.pack("<IIQQQQQQ", 3, 0, one, 1, 12345, 1, two, 1)
    guest.note(Opcode.BATCH_FORGET, 0, struct.pack("<II", 1 << 31, 0))
    guest.note(Opcode.BATCH_FORGET, 0, batch[:-1])
    guest.attributes(one)
    guest.note(Opcode.BATCH_FORGET, 0, batch)
    for node in (one, two):
        with raises(errno.ESTALE):
            guest.attributes(node)


def test_sizes_and_offsets_that_are_too_large(guest: Guest) -> None:
    node, handle = guest.create(b"file")
    guest.write(node, handle, 0, b"text")

    def io(offset: int, size: int) -> bytes:
        return struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0)

    for opcode in (Opcode.READ, Opcode.READDIR):
        with pytest.raises(OSError):
            guest.call(opcode, node, io(0, 0xFFFFFFFF))
    with raises(errno.EINVAL):
        guest.call(Opcode.READ, node, io((1 << 64) - 1, 1))
    with raises(errno.EINVAL):
        guest.call(Opcode.READ, node, io((1 << 63) - 1, 1))
    for size in (0, 5, 0xFFFFFFFF):  # of a write of 4 bytes
        with raises(errno.EINVAL):
            guest.call(Opcode.WRITE, node, io(0, size) + b"full")
    with raises(errno.EINVAL):
        guest.call(Opcode.WRITE, node, io((1 << 63) - 4, 4) + b"full")
    with raises(errno.EINVAL):
        guest.call(Opcode.FALLOCATE, node, struct.pack("<QQQII", handle, 1 << 62, 1 << 62, 0, 0))
    with raises(errno.EFBIG):
        guest.call(
            Opcode.SETATTR, node, struct.pack("<IIQQ", 1 << 3, 0, 0, (1 << 63) - 1) + bytes(64)
        )
    directory = guest.open_directory()
    with raises(errno.EINVAL):
        guest.call(
            Opcode.READDIR, ROOT, struct.pack("<QQIIQII", directory, 1 << 63, 4096, 0, 0, 0, 0)
        )
    assert guest.read(node, handle, 0, 10) == b"text"


def test_nothing_is_done_that_could_not_be_answered(guest: Guest, share: Path) -> None:
    def request(opcode: int, body: bytes) -> bytes:
        return HEADER.pack(HEADER.size + len(body), opcode, 9, ROOT, 0, 0, 0, 0, 0) + body

    make = request(Opcode.MKDIR, struct.pack("<II", 0o755, 0) + b"dir\0")
    for room in range(16):
        assert send(guest.device, make, room) == b""
    for room in (16, 16 + 127):
        assert send(guest.device, make, room) == struct.pack("<IiQ", 16, -errno.EINVAL, 9)
    assert not list(share.iterdir())
    (share / "file").touch()
    guest.forget(guest.look_up(b"file"))
    with raises(errno.EINVAL):
        guest.call(Opcode.LOOKUP, ROOT, b"file\0", room=100)
    assert len(guest.device._share.inodes) == 0
    (share / "link").symlink_to("t" * 100)
    link = guest.look_up(b"link")
    with raises(errno.ENAMETOOLONG):
        guest.call(Opcode.READLINK, link, room=99)


def test_requests_that_are_none(guest: Guest) -> None:
    header = struct.Struct("<IIQ")
    for size in range(HEADER.size):
        assert send(guest.device, bytes(size), 100) == b""  # whose would the answer be?
    for length in (0, HEADER.size - 1, HEADER.size + 1, 0xFFFFFFFF):
        data = header.pack(length, Opcode.STATFS, 7) + bytes(24)
        assert send(guest.device, data, 200) == struct.pack("<IiQ", 16, -errno.EINVAL, 7)
    for opcode in (0, 7, 19, 21, 22, 23, 24, 31, 34, 37, 39, 40, 47, 51, 4096, 0xFFFFFFFF):
        with raises(errno.ENOSYS):
            guest.call(opcode, ROOT, b"")
    huge = HEADER.pack(2 << 20, Opcode.WRITE, 7, ROOT, 0, 0, 0, 0, 0) + bytes(2 << 20)
    assert send(guest.device, huge, 200) == struct.pack("<IiQ", 16, -errno.EINVAL, 7)


def test_memory_that_goes_away_is_the_queues_to_say(guest: Guest) -> None:
    class Broken(FakeRequest):
        def read(self, size: int | None = None, offset: int = 0) -> bytes:
            raise ChainError(0, 1, "gone")

    request = Broken(bytes(100), 100)
    with pytest.raises(ChainError):
        guest.device.process(cast("Queue", None), cast("Request", request))


def test_a_guest_has_so_many_files_and_no_more(share: Path, open_files: int) -> None:
    for number in range(20):
        (share / f"file-{number}").touch()
    device = Fs(str(share), "tag", descriptors=16)  # 12 and 4
    guest = Guest(device)
    nodes = [guest.look_up(b"file-%d" % number) for number in range(12)]
    with raises(errno.ENFILE):
        guest.look_up(b"file-12")
    for opcode, body in (
        (Opcode.CREATE, struct.pack("<IIII", os.O_RDWR, 0o644, 0, 0) + b"made\0"),
        (Opcode.MKNOD, struct.pack("<IIII", 0o100644, 0, 0, 0) + b"made\0"),
        (Opcode.MKDIR, struct.pack("<II", 0o755, 0) + b"made\0"),
        (Opcode.SYMLINK, b"made\0target\0"),
    ):
        with raises(errno.ENFILE):
            guest.call(opcode, ROOT, body)
    assert not list(share.glob("made*"))
    assert guest.look_up(b"file-3") == nodes[3]  # it is known
    handles = [guest.open(nodes[0]) for _ in range(4)]
    with raises(errno.EMFILE):
        guest.open(nodes[0])
    with raises(errno.EMFILE):
        guest.open_directory()
    # A listing says what it cannot look up, without a node.
    guest.call(Opcode.RELEASE, nodes[0], struct.pack("<QIIQ", handles[0], 0, 0, 0))
    listed = guest.list(ROOT, guest.open_directory(), plus=True)
    assert len(listed) == 22
    assert sum(bool(node) for _, _, node in listed) == 12
    guest.forget(nodes[5], 10)
    guest.look_up(b"file-12")
    device.reset()
    assert len(os.listdir("/proc/self/fd")) == open_files + 2  # noqa: PTH208
    device.close()
    assert len(os.listdir("/proc/self/fd")) == open_files  # noqa: PTH208


@pytest.fixture
def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_what_cannot_be_shared(share: Path) -> None:
    (share / "file").touch()
    for path, tag in (
        (share / "none", "tag"),
        (share / "file", "tag"),
        (share, ""),
        (share, "t" * 37),
    ):
        with pytest.raises(UserError):
            Fs(str(path), tag)
