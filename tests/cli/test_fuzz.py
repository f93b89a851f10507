"""`hfsched fuzz` from the outside: what it says, its status, and what it leaves behind."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
from progress import QUIET

from hfsched.explore.campaign.run import Campaign
from hfsched.explore.registry import catalogue, find, kind_of, values_of

if TYPE_CHECKING:
    from conftest import Process, Start

TEXT = "lost wake-up: unread message, all vCPUs asleep"

SCENARIOS = """
import os
from dataclasses import dataclass
from itertools import count

from hfsched.explore import World

EXECUTIONS = count()


@dataclass
class Raises:
    def build(self, runtime):
        cell = runtime.cell("n", 0)

        def add():
            cell.set(cell.get() + 1)
            print("printed", flush=True)
            if cell.get() == 1:
                raise KeyError("only one has come")

        runtime.spawn("a", add)
        runtime.spawn("b", add)
        return World()


@dataclass
class Unbuildable:
    def build(self, runtime):
        raise KeyError("no world")


@dataclass
class Endless:
    def build(self, runtime):
        number = next(EXECUTIONS)
        if number in (0, 600):  # a worker that is so far has told of its first task
            os.write(2, f"{os.getpid()} at {number}\\n".encode())

        def work():
            for number in range(3):
                runtime.checkpoint(str(number))

        runtime.spawn("a", work)
        runtime.spawn("b", work)
        return World()


@dataclass(frozen=True)
class Late:
    early: bool = False

    def build(self, runtime):
        ready, box, seen = runtime.event("ready"), [0], []

        def write():
            if self.early:
                box[0] = 1
            ready.set()
            if not self.early:
                box[0] = 1

        def read():
            ready.wait()
            seen.append(box[0])

        runtime.spawn("a", write)
        runtime.spawn("b", read)
        return World()
"""


Fuzz: TypeAlias = "Start"


@pytest.fixture
def fuzz(hfsched: Start) -> Fuzz:
    """Start `hfsched fuzz ARGUMENTS...` where there is own.py with the scenarios above."""
    Path("own.py").write_text(SCENARIOS)
    return lambda *arguments, **options: hfsched("fuzz", *arguments, **options)


def token_of(process: Process) -> str:
    """Return the token, which is on a separate line."""
    (token,) = re.findall(r"^token: (\S+)$", process.out, re.MULTILINE)
    return str(token)


@pytest.fixture(scope="module")
def token() -> str:
    """A token of upstream's lost wake-up, with several preemptions."""
    found = Campaign("mailbox+upstream", "random", seed=4).run().found
    assert found is not None
    assert found.preemptions > 1
    return found.token


# Races on plain state.


def test_a_race_is_named_with_both_lines_and_its_token_repeats_it(fuzz: Fuzz) -> None:
    found = fuzz("own.py::Late", "--strategy", "exhaustive")
    assert found.wait() == 1
    lines = (
        r"data race on list#\d+\[0\]: read by b at own.py:\d+ \(seen.append\(box\[0\]\)\), "
        r"and written by a at own.py:\d+ \(box\[0\] = 1\), are not ordered"
    )
    assert re.match(rf"FAILED after \d+ schedules: {lines}\n", found.out)
    token = token_of(found)
    again = fuzz("replay", token)
    assert again.wait() == 1
    assert re.search(rf"FAILED again: {lines}\n", again.out)
    shrunk = fuzz("shrink", token)
    assert shrunk.wait() == 1
    assert "minimal: it fails without preemptions" in shrunk.out
    told = fuzz("explain", token)
    assert told.wait() == 1
    assert "data race on list#" in told.out
    assert "Traceback" not in told.out


def test_its_twin_is_complete_and_says_at_which_size(fuzz: Fuzz) -> None:
    done = fuzz("own.py::Late,early=true", "--strategy", "exhaustive")
    assert done.wait() == 0
    assert re.search(
        r"no data race in plain state: own.py::Late,early=true \(\d+ schedules?, every interleaving\)",
        done.out,
    )


# Searching.


@pytest.mark.parametrize("how", [(), ("--strategy", "exhaustive", "--jobs", "2")])
def test_what_ships_is_complete(fuzz: Fuzz, how: tuple[str, ...]) -> None:
    ours = fuzz("mailbox", *how)
    assert ours.wait() == 0
    assert re.fullmatch(
        r"complete: every interleaving of this scenario holds"
        r" \([1-9]\d* states, [1-9]\d* executions\)\n"
        r"no data race in plain state: mailbox,messages=1,boot=true \(\d+ schedules, .*\), \d+ random walks\n"
        r"declared to be unordered: 2 records of the scenario; declared to be left out of states: [1-9] fields\n"
        r"\d+\.\d s, \d+ schedules/s\n",
        ours.out,
    )
    assert re.fullmatch(r"hfsched: exploring mailbox, strategy .*\n", ours.err)


