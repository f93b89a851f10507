"""`hfsched run --clone`: several machines of one snapshot at the same time, as a user sees them."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from former import copy_former
from msgspec.structs import replace
from progress import Quiet
from talk import TARGETS, UNICORN, Target
from test_events_command import answers
from test_guest_commands import heard, said
from test_snapshot_run import problem
from test_suspend_command import begin, refused, say

from hfsched import connect
from hfsched.cli.restoring import Restoration
from hfsched.snapshot.directory import open_chain
from hfsched.swap.core import device
from hfsched.vmm.snapshotting import record_of

if TYPE_CHECKING:
    from conftest import Process, Start

GENERATION = r"utility: generation ([0-9a-f]{32})$"


@pytest.fixture(params=TARGETS, ids=str)
def target(request: pytest.FixtureRequest) -> Target:
    made: Target = request.param
    if why_not := made.why_not():
        pytest.skip(f"{made}: {why_not}")
    return made


@pytest.fixture
def unicorn() -> Target:
    if why_not := UNICORN.why_not():
        pytest.skip(f"{UNICORN}: {why_not}")
    return UNICORN


def snapshot(run: Start, hfsched: Start, target: Target) -> Process:
    """Take the snapshot `monday` of the machine `demo`, which runs on."""
    arguments = ("--engine", target.engine, f"u={target.image('utility')}")
    demo = begin(run, *arguments, "--memory", "2MiB", "--fdt", "auto", "--linger", "60")
    heard(demo, "state", "ready 6")
    say(hfsched, "snapshot", "take", "demo", "monday")
    return demo


def serving(process: Process, name: str) -> None:
    """Wait until a machine's control socket is there."""
    path = process.directory / "hfsched" / name / "control"
    quiet = Quiet()
    while not answers(path):
        assert quiet.left > 0, process.err


def named(process: Process) -> str:
    """Return a clone's name, which it tells."""
    found = process.until(r"machine (\S+): a clone of monday$", stream="err")
    return found[1].decode()


def test_three_at_once_differ_and_so_does_the_one_they_are_of(
    run: Start, hfsched: Start, target: Target
) -> None:
    demo = snapshot(run, hfsched, target)
    clones = [run("--clone", "monday", "--linger", "60") for _ in range(3)]
    assert {named(each) for each in clones} == {"demo-2", "demo-3", "demo-4"}
    ids = {said(demo, "generation")}
    for each in clones:
        told = each.until(GENERATION)[1].decode()  # by the interrupt, unasked
        assert said(each, "generation") == told
        heard(each, "state", "ready 6 frozen 0 stale 0")
        ids.add(told)
    assert len(ids) == 4
    for each in clones:
        serving(each, named(each))
        assert say(hfsched, "kvp", "get", f"{named(each)}/u", "os") == "utility\n"
        assert say(hfsched, "kvp", "get", "--host", f"{named(each)}/u", "machine") == (
            f"{named(each)}\n"
        )
    assert [each.wait() for each in (*clones, demo)] == [0, 0, 0, 0]
    assert demo.out.count("utility: generation ") == 1


def held(process: Process, vm: str) -> int:
    """Return how many bytes of a VM's memory are in RAM, of all who map it."""
    for each in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            if str(each.readlink()).startswith(f"/memfd:hfsched:{vm}"):
                return each.stat().st_blocks * 512
    raise AssertionError(f"no memory of {vm}")


def test_a_clone_holds_what_it_has_touched(run: Start, hfsched: Start, target: Target) -> None:
    if why_not := device.problem():
        pytest.skip(why_not)
    arguments = ("--engine", target.engine, f"g={target.image('stress')}", "--memory", "4MiB")
    demo = begin(run, *arguments, "--linger", "60")
    demo.type("fill 7\n")
    demo.until(r"^g: ok \d+$")
    whole = held(demo, "g")
    say(hfsched, "snapshot", "take", "demo", "monday")
    assert demo.wait() == 0
    clones = [run("--clone", "monday", "--linger", "60") for _ in range(3)]
    for each in clones:
        each.type("status\n")
        each.until(r"^g: sent 0 ")
    time.sleep(1)  # nothing comes in by itself
    assert all(held(each, "g") * 5 < whole for each in clones)
    clones[0].type("check 7\n")
    clones[0].until(r"^g: ok \d+$")
    assert held(clones[0], "g") > whole * 0.9
    assert [each.wait() for each in clones] == [0, 0, 0]


