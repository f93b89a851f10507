"""A share behind real messages and rings, without a VM."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from driver import FrontEnd, RefusedByDeviceError
from fuseguest import Guest, raises

from hfsched.vhost.devices.fs import Fs


@pytest.fixture
def share(tmp_path: Path) -> Path:
    path = tmp_path / "share"
    path.mkdir()
    return path


@contextmanager
def connected(share: Path, *, start: bool = True) -> Iterator[tuple[FrontEnd, Fs]]:
    device = Fs(str(share), "shared")
    try:
        with FrontEnd(device, start=start) as front:
            yield front, device
    finally:
        device.close()


def test_a_file_is_written_and_read_and_forgotten(share: Path) -> None:
    data = hashlib.shake_256(b"seed").digest(3000)
    with connected(share) as (front, device):
        assert front.config(0, 40) == b"shared".ljust(36, b"\0") + b"\1\0\0\0"
        guest = Guest(device, post=front.request)
        node, handle = guest.create(b"file")
        assert guest.write(node, handle, 0, data) == len(data)
        assert guest.read(node, handle, 0, 4096) == data
        guest.forget(node)
        with raises(errno.ESTALE):
            guest.attributes(node)
        assert not front.notices
    assert (share / "file").read_bytes() == data


def test_what_makes_no_sense_is_given_back_and_the_next_one_is_served(share: Path) -> None:
    with connected(share) as (front, device):
        guest = Guest(device, post=front.request)
        for data, room in ((b"", 100), (b"x" * 39, 100), (b"\xff" * 40, 0), (b"", 0)):
            if data or room:
                assert front.request(data, room, 1) == b""
        assert front.request(b"\xff" * 60, 100, 1)[:8] == b"\x10\0\0\0\xea\xff\xff\xff"  # EINVAL
        guest.create(b"file")
        assert not front.failures


def test_the_state_travels_and_one_that_is_none_changes_nothing(share: Path) -> None:
    (share / "file").write_text("text")
    with connected(share) as (front, device):
        guest = Guest(device, post=front.request)
        node = guest.look_up(b"file")
        handle = guest.open(node)
        front.suspend()
        state = front.save()
        front.resume()
        assert guest.read(node, handle, 0, 10) == b"text"  # the source may go on
    with connected(share, start=False) as (front, device):
        front.negotiate()
        front.restore(state)
        for bad in (state[:-1], b"", state.replace(b"file", b"f\xffle")[:-2]):
            with pytest.raises(RefusedByDeviceError):
                front.restore(bad)
        front.set_memory()
        front.resume()
        guest = Guest(device, mount=False, post=front.request)
        assert guest.read(node, handle, 0, 10) == b"text"
        front.suspend()
        front.reset()
        front.resume()
        with raises(errno.EIO):  # it is to be mounted again
            guest.read(node, handle, 0, 10)


def test_nothing_is_left_open(share: Path, descriptors: Callable[[], int]) -> None:
    before = descriptors()
    for _ in range(2):
        with connected(share) as (front, device):
            guest = Guest(device, post=front.request)
            guest.create(b"file")
            guest.open_directory()
    assert descriptors() <= before
