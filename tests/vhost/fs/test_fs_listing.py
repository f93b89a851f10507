"""A guest lists directories, in as many parts as fit."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuseguest import Guest, raises

from hfsched.vhost.devices.fs import Fs
from hfsched.vhost.devices.fs.wire import ROOT, Opcode


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