def test_a_clone_has_a_chain_on_the_snapshot_and_clones_of_its_own(
    run: Start, hfsched: Start, unicorn: Target
) -> None:
    assert snapshot(run, hfsched, unicorn).wait() == 0
    clone = run("--clone", "monday", "--linger", "60")
    assert named(clone) == "demo-2"  # demo is left for --restore
    told = clone.until(GENERATION)[1].decode()
    serving(clone, "demo-2")
    text = say(hfsched, "snapshot", "take", "demo-2", "tuesday", "--incremental")
    assert problem() is not None or text.startswith("layer    tuesday, on monday: ")
    assert clone.wait() == 0
    again = run("--clone", "tuesday", "--linger", "60", "--name", "other", "--json")
    until = again.until(r'machine other: a clone of tuesday"')
    assert until
    found = re.compile(r'"line": "utility: generation ([0-9a-f]{32})"')
    assert again.until(found.pattern)[1].decode() != told
    assert again.wait() == 0
    unnamed = run("--clone", "tuesday", "--no-sockets", "--linger", "60")
    unnamed.until(r"hfsched: a clone of tuesday$", stream="err")
    assert unnamed.wait() == 0


def test_an_answer_that_lay_in_a_port_is_in_each_clone(
    run: Start, hfsched: Start, unicorn: Target
) -> None:
    arguments = ("--engine", "unicorn", f"g={unicorn.image('trusty')}", "--linger", "60")
    demo = begin(run, *arguments)
    ports = demo.directory / "hfsched"
    with connect("g", machine=str(ports / "demo" / "ports"), local=7) as client:
        client.send(b"sleep 300")
        client.send(b"echo begun")
        assert client.recv(timeout=60) == b"begun"
    demo.type("sleep 600\n")
    demo.until(r"^g: slept \d+ ms$")
    say(hfsched, "snapshot", "take", "demo", "monday")
    clones = [run("--clone", "monday", "--linger", "60") for _ in range(2)]
    names = [named(each) for each in clones]
    assert "vm g has no generation id, for it has no device tree" in clones[0].err
    for process, name in zip((*clones, demo), (*names, "demo"), strict=True):
        serving(process, name)
        with connect("g", machine=str(ports / name / "ports"), local=7) as client:
            assert client.recv(timeout=60).startswith(b"slept ")
    assert [each.wait() for each in (*clones, demo)] == [0, 0, 0]


def test_what_does_not_go_together(run: Start, hfsched: Start, unicorn: Target) -> None:
    demo = snapshot(run, hfsched, unicorn)
    for words, status, text in (
        (("--clone", "none"), 1, "none: no such directory\n"),
        (("--clone", "monday", "--restore", "monday"), 2, "--restore and --clone: choose one\n"),
        (
            ("--clone", "monday", "trusty.bin"),
            2,
            "--clone and a guest: choose one: the snapshot has its guests\n",
        ),
        (
            ("--clone", "monday", "--vcpus", "2"),
            2,
            "--vcpus: the snapshot has it: leave it out with --clone\n",
        ),
    ):
        assert refused(hfsched, "run", *words) == (status, text)
    status, error = refused(hfsched, "run", "--clone", "monday", "--name", "demo")
    assert status == 1
    assert "a machine 'demo' is running" in error
    assert demo.wait() == 0


def test_a_guest_of_before_generation_ids_is_named(run: Start, unicorn: Target) -> None:
    assert unicorn
    copy_former(1, Path("monday"))
    clone = run("--clone", "monday", "--json")
    assert clone.wait() == 0
    notices = [json.loads(line).get("text") for line in clone.out.splitlines()]
    assert "machine old-2: a clone of monday" in notices
    (text,) = [each for each in notices if "generation id" in str(each)]
    assert text == (
        "vm echo has no generation id, for it has no device tree (--fdt auto): its guest cannot see that it is a"
        " clone, and draws the random numbers of the others"
    )
    again = run("--restore", "monday", "--json")
    assert again.wait() == 0
    assert "generation id" not in again.out


def test_why_a_vm_has_none_is_said(tmp_path: Path) -> None:
    copy_former(1, tmp_path / "monday")
    with closing(open_chain(tmp_path / "monday")) as chain:
        record = record_of(chain)
        (vm,) = record.vms
        vm.spec.fdt = "auto"
        of_before = Restoration(chain, record, 0, None, False, None, "monday", True)
        assert "for it was saved before there were any: " in of_before.notices("old-2")[1]
        now = replace(record, vms=(replace(vm, generation=True),))
        of_now = replace(of_before, record=now)
        assert of_now.notices(None) == ["a clone of monday"]
