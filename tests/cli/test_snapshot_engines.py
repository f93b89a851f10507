"""`hfsched run --restore DIR --engine NAME`: a snapshot of another engine, as a user sees it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from talk import UNICORN, Target
from test_snapshot_run import checks, started
from test_suspend_command import refused, say

from hfsched.snapshot.index import decode_index, encode_index
from hfsched.vcpu.kvm import device

if TYPE_CHECKING:
    from conftest import Start


@pytest.fixture
def unicorn() -> Target:
    if why_not := UNICORN.why_not():
        pytest.skip(f"{UNICORN}: {why_not}")
    return UNICORN


def rewritten(source: str, target: str, values: Mapping[str, object]) -> None:
    """Copy a snapshot with other values in the record of its first VM; None: without them."""
    shutil.copytree(source, target)
    path = Path(target, "index")
    index = decode_index(target, path.read_bytes()).index
    component = index.state["machine"]
    record: dict[str, Any] = msgspec.msgpack.decode(component.data)
    for name, value in values.items():
        if value is None:
            del record["vms"][0][name]
        else:
            record["vms"][0][name] = value
    data = msgspec.msgpack.encode(record)
    state = {**index.state, "machine": msgspec.structs.replace(component, data=data)}
    path.write_bytes(encode_index(msgspec.structs.replace(index, state=state))[0])


@pytest.mark.skipif(device.MACHINE == "aarch64", reason="arm64 KVM may be here")
def test_a_snapshot_of_arm64_kvm_goes_on_on_unicorn(
    run: Start, hfsched: Start, unicorn: Target
) -> None:
    machine = started(run, unicorn)
    say(hfsched, "snapshot", "take", "here")
    assert machine.wait() == 0
    rewritten("here", "there", {"engine": "kvm", "cpus": [b"none of yours"]})
    rewritten("here", "old", {"engine": "kvm", "portable": None})

    here = f"this host is {device.MACHINE}, the guest is aarch64"
    can = "--engine unicorn can take it over"
    assert refused(hfsched, "run", "--restore", "there") == (
        1, f"vm stress: engine kvm: {here}; {can}\n",
    )  # fmt: skip
    assert refused(hfsched, "run", "--restore", "here", "--engine", "kvm") == (
        1, f"vm stress: engine kvm: {here}\n",
    )  # fmt: skip
    assert refused(hfsched, "run", "--restore", "here", "--engine", "script") == (
        1, "vm stress: engine script cannot run an aarch64 image: use unicorn\n",
    )  # fmt: skip
    assert refused(hfsched, "run", "--restore", "old", "--engine", "unicorn") == (
        1,
        "vm stress: engine kvm saved it in its own form alone: restore it with --engine kvm, and take a new snapshot\n",
    )

    again = run("--restore", "there", "--engine", "unicorn", "--name", "demo", "--linger", "60")
    checks(again)
    text = say(hfsched, "snapshot", "take", "demo", "next")
    assert text.startswith("layer    next, full: ")
    assert again.wait() == 0
    assert "engine unicorn: asked for; engine kvm saved it" in again.err
    for words in ((), ("--engine", "auto"), ("--engine", "unicorn")):
        last = run("--restore", "next", *words, "--linger", "60")
        checks(last)
        assert last.wait() == 0
        assert "engine unicorn: the snapshot's" in last.err


def test_what_the_counter_had_is_what_the_index_says(
    run: Start, hfsched: Start, unicorn: Target
) -> None:
    machine = started(run, unicorn)
    say(hfsched, "snapshot", "take", "here")
    assert machine.wait() == 0
    record = decode_index("here", Path("here", "index").read_bytes()).index.state["machine"]
    portable = msgspec.msgpack.decode(record.data)["vms"][0]["portable"]
    rewritten("here", "slow", {"portable": {**portable, "counter_hz": 1_000_000}})
    status, error = refused(hfsched, "run", "--restore", "slow")
    assert status == 1
    assert error.endswith("error: slow: of another machine: counter hz 62500000, here 1000000\n")