def test_a_bound_is_complete_to_itself(fuzz: Fuzz) -> None:
    ours = fuzz("mailbox", "--bound", "1")
    assert ours.wait() == 0
    assert re.match(
        r"complete to preemption bound 1 \([1-9]\d* states, [1-9]\d* executions\)\n", ours.out
    )


def test_a_budget_that_is_spent_is_reported(fuzz: Fuzz) -> None:
    ours = fuzz("mailbox", "--strategy", "pos", "--budget", "500ms", "--seed", "1")
    assert ours.wait() == 0
    assert re.match(r"no failure in \d+ schedules, 0 states: the budget of 0.5 s", ours.out)
    assert ours.err == "hfsched: exploring mailbox, strategy pos, seed 1\n"  # no terminal


def test_upstream_fails_with_a_token(fuzz: Fuzz) -> None:
    upstream = fuzz("mailbox", "--variant", "upstream", "--seed", "1")
    assert upstream.wait() == 1
    assert re.match(rf"FAILED after \d+ schedules?: {TEXT}\n", upstream.out)
    assert token_of(upstream).startswith("hf1-")


def test_a_seed_finds_the_same_again(fuzz: Fuzz, token: str) -> None:
    again = fuzz("mailbox", "--variant", "upstream", "--strategy", "random", "--seed", "4")
    assert again.wait() == 1
    assert token_of(again) == token


@pytest.mark.parametrize("jobs", [(), ("--jobs", "2")])
def test_a_scenario_that_raises_is_a_failure(fuzz: Fuzz, jobs: tuple[str, ...]) -> None:
    raises = fuzz("own.py::Raises", *jobs)
    assert raises.wait() == 1
    assert re.match(r"FAILED after \d+ schedules?: KeyError: 'only one has come'\n", raises.out)
    assert re.search(r'^ +File ".*own.py", line \d+, in add$', raises.out, re.MULTILINE)
    assert "printed" not in raises.out  # it goes aside
    assert "printed" in raises.err
    again = fuzz("replay", token_of(raises))
    assert again.wait() == 1
    assert "FAILED again: KeyError: 'only one has come'" in again.out


@pytest.mark.parametrize("jobs", [(), ("--jobs", "2")])
def test_a_scenario_that_cannot_be_built_is_a_failure(fuzz: Fuzz, jobs: tuple[str, ...]) -> None:
    raises = fuzz("own.py::Unbuildable", *jobs)
    assert raises.wait() == 1
    assert raises.out.startswith("FAILED: KeyError: 'no world'\n")
    assert "in build\n" in raises.out
    assert "token" not in raises.out


# Tokens.


def test_replay_shows_it_again(fuzz: Fuzz, token: str) -> None:
    again = fuzz("replay", token)
    assert again.wait() == 1
    assert re.fullmatch(
        rf"mailbox\+upstream: \d+ steps, trace [0-9a-f]{{16}} as recorded\nFAILED again: {TEXT}\n",
        again.out,
    )
    assert again.err == ""


def test_shrink_leaves_one_preemption(fuzz: Fuzz, token: str) -> None:
    shrunk = fuzz("shrink", token)
    assert shrunk.wait() == 1
    before, after, proof = re.findall(
        r"^(\d+) preemptions? -> (\d+), (.*)$", shrunk.out, re.MULTILINE
    )[0]
    assert int(before) > 1
    assert after == "1"
    assert re.match(
        r"minimal: no schedule with 0 preemptions fails \(\d+ executions?, \d+ states\)", proof
    )
    best = token_of(shrunk)
    assert best != token
    again = fuzz("replay", best)
    assert again.wait() == 1
    assert f"FAILED again: {TEXT}" in again.out


def test_explain_tells_a_story(fuzz: Fuzz, token: str) -> None:
    told = fuzz("explain", token, environment={"COLUMNS": "100", "PYTHONIOENCODING": "ascii"})
    assert told.wait() == 1
    assert told.out.startswith("mailbox+upstream\n")
    assert told.out.isascii()
    assert "preemption: " in told.out
    assert max(map(len, told.out.splitlines())) <= 100


def test_explain_writes_one_page(fuzz: Fuzz, token: str) -> None:
    before = set(Path().iterdir())
    told = fuzz("explain", token, "--html", "page.html")
    assert told.wait() == 1
    assert told.out == "written: page.html\n"
    assert set(Path().iterdir()) - before == {Path("page.html")}
    page = Path("page.html").read_text()
    printed = fuzz("explain", token, "--html", "-")
    assert printed.wait() == 1
    assert printed.out == page
    assert token in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (".", "Is a directory"),
        ("absent/page.html", "No such file or directory"),
        ("/dev/full", "not a regular file: name one, or '-' for standard output"),
        ("link.html", "a link to elsewhere: name a file, or '-' for standard output"),
    ],
)
def test_a_page_that_cannot_be_written(fuzz: Fuzz, token: str, file: str, why: str) -> None:
    if file == "link.html":
        Path(file).symlink_to("elsewhere")
    told = fuzz("explain", token, "--html", file)
    assert told.wait() == 1
    assert told.out == ""
    assert told.err == f"hfsched: error: --html {file}: {why}\n"


