"""The state of a share goes to another device of the same directory."""

from __future__ import annotations

import copy
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest
from fuseguest import Guest, raises

from hfsched.vhost.device import DeviceHost
from hfsched.vhost.devices.fs import Fs
from hfsched.vhost.devices.fs.wire import ROOT, Opcode
from hfsched.vhost.errors import RefusedError


class Host:
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, text: str) -> None:
        self.said.append(text)


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


def fresh(share: Path, **options: Any) -> Fs:
    device = Fs(str(share), "tag", **options)
    host: Any = Host()
    device.host = host
    return device


def moved(guest: Guest, share: Path) -> Guest:
    """Return a guest that goes on with a fresh device, which has the state of its own."""
    guest.device.suspend()
    state = cbor2.loads(cbor2.dumps(guest.device.save()))
    device = fresh(share)
    device.restore(state)
    return Guest(device, mount=False)


def said(guest: Guest) -> list[str]:
    host: DeviceHost | Host = guest.device.host
    assert isinstance(host, Host)
    return host.said


def test_files_and_handles_go_on(guest: Guest, share: Path) -> None:
    (share / "a/b").mkdir(parents=True)
    (share / "a/b/file").write_text("text")
    (share / b"\xff".decode(errors="surrogateescape")).touch()
    (share / "link").symlink_to("a")
    node = guest.look_up(b"a", b"b", b"file")
    odd, link = guest.look_up(b"\xff"), guest.look_up(b"link")
    reader, writer = guest.open(node, os.O_RDONLY), guest.open(node, os.O_WRONLY)
    guest.look_up(b"a", b"b", b"file")
    guest.call(Opcode.RENAME, ROOT, struct.pack("<Q", ROOT) + b"a\0z\0")
    for _ in range(2):
        guest = moved(guest, share)
        assert not said(guest)
        assert guest.read(node, reader, 1, 10) == b"ext"
        with raises(errno.EBADF):
            guest.write(node, reader, 0, b"T")
        guest.write(node, writer, 0, b"t")
        assert guest.call(Opcode.READLINK, link) == b"a"
        assert guest.attributes(odd).size == 0
        assert guest.look_up(b"z", b"b", b"file") == node
    guest.write(node, writer, 0, b"T")
    assert (share / "z/b/file").read_text() == "Text"
    # Lookups: two at the beginning and one in each of the two devices.
    guest.forget(node, 3)
    guest.attributes(node)
    guest.forget(node)
    with raises(errno.ESTALE):
        guest.attributes(node)
    assert guest.create(b"new")[0] > max(node, odd, link)  # none is used twice
    assert guest.create(b"newer")[1] > writer


def test_a_listing_goes_on(guest: Guest, share: Path) -> None:
    for number in range(300):
        (share / f"file-{number:03}").touch()
    handle = guest.open_directory()
    body = struct.pack("<QQIIQII", handle, 0, 4096, 0, 0, 0, 0)
    payload = guest.call(Opcode.READDIR, ROOT, body)
    seen, at, offset = [], 0, 0
    while at < len(payload):
        _, offset, length, _ = struct.unpack_from("<QQII", payload, at)
        seen.append(payload[at + 24 : at + 24 + length])
        at += (24 + length + 7) & ~7
    guest = moved(guest, share)
    while payload := guest.call(
        Opcode.READDIR, ROOT, struct.pack("<QQIIQII", handle, offset, 4096, 0, 0, 0, 0)
    ):
        at = 0
        while at < len(payload):
            _, offset, length, _ = struct.unpack_from("<QQII", payload, at)
            seen.append(payload[at + 24 : at + 24 + length])
            at += (24 + length + 7) & ~7
    assert sorted(seen) == sorted([b".", b"..", *(b"file-%03d" % n for n in range(300))])


def test_a_file_that_is_gone_is_stale_and_the_rest_goes_on(guest: Guest, share: Path) -> None:
    for name in ("gone", "stays", "becomes"):
        (share / name).write_text(name)
    (share / "dir").mkdir()
    (share / "dir/inner").touch()
    gone, stays, becomes = (guest.look_up(name) for name in (b"gone", b"stays", b"becomes"))
    inner = guest.look_up(b"dir", b"inner")
    handle, other = guest.open(gone), guest.open(stays)
    deleted, deleted_handle = guest.create(b"deleted")
    guest.call(Opcode.UNLINK, ROOT, b"deleted\0")
    state = guest.device.save()
    (share / "gone").unlink()
    (share / "becomes").unlink()
    (share / "becomes").mkdir()
    (share / "dir/inner").unlink()
    (share / "dir").rmdir()
    (share.parent / "inner").touch()
    (share / "dir").symlink_to("..")  # which would lead to another one
    device = fresh(share)
    device.restore(state)
    guest = Guest(device, mount=False)
    assert said(guest) == ["files that the guest knows and that are not there any more: 5"]
    assert guest.read(stays, other, 0, 10) == b"stays"
    for node in (gone, becomes, deleted, inner):
        with raises(errno.ESTALE):
            guest.attributes(node)
        with raises(errno.ESTALE):
            guest.open(node)
    for node, number in ((gone, handle), (deleted, deleted_handle)):
        with raises(errno.ESTALE):
            guest.read(node, number, 0, 10)
        guest.call(Opcode.RELEASE, node, struct.pack("<QIIQ", number, 0, 0, 0))
        with raises(errno.EBADF):
            guest.read(node, number, 0, 10)
    # Such nodes are saved again, looked up anew, and forgotten.
    guest = moved(guest, share)
    new = guest.look_up(b"becomes")
    assert new != becomes
    guest.forget(becomes)
    guest.forget(gone)
    assert {node.id for node in guest.device._share.inodes if node.fd < 0} >= {inner, deleted}
    assert gone not in {node.id for node in guest.device._share.inodes}


