"""Indices that lie: their hash is right, and what they say is not."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hfsched.errors import SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot import index as indices
from hfsched.snapshot.index import (
    HEAD_SIZE,
    INDEX_MAX,
    ZERO,
    Component,
    Index,
    Parent,
    VmPages,
    body_size,
    decode_index,
    encode_index,
    packed,
)

from .layers import MACHINE

FRAME = packed([1 << 24 | 100], [0])


def vm(table: list[tuple[int, int, int]], pages: int = 8, **other: Any) -> VmPages:
    packed_runs = packed(*zip(*table, strict=True)) if table else b""
    fields = {"name": "a", "dialect": "d", "base": 0, "size": pages * PAGE_SIZE}
    return VmPages(**{**fields, "runs": packed_runs, **other})


def made(*vms: VmPages, pages: int = 4, frames: bytes = FRAME, **other: Any) -> bytes:
    fields = {"parent": None, "hot": b"", "state": {}, **other}
    index = Index(
        hfsched="0.1.0", created=1, machine=MACHINE, vms=vms, pages=pages, frames=frames, **fields
    )
    return encode_index(index)[0]


GOOD = [(0, 2, ZERO), (2, 4, 0), (6, 2, ZERO)]
WHOLE = made(vm(GOOD))


def refused(data: bytes) -> str:
    with pytest.raises(SnapshotError) as found:
        decode_index("i", data)
    text = str(found.value)
    assert text.startswith("i: ")
    assert "\n" not in text
    return text[3:]


def test_the_good_one() -> None:
    layout = decode_index("i", WHOLE)
    assert layout.frame_size(0) == 4 * PAGE_SIZE
    assert [*layout.offsets] == [0, 100]


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([], "VM a: a full layer without 8 of its pages"),
        ([(0, 2, ZERO), (2, 4, 0), (7, 1, ZERO)], "VM a: a full layer without 1 of its pages"),
        ([(0, 3, ZERO), (2, 4, 0), (6, 2, ZERO)], "VM a: page 2: empty, or out of order"),
        ([(2, 4, 0), (0, 2, ZERO), (6, 2, ZERO)], "VM a: page 0: empty, or out of order"),
        ([(0, 0, ZERO), *GOOD[1:]], "VM a: page 0: empty, or out of order"),
        ([*GOOD[:2], (6, 3, ZERO)], "VM a: page 8 of 8"),
        ([*GOOD[:2], (6, ZERO, ZERO)], f"VM a: page {5 + ZERO} of 8"),
        ([GOOD[0], (2, 4, 1), GOOD[2]], "VM a: page 2: is not stored"),
        ([GOOD[0], (2, 4, ZERO - 1), GOOD[2]], "VM a: page 2: is not stored"),
        ([GOOD[0], (2, 4, ZERO), GOOD[2]], "0 pages in the maps, 4 are stored"),
        ([(0, 4, 0), (4, 4, 0)], "8 pages in the maps, 4 are stored"),
    ],
)
def test_page_maps(runs: list[tuple[int, int, int]], text: str) -> None:
    assert refused(made(vm(runs))) == text


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (b"", "0 bytes of frames instead of 8"),
        (FRAME * 2, "16 bytes of frames instead of 8"),
        (packed([3 << 24 | 100], [0]), "frame 0: codec 3 is not known"),
        (packed([1 << 24], [0]), "frame 0: 0 bytes of 16384"),
        (packed([1 << 24 | 16384], [0]), "frame 0: 16384 bytes of 16384"),
        (packed([16383], [0]), "frame 0: 16383 bytes of 16384"),
        (packed([(1 << 24) - 1], [0]), "frame 0: 16777215 bytes of 16384"),
    ],
)
def test_frames(frames: bytes, text: str) -> None:
    assert refused(made(vm(GOOD), frames=frames)) == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (made(vm(GOOD), vm(GOOD)), "two VMs have one name"),
        (made(vm(GOOD, size=8 * PAGE_SIZE + 1)), "VM a: 32769 is no whole number of pages"),
        (made(vm([], runs=bytes(11))), "VM a: its page map ends within a run"),
        (made(vm(GOOD), hot=bytes(11)), "the list of hot pages ends within a run"),
        (made(vm(GOOD), hot=packed([1], [0], [1])), "hot page 0 of VM 1: there is none"),
        (made(vm(GOOD), hot=packed([0], [7], [2])), "hot page 7 of VM 0: there is none"),
        (made(vm(GOOD), hot=packed([0], [7], [0])), "hot page 7 of VM 0: there is none"),
        *(
            (
                made(vm(GOOD), parent=Parent(name, bytes(32))),
                f"parent: {name!r} is not a name of a directory beside it",
            )
            for name in ("..", ".", "a/b", "/a", "../a", "a\0b")
        ),
    ],
)
def test_other_lies(data: bytes, text: str) -> None:
    assert refused(data) == text


def signed(body: bytes, version: int = 1) -> bytes:
    digest = indices._digest(len(body), version, body)
    return indices._HEAD.pack(indices.MAGIC, version, len(body), digest) + body


def test_a_foreign_version_is_named_before_anything_else_is_believed() -> None:
    assert refused(signed(b"whatever", 2)) == "format version 2: this hfsched reads 1"
    changed = bytearray(WHOLE)
    changed[8] = 2
    assert refused(bytes(changed)) == "its hash is wrong: it is damaged"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"colour": 1}, "Object contains unknown field `colour`"),
        ({"pages": "x"}, "Expected `int`, got `str` - at `$.pages`"),
        ({"pages": -1}, "Expected `int` >= 0 - at `$.pages`"),
        ({"vms": []}, "Expected `array` of length >= 1 - at `$.vms`"),
        ({"machine": {"architecture": "", "counter_hz": 1}}, "Expected `str` of length >= 1"),
        ({"machine": {"architecture": "x"}}, "missing required field `counter_hz`"),
        ({"parent": {"name": "x", "hash": b"short"}}, "Expected `bytes` of length >= 32"),
        ({"state": {"a": {"version": 1, "data": b"", "more": 0}}}, "unknown field `more`"),
    ],
)
def test_fields(change: dict[str, object], text: str) -> None:
    fields = msgspec.msgpack.decode(WHOLE[HEAD_SIZE:])
    assert text in refused(signed(msgspec.msgpack.encode({**fields, **change})))


def test_what_is_no_index() -> None:
    assert refused(b"") == refused(b"\x7fELF" + bytes(100)) == "not the index of a snapshot"
    assert refused(signed(b"")) == "Input data was truncated"
    deep = b"\x91" * 5000
    assert refused(signed(deep)).startswith(("Expected `object`", "Input data"))
    assert refused(WHOLE[:20]) == "cut off after 20 bytes"


def test_a_length_that_is_too_much_is_refused_before_it_is_read() -> None:
    head = indices._HEAD.pack(indices.MAGIC, 1, INDEX_MAX, bytes(32))
    with pytest.raises(SnapshotError, match=f"{INDEX_MAX} bytes: at most"):
        body_size("i", head)


def test_what_is_too_long_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indices, "INDEX_MAX", 1000)
    with pytest.raises(SnapshotError, match=r"^index: \d+ bytes: at most"):
        made(vm(GOOD), state={"a": Component(1, bytes(1000))})


HOSTILE = """
import resource, sys
from pathlib import Path
from hfsched.errors import SnapshotError
from hfsched.snapshot.directory import open_chain
from hfsched.snapshot.report import inspect
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(inspect(open_chain(sys.argv[1]))["layers"]))
except SnapshotError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["huge VM", "long file"])
def test_a_hostile_index_takes_no_more_than_its_own_size_suggests(
    kind: str, tmp_path: Path
) -> None:
    """Of memory and time: a VM of 16 TiB in one run, a length that the file does not have."""
    here = tmp_path / "hostile"
    here.mkdir(mode=0o700)
    if kind == "huge VM":
        size = ZERO - 1
        data = made(vm([(0, size, ZERO)], pages=size), pages=0, frames=b"")
    else:
        data = indices._HEAD.pack(indices.MAGIC, 1, INDEX_MAX - HEAD_SIZE, bytes(32)) + b"x"
    (here / "index").write_bytes(data)
    (here / "pages").touch()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, here], capture_output=True, text=True, check=True
    )
    *_, text, grown = done.stdout.splitlines()
    assert text == "1" if kind == "huge VM" else f"bytes instead of {INDEX_MAX}" in text
    assert int(grown) < 16 * 1024, "KiB"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60, "of the processor"
