"""What a guest does with a share, without a VM: the host's view is compared."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuseguest import Guest, raises

from hfsched.vhost.devices.fs import Fs
from hfsched.vhost.devices.fs.wire import ROOT, Opcode

ROOT_USER = os.geteuid() == 0


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


def names(share: Path) -> list[str]:
    return sorted(path.name for path in share.iterdir())


# The session


def test_the_protocol_is_the_older_one_of_both_sides(share: Path) -> None:
    device = Fs(str(share), "tag")
    guest = Guest(device, mount=False)
    for asked, agreed in ((31, 31), (36, 36), (38, 38), (99, 38)):
        payload = guest.call(Opcode.INIT, 0, struct.pack("<IIII", 7, asked, 4096, 0))
        assert struct.unpack_from("<II", payload) == (7, agreed)
        assert len(payload) == 64
    with raises(errno.EPROTO):
        guest.call(Opcode.INIT, 0, struct.pack("<IIII", 7, 30, 4096, 0))
    # A newer one is told ours, and asks again; until then nothing is mounted.
    payload = guest.call(Opcode.INIT, 0, struct.pack("<IIII", 8, 0, 4096, 0))
    assert struct.unpack_from("<II", payload) == (7, 38)
    with raises(errno.EIO):
        guest.call(Opcode.GETATTR, ROOT, bytes(16))
    device.close()


def test_no_feature_is_agreed_on_that_the_guest_did_not_ask_for(share: Path) -> None:
    guest = Guest(Fs(str(share), "tag"), mount=False)
    for asked in (0, 1 << 5, 1 << 16 | 1 << 20 | 1 << 13):
        payload = guest.call(Opcode.INIT, 0, struct.pack("<IIII", 7, 38, 0, asked))
        (flags,) = struct.unpack_from("<I", payload, 12)
        assert not flags & ~asked
        assert not flags & (1 << 16 | 1 << 20)  # no write-back cache, no ACLs
    guest.device.close()


def test_what_one_mount_knew_the_next_one_does_not(guest: Guest, share: Path) -> None:
    (share / "file").touch()
    node = guest.look_up(b"file")
    handle = guest.open(node)
    Guest(guest.device)
    with raises(errno.ESTALE):
        guest.attributes(node)
    with raises(errno.EBADF):
        guest.read(node, handle, 0, 1)
    assert guest.look_up(b"file") != node


def test_the_configuration_has_the_tag_and_the_queues(share: Path) -> None:
    device = Fs(str(share), "a tag", request_queues=3)
    assert device.config() == b"a tag".ljust(36, b"\0") + struct.pack("<I", 3)
    assert device.queues == 4
    device.close()


# Files


def test_a_file_is_created_written_and_read(guest: Guest, share: Path) -> None:
    node, handle = guest.create(b"file", mode=0o640)
    assert guest.write(node, handle, 0, b"0123456789") == 10
    assert guest.write(node, handle, 4, b"xx") == 2
    assert guest.read(node, handle, 2, 100) == b"23xx6789"
    guest.call(Opcode.FLUSH, node, struct.pack("<QIIQ", handle, 0, 0, 0))
    guest.call(Opcode.FSYNC, node, struct.pack("<QII", handle, 1, 0))
    guest.call(Opcode.RELEASE, node, struct.pack("<QIIQ", handle, 0, 0, 0))
    with raises(errno.EBADF):
        guest.read(node, handle, 0, 1)
    assert (share / "file").read_bytes() == b"0123xx6789"
    assert stat.S_IMODE((share / "file").stat().st_mode) == 0o640


def test_create_opens_what_is_there_unless_it_must_be_new(guest: Guest, share: Path) -> None:
    (share / "file").write_bytes(b"before")
    with raises(errno.EEXIST):
        guest.create(b"file", flags=os.O_RDWR | os.O_EXCL)
    node, handle = guest.create(b"file", flags=os.O_RDWR)
    assert guest.read(node, handle, 0, 10) == b"before"
    guest.create(b"file", flags=os.O_RDWR | os.O_TRUNC)
    assert guest.read(node, handle, 0, 10) == b""


def test_a_write_that_appends_goes_to_the_end_whatever_its_offset(
    guest: Guest, share: Path
) -> None:
    (share / "file").write_bytes(b"abc")
    node = guest.look_up(b"file")
    handle = guest.open(node, os.O_WRONLY | os.O_APPEND)
    guest.write(node, handle, 0, b"d", flags=os.O_WRONLY | os.O_APPEND)
    assert (share / "file").read_bytes() == b"abcd"
    # From the page cache: at its offset.  And so when the flag was taken back.
    guest.write(node, handle, 0, b"A", flags=os.O_WRONLY | os.O_APPEND, how=1)
    guest.write(node, handle, 1, b"B", flags=os.O_WRONLY)
    assert (share / "file").read_bytes() == b"ABcd"


def test_an_open_file_lives_on_when_it_is_deleted_or_renamed(guest: Guest, share: Path) -> None:
    node, handle = guest.create(b"one")
    guest.call(Opcode.RENAME, ROOT, struct.pack("<Q", ROOT) + b"one\0two\0")
    guest.write(node, handle, 0, b"text")
    assert (share / "two").read_bytes() == b"text"
    guest.call(Opcode.UNLINK, ROOT, b"two\0")
    guest.write(node, handle, 4, b"more")
    assert guest.read(node, handle, 0, 10) == b"textmore"
    assert guest.attributes(node).nlink == 0
    assert not names(share)


def test_allocate_and_seek(guest: Guest, share: Path) -> None:
    node, handle = guest.create(b"file")
    guest.call(Opcode.FALLOCATE, node, struct.pack("<QQQII", handle, 0, 1 << 20, 0, 0))
    assert guest.attributes(node).size == 1 << 20
    guest.write(node, handle, 1 << 19, b"data")
    guest.call(Opcode.FALLOCATE, node, struct.pack("<QQQII", handle, 1 << 19, 2, 3, 0))
    assert guest.read(node, handle, 1 << 19, 4) == b"\0\0ta"
    with raises(errno.EOPNOTSUPP):  # it would move what is behind
        guest.call(Opcode.FALLOCATE, node, struct.pack("<QQQII", handle, 0, 4096, 8, 0))
    sparse, opened = guest.create(b"sparse")
    guest.write(sparse, opened, 1 << 20, b"data")

    def seek(offset: int, whence: int) -> int:
        body = struct.pack("<QQII", opened, offset, whence, 0)
        return int(struct.unpack("<Q", guest.call(Opcode.LSEEK, sparse, body))[0])

    found = os.open(share / "sparse", os.O_RDONLY)
    assert seek(0, os.SEEK_DATA) == os.lseek(found, 0, os.SEEK_DATA)
    assert seek(0, os.SEEK_HOLE) == os.lseek(found, 0, os.SEEK_HOLE)
    os.close(found)
    with raises(errno.ENXIO):
        seek(1 << 30, os.SEEK_DATA)
    with raises(errno.EINVAL):
        seek(0, os.SEEK_END)


# Attributes


def set_attributes(guest: Guest, node: int, valid: int, **values: int) -> None:
    fields = "valid padding handle size lock_owner atime mtime ctime atime_ns mtime_ns ctime_ns mode unused uid gid unused5"
    body = struct.pack("<IIQQQQQQIIIIIIII", valid, *(values.get(f, 0) for f in fields.split()[1:]))
    guest.call(Opcode.SETATTR, node, body)


def test_attributes_are_set_one_by_one(guest: Guest, share: Path) -> None:
    (share / "file").write_bytes(b"0123456789")
    path = share / "file"
    os.utime(path, ns=(10**18 + 5, 10**18 + 7))
    node = guest.look_up(b"file")
    set_attributes(guest, node, 1, mode=0o4755)
    assert stat.S_IMODE(path.stat().st_mode) == 0o4755
    set_attributes(guest, node, 1 << 5, mtime=2 * 10**9, mtime_ns=3)
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (10**18 + 5, 2 * 10**18 + 3)
    set_attributes(guest, node, 1 << 4, atime=(1 << 64) - 5, atime_ns=1)  # before 1970
    assert path.stat().st_atime_ns == -5 * 10**9 + 1
    assert guest.attributes(node).atime_ns == -5 * 10**9 + 1
    set_attributes(guest, node, 1 << 7 | 1 << 4)
    assert path.stat().st_atime_ns > 10**18
    set_attributes(guest, node, 1 << 3, size=4)
    assert path.read_bytes() == b"0123"
    handle = guest.open(node, os.O_WRONLY)
    set_attributes(guest, node, 1 << 3 | 1 << 6, handle=handle, size=6)
    assert path.read_bytes() == b"0123\0\0"
    with raises(errno.EINVAL):
        set_attributes(guest, node, 1 << 5, mtime_ns=10**9)
    with raises(errno.EINVAL):
        set_attributes(guest, node, 1 << 5, mtime_ns=(1 << 30) - 2)  # means something to the host
    with raises(errno.EINVAL):
        set_attributes(guest, node, 1 << 3, size=1 << 63)


@pytest.mark.skipif(not ROOT_USER, reason="owners are root's to change")
def test_owners(guest: Guest, share: Path) -> None:
    node, _ = guest.create(b"file", owner=(1000, 2000))
    assert ((share / "file").stat().st_uid, (share / "file").stat().st_gid) == (1000, 2000)
    set_attributes(guest, node, 2, uid=5, gid=6)
    assert ((share / "file").stat().st_uid, (share / "file").stat().st_gid) == (5, 2000)
    set_attributes(guest, node, 6, uid=0xFFFFFFFF, gid=6)
    assert ((share / "file").stat().st_uid, (share / "file").stat().st_gid) == (5, 6)
    # In a directory with the bit, its group is that of what is made there.
    (share / "group").mkdir()
    os.chown(share / "group", 0, 77)
    (share / "group").chmod(0o2775)
    parent = guest.look_up(b"group")
    body = struct.pack("<II", 0o755, 0) + b"inner\0"
    guest.call(Opcode.MKDIR, parent, body, owner=(1000, 2000))
    found = (share / "group/inner").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 77, 0o2755)
    guest.call(Opcode.SYMLINK, ROOT, b"link\0target\0", owner=(1000, 2000))
    assert (share / "link").lstat().st_uid == 1000


def test_the_file_system(guest: Guest, share: Path) -> None:
    payload = guest.call(Opcode.STATFS, ROOT)
    found = os.statvfs(share)
    assert len(payload) == 80
    assert struct.unpack_from("<Q", payload)[0] == found.f_blocks
    assert struct.unpack_from("<III", payload, 40) == (found.f_bsize, 255, found.f_frsize)
    guest.call(Opcode.SYNCFS, ROOT, bytes(8))


# Names


def test_directories_links_and_renames(guest: Guest, share: Path) -> None:
    made = guest.entry(guest.call(Opcode.MKDIR, ROOT, struct.pack("<II", 0o711, 0) + b"dir\0"))
    assert stat.S_IMODE((share / "dir").stat().st_mode) == 0o711
    node, _ = guest.create(b"file", made)
    again = guest.entry(guest.call(Opcode.LINK, ROOT, struct.pack("<Q", node) + b"hard\0"))
    assert again == node
    assert (share / "hard").samefile(share / "dir/file")
    link = guest.entry(guest.call(Opcode.SYMLINK, ROOT, b"soft\0../../etc/passwd\0"))
    assert guest.call(Opcode.READLINK, link) == b"../../etc/passwd"
    # A hard link of a symbolic link is one, and not of what that leads to.
    guest.call(Opcode.LINK, ROOT, struct.pack("<Q", link) + b"soft2\0")
    assert (share / "soft2").is_symlink()
    plain = guest.entry(
        guest.call(Opcode.MKNOD, ROOT, struct.pack("<IIII", 0o100600, 0, 0, 0) + b"n\0")
    )
    assert stat.S_ISREG(guest.attributes(plain).mode)
    with raises(errno.ENOTEMPTY):
        guest.call(Opcode.RMDIR, ROOT, b"dir\0")
    rename2 = struct.pack("<QII", ROOT, 1, 0)
    with raises(errno.EEXIST):  # it must not replace
        guest.call(Opcode.RENAME2, made, rename2 + b"file\0hard\0")
    guest.call(Opcode.RENAME2, ROOT, struct.pack("<QII", ROOT, 2, 0) + b"soft\0n\0")
    assert (share / "n").is_symlink()
    with raises(errno.EINVAL):  # a whiteout
        guest.call(Opcode.RENAME2, ROOT, struct.pack("<QII", ROOT, 4, 0) + b"n\0m\0")
    guest.call(Opcode.RENAME, made, struct.pack("<Q", ROOT) + b"file\0hard2\0")
    guest.call(Opcode.RMDIR, ROOT, b"dir\0")
    guest.call(Opcode.UNLINK, ROOT, b"n\0")
    assert names(share) == ["hard", "hard2", "soft", "soft2"]


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [512, 4096, 1 << 16])
def test_a_directory_is_listed_in_parts(guest: Guest, share: Path, plus: bool, size: int) -> None:
    for number in range(200):
        (share / ("n" * (number % 250 + 1) + str(number % 7))).touch()
    handle = guest.open_directory()
    listed = guest.list(ROOT, handle, size, plus=plus)
    assert sorted(name.decode() for name, _, _ in listed) == sorted([".", "..", *names(share)])
    inode = share.stat().st_ino
    assert {n for name, n, _ in listed if name in (b".", b"..")} == {
        inode
    }  # none of what is outside
    for name, number, node in listed:
        if name not in (b".", b".."):
            assert number == (share / name.decode()).stat().st_ino
            assert (guest.attributes(node).ino == number) if plus else not node
    # Again from the beginning, with what is new.
    (share / "new").touch()
    assert b"new" in {name for name, _, _ in guest.list(ROOT, handle, size)}


def test_a_listing_counts_what_it_looks_up(guest: Guest, share: Path) -> None:
    for number in range(50):
        (share / f"file-{number}").touch()
    handle = guest.open_directory()
    nodes = {node for _, _, node in guest.list(ROOT, handle, 600, plus=True) if node}
    assert len(nodes) == 50
    for node in nodes:
        guest.attributes(node)
        guest.forget(node)
        with raises(errno.ESTALE):
            guest.attributes(node)


def test_no_room_for_one_entry_is_no_end(guest: Guest, share: Path) -> None:
    handle = guest.open_directory()
    body = struct.pack("<QQIIQII", handle, 0, 16, 0, 0, 0, 0)
    with raises(errno.EINVAL):
        guest.call(Opcode.READDIR, ROOT, body)
