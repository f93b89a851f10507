"""A guest that wants out of its share, or that wants more than it may have."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
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
    """Return a share beside which there is something to be had."""
    path = tmp_path / "share"
    path.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    return path


@pytest.fixture
def guest(share: Path) -> Iterator[Guest]:
    device = Fs(str(share), "tag")
    yield Guest(device)
    device.close()


def test_a_symbolic_link_is_never_followed(guest: Guest, share: Path) -> None:
    outside = share.parent / "outside"
    (share / "up").symlink_to("../outside")
    (share / "file").symlink_to(outside / "secret")
    (share / "new").symlink_to(outside / "new")
    up, file = guest.look_up(b"up"), guest.look_up(b"file")
    assert stat.S_ISLNK(guest.attributes(up).mode)
    for opcode, body in (
        (Opcode.LOOKUP, b"secret\0"),
        (Opcode.CREATE, struct.pack("<IIII", os.O_RDWR, 0o644, 0, 0) + b"made\0"),
        (Opcode.MKDIR, struct.pack("<II", 0o755, 0) + b"made\0"),
        (Opcode.SYMLINK, b"made\0target\0"),
        (Opcode.UNLINK, b"secret\0"),
        (Opcode.RMDIR, b"secret\0"),
        (Opcode.RENAME, struct.pack("<Q", ROOT) + b"secret\0mine\0"),
        (Opcode.LINK, struct.pack("<Q", file) + b"made\0"),
        (Opcode.OPENDIR, bytes(8)),
    ):
        with raises(errno.ENOTDIR):
            guest.call(opcode, up, body)
    with raises(errno.ENOTDIR):
        guest.call(Opcode.RENAME, ROOT, struct.pack("<Q", up) + b"file\0stolen\0")
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        with raises(errno.ELOOP):
            guest.open(file, flags)
        # By a name that leads out, one that leads to nothing there included.
        for name in (b"file", b"new", b"up"):
            with raises(errno.ELOOP):
                guest.create(name, flags=flags)
    # What is set is set of the link itself.
    body = struct.pack("<IIQQQQQQIIIIIIII", 1 << 5, *([0] * 6), 5, *([0] * 8))
    size = struct.pack("<IIQQQQQQIIIIIIII", 1 << 3, *([0] * 15))
    mode = struct.pack("<IIQQQQQQIIIIIIII", 1, *([0] * 10), 0o777, *([0] * 4))
    before = (outside / "secret").stat()
    guest.call(Opcode.SETATTR, file, body[:88])
    with raises(errno.ELOOP):
        guest.call(Opcode.SETATTR, file, size)
    with raises(errno.EOPNOTSUPP):
        guest.call(Opcode.SETATTR, file, mode)
    after = (outside / "secret").stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert (outside / "secret").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_directory_that_becomes_a_link_is_still_the_directory(guest: Guest, share: Path) -> None:
    (share / "dir").mkdir()
    node = guest.look_up(b"dir")
    (share / "dir").rename(share / "moved")
    (share / "dir").symlink_to("../outside")
    guest.create(b"made", node)
    assert (share / "moved/made").exists()
    with raises(errno.ENOENT):
        guest.call(Opcode.LOOKUP, node, b"secret\0")


BAD = (b"..", b".", b"", b"a/b", b"/", b"../outside/secret", b"/etc/passwd", b"a\0b")


@pytest.mark.parametrize("name", [*BAD, b"n" * 256])
def test_a_name_is_one_entry(guest: Guest, share: Path, name: bytes) -> None:
    node, _ = guest.create(b"a")
    number = errno.ENAMETOOLONG if len(name) > 255 else errno.EINVAL
    before = sorted(share.parent.rglob("*"))
    for opcode, body in (
        (Opcode.LOOKUP, name + b"\0"),
        (Opcode.LOOKUP, name),
        (Opcode.CREATE, struct.pack("<IIII", os.O_RDWR, 0o644, 0, 0) + name + b"\0"),
        (Opcode.MKNOD, struct.pack("<IIII", 0o100644, 0, 0, 0) + name + b"\0"),
        (Opcode.MKDIR, struct.pack("<II", 0o755, 0) + name + b"\0"),
        (Opcode.SYMLINK, name + b"\0target\0"),
        (Opcode.UNLINK, name + b"\0"),
        (Opcode.RMDIR, name + b"\0"),
        (Opcode.RENAME, struct.pack("<Q", ROOT) + name + b"\0b\0"),
        (Opcode.RENAME, struct.pack("<Q", ROOT) + b"a\0" + name + b"\0"),
        (Opcode.RENAME2, struct.pack("<QII", ROOT, 0, 0) + b"a\0" + name + b"\0"),
        (Opcode.LINK, struct.pack("<Q", node) + name + b"\0"),
    ):
        with pytest.raises(OSError) as caught:
            guest.call(opcode, ROOT, body)
        unended = opcode == Opcode.LOOKUP and not body.endswith(b"\0")
        assert caught.value.errno == (errno.EINVAL if unended else number)
    assert sorted(share.parent.rglob("*")) == before


def test_the_longest_name_is_one(guest: Guest, share: Path) -> None:
    guest.create(b"n" * 255)
    assert (share / ("n" * 255)).exists()
    guest.call(Opcode.SYMLINK, ROOT, b"link\0" + b"t" * 4095 + b"\0")
    assert len(os.readlink(share / "link")) == 4095  # noqa: PTH115 - it is no path
    for target in (b"", b"t" * 4096):
        with pytest.raises(OSError):
            guest.call(Opcode.SYMLINK, ROOT, b"other\0" + target + b"\0", room=8192)


def test_devices_and_fifos_are_neither_made_nor_opened(guest: Guest, share: Path) -> None:
    for kind in (
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFDIR,
        stat.S_IFLNK,
    ):
        with raises(errno.EPERM):
            guest.call(Opcode.MKNOD, ROOT, struct.pack("<IIII", kind | 0o666, 0x103, 0, 0) + b"n\0")
    assert not list(share.iterdir())
    os.mkfifo(share / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(share / "sock"))
    special = [b"fifo", b"sock"]
    if os.geteuid() == 0:
        os.mknod(share / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        special.append(b"null")
    for name in special:
        node = guest.look_up(name)
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
            with raises(errno.EPERM):  # and a FIFO is not waited for
                guest.open(node, flags)
            with raises(errno.EPERM):
                guest.create(name, flags=flags)
        with raises(errno.EPERM):
            guest.call(Opcode.SETATTR, node, struct.pack("<IIQQQQQQIIIIIIII", 1 << 3, *([0] * 15)))
        with raises(errno.ENOTDIR):
            guest.call(Opcode.OPENDIR, node, bytes(8))


def test_an_open_that_would_have_to_wait_is_refused(guest: Guest, share: Path) -> None:
    (share / "file").touch()
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(share / "file", os.O_RDWR)
    try:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as exc:
            pytest.skip(f"no lease can be had here: {exc.strerror}")
        with raises(errno.EAGAIN):
            guest.open(guest.look_up(b"file"))
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def test_a_read_only_share_is_not_changed(share: Path) -> None:
    (share / "file").write_text("text")
    (share / "dir").mkdir()
    device = Fs(str(share), "tag", read_only=True)
    guest = Guest(device)
    node = guest.look_up(b"file")
    handle = guest.open(node, os.O_RDONLY)
    assert guest.read(node, handle, 0, 10) == b"text"
    before = [(path, path.stat()) for path in share.rglob("*")]
    for opcode, body in (
        (Opcode.SETATTR, bytes(88)),
        (Opcode.SYMLINK, b"made\0target\0"),
        (Opcode.MKNOD, struct.pack("<IIII", 0o100644, 0, 0, 0) + b"made\0"),
        (Opcode.MKDIR, struct.pack("<II", 0o755, 0) + b"made\0"),
        (Opcode.UNLINK, b"file\0"),
        (Opcode.RMDIR, b"dir\0"),
        (Opcode.RENAME, struct.pack("<Q", ROOT) + b"file\0made\0"),
        (Opcode.RENAME2, struct.pack("<QII", ROOT, 0, 0) + b"file\0made\0"),
        (Opcode.LINK, struct.pack("<Q", node) + b"made\0"),
        (Opcode.CREATE, struct.pack("<IIII", os.O_RDWR, 0o644, 0, 0) + b"made\0"),
        (Opcode.CREATE, struct.pack("<IIII", os.O_RDONLY, 0o644, 0, 0) + b"made\0"),
        (Opcode.FALLOCATE, struct.pack("<QQQII", handle, 0, 100, 0, 0)),
        (Opcode.WRITE, struct.pack("<QQIIQII", handle, 0, 1, 0, 0, 0, 0) + b"x"),
    ):
        with raises(errno.EROFS):
            guest.call(opcode, ROOT, body)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        with raises(errno.EROFS):
            guest.open(node, flags)
    after = [(path, path.stat()) for path in share.rglob("*")]
    assert [(path, found[:8], found.st_mtime_ns) for path, found in after] == [
        (path, found[:8], found.st_mtime_ns) for path, found in before
    ]
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
