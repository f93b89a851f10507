"""How the commands that write snapshots end: by a signal at each point, without a place, with nowhere to print."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from test_snapshot_run import checks, started, unicorn
from test_suspend_command import refused, say

if TYPE_CHECKING:
    from conftest import Process, Start
    from talk import Target

__all__ = ["unicorn"]

# The command, which does something to itself when it has come to a point.
AT_A_POINT = """
import os, sys
from hfsched.control import snapshot_client
from hfsched.snapshot import directory
point, what = sys.argv.pop(1), sys.argv.pop(1)
owner, name = {
    "made": (directory.Making, "begin"),
    "written": (snapshot_client, "_written"),
    "renamed": (directory, "_rename"),
    "published": (directory.Making, "publish"),
    "confirmed": (snapshot_client, "_confirm"),
}[point]
function = getattr(owner, name)

def wrapped(*arguments, **options):
    result = function(*arguments, **options)
    if what.isdigit():
        os.kill(os.getpid(), int(what))
    else:
        exec(what)
    return result

setattr(owner, name, wrapped)
from hfsched.cli.entry import entry
entry()
"""
FULL = 'os.dup2(os.open("/dev/full", os.O_WRONLY), 1)'
MOVED = 'os.rename("folder", "moved")'


def at(hfsched: Start, point: str, what: object, *words: str) -> Process:
    return hfsched(*words, command=(sys.executable, "-c", AT_A_POINT, point, str(what)))


def there() -> list[str]:
    return sorted(
        each.name for each in Path().iterdir() if "night" in str(each) or "hfs" in each.name
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("point", ["made", "written", "renamed", "published"])
def test_a_signal_before_the_machine_knows_leaves_nothing(
    run: Start, hfsched: Start, unicorn: Target, point: str, number: signal.Signals
) -> None:
    machine = started(run, unicorn)
    for words in (("snapshot", "take", "demo", "night"), ("hibernate", "demo", "night")):
        process = at(hfsched, point, int(number), *words)
        assert process.wait() == 128 + number
        assert process.out == ""
        assert "Traceback" not in process.err
        assert there() == []
    checks(machine, ok=2)
    assert machine.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_that_comes_too_late(
    run: Start, hfsched: Start, unicorn: Target, number: signal.Signals
) -> None:
    machine = started(run, unicorn)
    taken = at(hfsched, "confirmed", int(number), "snapshot", "take", "demo", "night")
    assert taken.wait() == 0
    assert "was suspended for" in taken.out
    asleep = at(hfsched, "confirmed", int(number), "hibernate", "demo", "nights")
    assert asleep.wait() == 0
    assert (taken.err, asleep.err) == ("", "")
    assert machine.wait() == 4
    assert there() == ["night", "nights"]
    assert "whole" in say(hfsched, "snapshot", "verify", "nights")


def test_nowhere_to_print(run: Start, hfsched: Start, unicorn: Target) -> None:
    machine = started(run, unicorn)
    why = "hfsched: error: standard output: No space left on device"
    taken = at(hfsched, "confirmed", FULL, "snapshot", "take", "demo", "night")
    assert (taken.wait(), taken.err) == (1, f"{why}: night is written\n")
    asleep = at(hfsched, "confirmed", FULL, "hibernate", "demo", "nights")
    assert asleep.wait() == 1
    assert asleep.err == f"{why}: nights is written, and the machine has ended by it\n"
    assert machine.wait() == 4


def test_a_folder_that_is_renamed_meanwhile(run: Start, hfsched: Start, unicorn: Target) -> None:
    """It could not be found again: the machine goes on."""
    machine = started(run, unicorn)
    Path("folder").mkdir()
    process = at(hfsched, "published", MOVED, "hibernate", "demo", "folder/night")
    assert process.wait() == 1
    assert process.err == f"hfsched: error: {Path.cwd()}/folder: no such directory\n"
    assert [*Path("moved").iterdir()] == []
    checks(machine, ok=2)
    assert machine.wait() == 0


def test_a_name_that_nobody_could_open(run: Start, hfsched: Start, unicorn: Target) -> None:
    machine = started(run, unicorn)
    why = ".hfsched-snapshot-night: names that begin with .hfsched-snapshot- are of unfinished ones: choose another name\n"
    assert refused(hfsched, "hibernate", "demo", ".hfsched-snapshot-night") == (1, why)
    empty = "'': an empty name: give the directory of a snapshot\n"
    assert refused(hfsched, "snapshot", "take", "demo", "") == (1, empty)
    assert refused(hfsched, "snapshot", "inspect", "") == (1, empty)
    assert there() == []
    checks(machine, ok=2)
    assert machine.wait() == 0


def test_an_option_that_is_wrong_is_not_the_snapshots_mistake(
    run: Start, hfsched: Start, unicorn: Target
) -> None:
    machine = started(run, unicorn)
    say(hfsched, "snapshot", "take", "demo", "night")
    for words, why in (
        (("--name", "a/b"), "machine name 'a/b': use 1 to 63 letters, digits"),
        (("--swap-dir", ""), "swap is empty: name a directory, or leave it out"),
    ):
        status, text = refused(hfsched, "run", "--restore", "night", *words)
        assert (status, text[: len(why) + 14]) == (2, f"command line: {why}")
    assert machine.wait() == 0


def test_a_parent_that_is_cut_off(run: Start, hfsched: Start, unicorn: Target) -> None:
    machine = started(run, unicorn)
    say(hfsched, "snapshot", "take", "demo", "night")
    say(hfsched, "snapshot", "take", "demo", "nights", "--incremental")
    size = Path("night/pages").stat().st_size
    os.truncate("night/pages", 10)
    why = f"night/pages: 10 bytes instead of {size}"
    for words in (
        ("snapshot", "take", "demo", "nightly", "--incremental"),
        ("hibernate", "demo", "nightly", "--incremental"),
    ):
        assert refused(hfsched, *words) == (1, f"{why}: take a full one\n")
    for verb, other in (("diff", "nights"), ("merge", "nightly")):
        assert refused(hfsched, "snapshot", verb, "nights", other) == (1, f"{why}\n")
    assert there() == ["night", "nights"]
    checks(machine, ok=2)
    assert machine.wait() == 0


@pytest.mark.parametrize("words", [("--version",), ("snapshot", "--help"), ("doctor",)])
def test_a_closed_standard_output_is_an_error(hfsched: Start, words: tuple[str, ...]) -> None:
    command = ("sh", "-c", f'exec "{sys.executable}" -m hfsched "$@" >&-', "sh")
    process = hfsched(*words, command=command)
    assert process.wait() == 1
    assert process.err == "hfsched: error: standard output: Bad file descriptor\n"


def test_a_key_that_is_no_text(hfsched: Start) -> None:
    for what in (("get",), ("delete",)):
        process = hfsched("kvp", *what, "utility", os.fsdecode(b"\xff"))
        assert process.wait() == 2
        assert process.err == "hfsched: error: key \\udcff: it must be UTF-8\n"
    assert refused(hfsched, "kvp", "get", "", "os") == (
        1,
        "'': an empty name: name a VM, MACHINE/VM, or a machine's socket\n",
    )
