"""`hfsched snapshot`: text, JSON and exit status of each verb."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from snapshot.layers import page, read, save, subject, write

from hfsched.cli import snapshot as command
from hfsched.cli.main import main
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.compare import merge as whole
from hfsched.snapshot.index import Component, Parent

if TYPE_CHECKING:
    from conftest import Start


@pytest.fixture
def chain(hfsched: Start) -> None:
    """Two layers, `a` and `b` on it, in the directory of `hfsched`."""
    pages = {
        (vm, number): page(number % 3) for vm, size in ((0, 40), (1, 3)) for number in range(size)
    }
    state = {"clock": Component(1, b"12345")}
    full = write(subject(40, 3), pages, state=state, hot=[(0, 4, 2)])
    save(Path("a"), full)
    layer = read(*full)
    layer.close()
    changed = {(0, 5): page(7), (0, 6): page(9), (1, 0): page(11), (0, 9): page(0)}
    made = subject(40, 3, parent=Parent("a", layer.hash), created=1_700_000_000_000_000_000)
    save(Path("b"), write(made, changed, state={"clock": Component(1, b"x")}))


def done(hfsched: Start, *words: str, status: int = 0, err: str = "") -> str:
    process = hfsched("snapshot", *words)
    assert process.wait() == status, process.err
    assert process.err == err
    return process.out


@pytest.mark.usefixtures("chain")
def test_inspect(hfsched: Start) -> None:
    out = done(hfsched, "inspect", "b")
    lines = out.splitlines()
    assert lines[:3] == [
        "created  2023-11-14T22:13:20+00:00 by hfsched 0.1.0, format 1",
        "machine  aarch64, counter 62500000 Hz",
        "VM       a: 160 KiB at 0x40000000, ffa-1.0; 13 of 40 pages zero",
    ]
    assert lines[4:6] == ["hot      0 pages", "state    clock, version 1: 1 bytes"]
    assert lines[6].startswith("layer    a, full: 28 pages and 15 zero, ")
    assert lines[7].startswith("layer    b, on a: 3 pages and 1 zero, ")
    found = json.loads(done(hfsched, "inspect", "a", "--json"))
    assert found["vms"][1] == {
        "name": "b",
        "dialect": "ffa-1.0",
        "base": 0x4000_0000,
        "size": 3 * PAGE_SIZE,
        "pages": 3,
        "zero_pages": 1,
    }
    assert found["state"] == {"clock": {"version": 1, "size": 5}}
    assert (found["hot_pages"], found["format"], len(found["layers"])) == (2, 1, 1)


@pytest.mark.usefixtures("chain")
def test_verify_lists_all_faults(hfsched: Start) -> None:
    assert done(hfsched, "verify", "b").startswith("2 layers, 2 frames, ")
    assert json.loads(done(hfsched, "verify", "b", "--json"))["faults"] == []
    for name in "ab":
        file = Path(name, "pages")
        file.write_bytes(file.read_bytes()[:-1])
    out = done(hfsched, "verify", "b", status=1)
    size = Path("a", "pages").stat().st_size
    first, second, third, fourth, last = out.splitlines()
    assert first == f"a/pages: {size} bytes instead of {size + 1}"
    assert second == "a/pages: frame 0: the file ends within it"
    assert third.startswith("b/pages: ")
    assert fourth == "b/pages: frame 0: the file ends within it"
    assert last.startswith("2 layers, 2 frames, ")
    assert not last.endswith("whole")
    Path("a/index").write_bytes(b"x")
    found = json.loads(done(hfsched, "verify", "b", "--json", status=1))
    assert found["faults"][-1] == "a/index: not the index of a snapshot"
    assert len(found["faults"]) == 3


@pytest.mark.usefixtures("chain")
def test_diff(hfsched: Start) -> None:
    out = done(hfsched, "diff", "a", "b", status=3)
    assert out.splitlines() == [
        "VM       a: 2 pages of 1 range",
        "  0x5000+0x2000",
        "VM       b: 1 page of 1 range",
        "  0x0+0x1000",
        "state    clock: 5 bytes, and 1",
    ]
    assert done(hfsched, "diff", "b", "b") == ""
    found = json.loads(done(hfsched, "diff", "a", "b", "--json", status=3))
    assert found["vms"] == {"a": {"pages": [[5, 2]]}, "b": {"pages": [[0, 1]]}}


@pytest.mark.usefixtures("chain")
def test_merge(hfsched: Start) -> None:
    out = done(hfsched, "merge", "b", "c", "--codec", "zstd")
    assert out.startswith("layer    c, full: ")
    assert done(hfsched, "diff", "b", "c") == ""
    assert json.loads(done(hfsched, "inspect", "c", "--json"))["layers"][0]["parent"] is None
    refused = "hfsched: error: c: there is one already: choose another name\n"
    assert done(hfsched, "merge", "b", "c", status=1, err=refused) == ""
    damaged = Path("a", "pages")
    damaged.write_bytes(bytes(damaged.stat().st_size))
    refused = "hfsched: error: a/pages: frame 0: its checksum is wrong: the file is damaged\n"
    done(hfsched, "merge", "b", "d", status=1, err=refused)
    assert not {each.name for each in Path().iterdir()} - {"a", "b", "c", "guests.py"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["inspect"], "inspect needs a DIR"),
        (["diff", "a"], "diff needs two DIRs"),
        (["verify", "a", "b"], "'b' is one word too many for verify"),
        (["inspect", "a", "--codec", "lz4"], "--codec is for take and merge, not for inspect"),
        (["merge", "a", "b", "--live"], "--live is for take, not for merge"),
    ],
)
def test_misuse(hfsched: Start, words: list[str], text: str) -> None:
    done(hfsched, *words, status=2, err=f"hfsched: error: {text}\n")


def test_errors_are_one_line_and_an_object(hfsched: Start) -> None:
    refused = "hfsched: error: none: no such directory\n"
    out = done(hfsched, "inspect", "none", "--json", status=1, err=refused)
    assert json.loads(out) == {"error": "none: no such directory"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("chain")
def test_a_merge_that_is_interrupted_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted(*args: Any, **options: Any) -> str | None:
        os.kill(os.getpid(), number)
        return whole(*args, **options)

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(command, "merge", interrupted)
    try:
        assert main(["snapshot", "merge", "b", "new"]) == 128 + number
    finally:
        for each, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(each, handler)
    assert {each.name for each in Path().iterdir()} == {"a", "b", "guests.py"}
