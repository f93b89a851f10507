"""Any bytes as requests: each has a proper answer or none, and nothing outside the share changes."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fuseguest import INIT, send
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.vhost.devices.fs import Fs
from hfsched.vhost.devices.fs.wire import HEADER, Opcode

NAMES = [
    b"file",
    b"dir",
    b"up",
    b"inner",
    b"new",
    b"..",
    b".",
    b"",
    b"../outside/secret",
    b"n" * 256,
]
small = st.integers(0, 8)
number = st.one_of(
    small, st.sampled_from([4096, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
)
field32 = st.one_of(
    small, st.integers(0, (1 << 32) - 1), st.sampled_from([0o100644, 0o40755, 0o20666, 0o1000])
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Draw bytes like those of a body: numbers, names, and anything."""
    parts = draw(
        st.lists(
            st.one_of(
                number.map(lambda value: struct.pack("<Q", value)),
                field32.map(lambda value: struct.pack("<I", value)),
                st.sampled_from(NAMES).map(lambda name: name + b"\0"),
                st.binary(max_size=40),
            ),
            max_size=12,
        )
    )
    return b"".join(parts)


requests = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda opcode, node, body, more, owner: (
            HEADER.pack(HEADER.size + len(body) + more, opcode, 42, node, owner, owner, 1, 0, 0)
            + body
        ),
        st.one_of(st.sampled_from(sorted(Opcode)), st.integers(0, 60)),
        number,
        bodies(),
        st.sampled_from([0] * 8 + [-1, 1, 1000]),
        small,
    ),
)


@contextmanager
def shared() -> Iterator[tuple[Fs, Path]]:
    """Make a share with something beside it; what is beside it must be the same at the end."""
    with tempfile.TemporaryDirectory() as name:
        share, outside = Path(name, "share"), Path(name, "outside")
        for path in (share / "dir", outside):
            path.mkdir(parents=True)
        (share / "file").write_text("text")
        (share / "dir/inner").touch()
        (share / "up").symlink_to("../outside")
        (outside / "secret").write_text("secret")
        device = Fs(str(share), "tag", descriptors=40)
        before = beside(Path(name))
        count = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        yield device, share
        assert beside(Path(name)) == before
        assert (outside / "secret").read_text() == "secret"
        device.reset()
        assert len(os.listdir("/proc/self/fd")) == count  # noqa: PTH208
        device.close()


def beside(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Return all that can be seen of what is beside the share, but when it was last read."""
    found = [*path.iterdir(), *(path / "outside").iterdir()]
    states = {each: each.stat() for each in found if each.name != "share"}
    return sorted((str(each), (*now[:7], now.st_ctime_ns)) for each, now in states.items())


def check(reply: bytes, room: int) -> None:
    """See that a reply is a proper one, or none."""
    assert len(reply) <= room
    if reply:
        length, error, _ = struct.unpack_from("<IiQ", reply)
        assert length == len(reply)
        assert -512 < error <= 0
        assert not error or length == 16


@settings(max_examples=300)
@given(
    st.lists(st.tuples(requests, st.sampled_from([0, 15, 16, 100, 144, 160, 4096])), max_size=30)
)
def test_any_requests(steps: list[tuple[bytes, int]]) -> None:
    with shared() as (device, _):
        header = HEADER.pack(HEADER.size + len(INIT), Opcode.INIT, 1, 0, 0, 0, 0, 0, 0)
        check(send(device, header + INIT, 100), 100)
        for data, room in steps:
            check(send(device, data, room), room)


# Few of them end the session, or there would be nothing to be done in it.
operations = st.sampled_from([*(sorted(set(Opcode) - {Opcode.INIT, Opcode.DESTROY}) * 4), *Opcode])


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            operations, small, st.sampled_from(NAMES), st.sampled_from(NAMES), small, field32
        ),
        max_size=60,
    )
)
def test_any_operations_on_few_names(
    steps: list[tuple[Opcode, int, bytes, bytes, int, int]],
) -> None:
    """Requests that are well formed, so that most of them do something."""
    with shared() as (device, share):
        header = HEADER.pack(HEADER.size + len(INIT), Opcode.INIT, 1, 0, 0, 0, 0, 0, 0)
        send(device, header + INIT, 100)
        for name in (b"file", b"dir", b"up"):
            head = HEADER.pack(HEADER.size + len(name) + 1, Opcode.LOOKUP, 1, 1, 0, 0, 0, 0, 0)
            assert len(send(device, head + name + b"\0", 4096)) == 144
        for opcode, node, name, other, value, word in steps:
            body = well_formed(opcode, name, other, value, word)
            head = HEADER.pack(HEADER.size + len(body), opcode, 1, node, 0, 0, 0, 0, 0)
            reply = send(device, head + body, 4096)
            check(reply, 4096)
        for _, _, files in os.walk(share):
            assert not {name for name in files if len(name) > 255}
        # What is known can be saved and found again, whatever has happened.
        nodes = {node.id: node.lookups for node in device._share.inodes}
        device.host = Quiet()  # type: ignore[assignment]
        device.restore(device.save())
        assert {node.id: node.lookups for node in device._share.inodes} == nodes


class Quiet:
    def notice(self, text: str) -> None:
        pass


def well_formed(opcode: Opcode, name: bytes, other: bytes, value: int, word: int) -> bytes:
    """Return a body of an operation."""
    one, two = name + b"\0", other + b"\0"
    match opcode:
        case Opcode.LOOKUP | Opcode.UNLINK | Opcode.RMDIR:
            return one
        case Opcode.FORGET:
            return struct.pack("<Q", value)
        case Opcode.SETATTR:
            small_size = word & 0xFFFF
            return struct.pack("<IIQQ", word & 0x1FF, 0, value, small_size) + bytes(64)
        case Opcode.SYMLINK:
            return one + two
        case Opcode.MKNOD:
            return struct.pack("<IIII", word, 0, 0, 0) + one
        case Opcode.MKDIR:
            return struct.pack("<II", word, 0) + one
        case Opcode.RENAME | Opcode.LINK:
            return struct.pack("<Q", value) + one + (two if opcode == Opcode.RENAME else b"")
        case Opcode.RENAME2:
            return struct.pack("<QII", value, word & 3, 0) + one + two
        case Opcode.CREATE:
            return struct.pack("<IIII", word, 0o644, 0, 0) + one
        case Opcode.OPEN | Opcode.OPENDIR:
            return struct.pack("<II", word, 0)
        case Opcode.FALLOCATE:
            return struct.pack("<QQQII", value, 0, 1 + value, word & 3, 0)
        case Opcode.WRITE:
            return struct.pack("<QQIIQII", value, value, len(name), 0, 0, word, 0) + name
        case Opcode.INIT:
            return INIT if not value else b""
        case Opcode.DESTROY:
            return b""
        case Opcode.BATCH_FORGET:
            return struct.pack("<IIQQ", 1, 0, value, word)
    return struct.pack("<QQIIQII", value, 0, word & 0xFFF, word & 7, 0, 0, 0)