def test_a_token_of_ones_own_scenario_in_another_directory(fuzz: Fuzz) -> None:
    found = fuzz("own.py::Raises")
    assert found.wait() == 1
    token = token_of(found)
    Path("elsewhere").mkdir()
    for verb in ("replay", "shrink", "explain"):
        lost = fuzz(verb, token, cwd="elsewhere")
        assert lost.wait() == 2
        assert lost.err == (
            "hfsched: error: the token's scenario is not known here: scenario file own.py: no such file:"
            " the token has the path that was given: go to the directory where it was found\n"
        )


# Texts whose values make a sequence; and what some values of a scenario need beside them.
SEQUENCES = {("swap", "commands"), ("swap", "beside"), ("machine", "swap"), ("machine", "clients")}
NEEDED: dict[str, dict[str, int | str]] = {
    "machine": {"vcpus": 3, "guest": "talker", "hosts": 0},
    **{name: {"vcpus": 2} for name in ("events", "mailbox", "restored")},
}


def test_the_list_names_what_can_be_asked_for(fuzz: Fuzz) -> None:
    told = fuzz("list")
    assert told.wait() == 0
    assert re.findall(r"^(\w+): \S", told.out, re.MULTILINE) == [
        "events",
        "images",
        "machine",
        "mailbox",
        "members",
        "ports",
        "programs",
        "quiet",
        "restored",
        "services",
        "snapshots",
        "subscribers",
        "suspension",
        "swap",
        "userhold",
        "vhost",
    ]
    assert re.search(r"^  --variant upstream +\S", told.out, re.MULTILINE)
    for name in catalogue():
        kind = kind_of(name)
        texts = {
            each.name
            for each in fields(kind)
            if each.type == "str" and each.name not in ("variant", "program")
        }
        assert texts == {*values_of(kind)}, "each text has its values"
        for parameter, values in values_of(kind).items():
            assert f"\n    {parameter}: {', '.join(values)}\n" in told.out
            for value in values:
                if (name, parameter) not in SEQUENCES:
                    find(name, None, **{**NEEDED.get(name, {}), parameter: value})


# Interrupts.


def ends(pid: int) -> bool:
    """Wait for a process's end; False: it runs on."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], QUIET)[0])
    finally:
        os.close(handle)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_answered_with_what_was_covered(fuzz: Fuzz, number: signal.Signals) -> None:
    endless = fuzz("own.py::Endless", "--strategy", "pos")
    endless.until(" at 600$", "err")
    endless.interrupt(number)
    assert endless.wait() == 128 + number
    assert re.match(r"no failure in [1-9]\d* schedules, 0 states: interrupted\n", endless.out)


def test_an_interrupt_leaves_no_workers(fuzz: Fuzz) -> None:
    """It goes to all processes of a terminal: the workers wait for the campaign's word."""
    endless = fuzz("own.py::Endless", "--strategy", "pos", "--jobs", "2", start_new_session=True)
    endless.until(r"^\d+ at 0\n(.*\n)*?\d+ at 0$", "err")
    endless.until(" at 600$", "err")
    workers = {int(pid) for pid in re.findall(r"^(\d+) at 0$", endless.err, re.MULTILINE)}
    assert len(workers) == 2
    os.killpg(endless._popen.pid, signal.SIGINT)
    assert endless.wait() == 130
    assert re.match(r"no failure in [1-9]\d* schedules, 0 states: interrupted\n", endless.out)
    assert all(map(ends, workers))


# The terminal.


def test_progress_is_one_line_that_is_cleared(fuzz: Fuzz) -> None:
    ours, theirs = pty.openpty()
    shown = fuzz(
        *("mailbox", "--strategy", "pos", "--budget", "800ms", "--seed", "1"),
        stdout=theirs,
        stderr=theirs,
        environment={"TERM": "xterm", "COLUMNS": "60"},
    )
    os.close(theirs)
    shown.watch(ours)
    assert shown.wait() == 0
    said, *rest = shown.out.split("\r\x1b[K")
    assert said == "hfsched: exploring mailbox, strategy pos, seed 1\r\n"
    *progress, last = rest
    assert progress
    for line in progress:
        assert re.fullmatch(r"\d+ s: \d+ schedules \(\d+/s\), 0 states.*", line)
        assert len(line) < 60
    assert last.startswith("no failure in ")