def test_a_file_with_another_name_is_found_by_it(guest: Guest, share: Path) -> None:
    (share / "dir").mkdir()
    directory = guest.look_up(b"dir")
    node, handle = guest.create(b"temporary")
    guest.write(node, handle, 0, b"text")
    guest.call(Opcode.LINK, directory, struct.pack("<Q", node) + b"final\0")
    guest.look_up(b"temporary")
    guest.call(Opcode.UNLINK, ROOT, b"temporary\0")
    guest = moved(guest, share)
    assert guest.read(node, handle, 0, 10) == b"text"
    guest.device.close()


def test_a_state_that_makes_no_sense_changes_nothing(guest: Guest, share: Path) -> None:
    (share / "file").write_text("text")
    node, directory = guest.look_up(b"file"), guest.open_directory()
    handle = guest.open(node)
    good = guest.device.save()
    count = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    def bad(*path: Any, value: Any) -> Any:
        state = copy.deepcopy(good)
        at = state
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        return state

    wrong: list[Any] = [None, 5, [], {}, {**good, "more": 1}, {**good, "nodes": None}]
    wrong += [bad("version", value=value) for value in (0, 2, None, "1")]
    wrong += [bad("minor", value=value) for value in (30, 39, -1)]
    wrong += [bad("next_node", value=value) for value in (node, 0, -1, 1 << 64)]
    wrong += [bad("next_handle", value=value) for value in (handle, 0)]
    wrong += [bad("nodes", 0, "id", value=value) for value in (ROOT, 0, -5, 1 << 70)]
    wrong += [bad("nodes", 0, "lookups", value=value) for value in (0, -1, 1 << 64, "1")]
    wrong += [bad("nodes", 0, "path", value=5)]
    wrong += [bad("nodes", value=[good["nodes"][0]] * 2), bad("handles", 0, "id", value=0)]
    wrong += [bad("handles", 0, "flags", value=value) for value in (3, os.O_TRUNC, os.O_CREAT)]
    for state in wrong:
        with pytest.raises(RefusedError):
            guest.device.restore(state)
        assert guest.read(node, handle, 0, 10) == b"text"
        assert len(guest.list(ROOT, directory)) == 3
    few = fresh(share, descriptors=4)
    crowded = bad("nodes", value=[{**good["nodes"][0], "id": 100 + n} for n in range(4)])
    with pytest.raises(RefusedError, match="ulimit"):
        few.restore({**crowded, "next_node": 200})
    few.close()
    read_only = fresh(share, read_only=True)
    with pytest.raises(RefusedError, match="read-only"):
        read_only.restore(good)
    read_only.close()
    assert len(os.listdir("/proc/self/fd")) == count  # noqa: PTH208
    guest.device.restore(good)
    assert guest.read(node, handle, 0, 10) == b"text"
    assert len(os.listdir("/proc/self/fd")) == count  # noqa: PTH208


@pytest.mark.parametrize(
    "path",
    [b"../outside", b"/etc/passwd", b".", b"", b"dir/../../outside", b"up/outside", b"up", b"a\0b"],
)
def test_a_path_of_a_state_leads_nowhere_else(guest: Guest, share: Path, path: bytes) -> None:
    (share.parent / "outside").write_text("secret")
    (share / "dir").mkdir()
    (share / "up").symlink_to("..")
    (share / "file").touch()
    node = guest.look_up(b"file")
    handle = guest.open(node, os.O_RDONLY)
    state = guest.device.save()
    state["nodes"][0]["path"] = path
    device = fresh(share)
    device.restore(state)
    after = Guest(device, mount=False)
    with raises(errno.ESTALE):
        after.attributes(node)
    with raises(errno.ESTALE):
        after.read(node, handle, 0, 10)
    device.close()


def test_what_was_written_is_on_the_disk_before_another_one_goes_on(
    guest: Guest, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    node, _ = guest.create(b"file")
    guest.open(node, os.O_RDONLY)
    guest.device.suspend()
    assert synced == [(share / "file").stat().st_ino]


def test_a_device_that_was_never_mounted_has_a_state_too(share: Path) -> None:
    device, other = fresh(share), fresh(share)
    other.restore(device.save())
    guest = Guest(other, mount=False)
    with raises(errno.EIO):
        guest.attributes(ROOT)
    device.close()
    other.close()
