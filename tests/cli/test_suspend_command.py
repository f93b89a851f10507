"""`hfsched suspend` and `hfsched resume`: a machine that stands still, as a user sees it."""

from __future__ import annotations

import json
import re
import select
import signal
import time
from typing import TYPE_CHECKING

import pytest
from progress import Quiet
from talk import TARGETS
from test_events_command import answers
from test_run_stopped import Clocks
from test_swap_command import can_swap, machine, until
from test_swap_command import say as swap

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Process, Start

MS = 1_000_000  # ns


class Served(Clocks):
    """Guests that tell the time, by engine, in a machine with sockets."""

    def arguments(self) -> list[str]:
        return [each for each in super().arguments() if each != "--no-sockets"]

    def begin(self, run: Start, *arguments: str) -> Process:
        """Start the machine `demo` of one guest, `g`."""
        return begin(run, *self.arguments(), "--linger", "60", *arguments)

    def sleep(self, process: Process, ms: int) -> None:
        """Have the guest sleep, and wait until it does."""
        process.type(f"sleep {ms}\n" if self.target is None else f"sleep {ms}\necho begun\n")
        process.until("begun")


def begin(run: Start, *arguments: str, name: str = "demo") -> Process:
    """Start a machine, and wait until its control socket is there, which no output reports."""
    made = run(*arguments, "--name", name)
    made.until("up")
    path = made.directory / "hfsched" / name / "control"
    quiet = Quiet()
    while not answers(path):
        assert quiet.left > 0
        select.select([], [], [], 0.01)
    return made


every_engine = pytest.mark.parametrize("guest", [Served(None), *map(Served, TARGETS)], ids=str)


def say(hfsched: Start, *arguments: str) -> str:
    process = hfsched(*arguments)
    assert process.wait() == 0, process.err
    return process.out


def refused(hfsched: Start, *arguments: str) -> tuple[int, str]:
    process = hfsched(*arguments)
    status = process.wait()
    assert process.out == ""
    return status, process.err.removeprefix("hfsched: error: ")


def counter(process: Process, times: int) -> int:
    """Return what a guest has told its time to be for the n-th time, in ns."""
    found = process.until(rf"(?:counter (\d+) frequency (\d+)\n(?s:.*)){{{times}}}")
    return int(found[1]) * 1_000_000_000 // int(found[2])


@every_engine
def test_no_time_passes_and_messages_wait(run: Start, hfsched: Start, guest: Served) -> None:
    demo = guest.begin(run)
    began = time.monotonic_ns()
    demo.type("time\n")
    first = counter(demo, 1)
    assert say(hfsched, "suspend", "demo") == "machine demo is suspended\n"
    since = time.monotonic_ns()
    demo.type("time\n")
    time.sleep(0.3)  # what the guest must not see
    assert demo.out.count("counter") == 1
    stood = time.monotonic_ns() - since
    assert say(hfsched, "resume", "demo") == "machine demo is resumed\n"
    last = counter(demo, 2)
    assert first < last <= first + time.monotonic_ns() - began - stood + MS
    assert demo.wait() == 0


@every_engine
def test_a_timer_is_as_far_away_as_it_was(run: Start, hfsched: Start, guest: Served) -> None:
    demo = guest.begin(run)
    began = time.monotonic_ns()
    guest.sleep(demo, 200)
    say(hfsched, "suspend", "demo")
    since = time.monotonic_ns()
    demo.end_input()
    time.sleep(0.4)
    stood = time.monotonic_ns() - since
    say(hfsched, "resume", "demo")
    demo.until("g: slept")
    assert time.monotonic_ns() - began - stood >= 200 * MS
    assert demo.wait() == 0


@every_engine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_suspended_machine_is_ended_in_order(
    run: Start, hfsched: Start, guest: Served, number: signal.Signals
) -> None:
    demo = guest.begin(run)
    guest.sleep(demo, 1)
    say(hfsched, "suspend", "demo")
    demo.type("time\n")
    demo.interrupt(number)
    assert demo.wait() == 128 + number
    assert "error" not in demo.err
    assert "summary after" in demo.err


def test_a_suspended_machine_does_not_end_by_itself(run: Start, hfsched: Start) -> None:
    """All is quiet, and the input has ended; and then the time to linger is over, too."""
    demo = begin(run, "guests.py:echo", "--linger", "100ms")
    say(hfsched, "suspend", "demo")
    demo.end_input()
    time.sleep(0.5)
    assert not json.loads(say(hfsched, "suspend", "demo", "--json"))["changed"]
    say(hfsched, "resume", "demo")
    assert demo.wait() == 0


def test_the_time_to_linger_begins_when_it_is_resumed(run: Start, hfsched: Start) -> None:
    demo = begin(run, "g=guests.py:unmapped", "--linger", "1.5")
    say(hfsched, "suspend", "demo")
    demo.type("not accepted\n")
    demo.end_input()
    time.sleep(1.6)
    assert "has waited for 1 s" not in demo.err
    since = time.monotonic_ns()
    say(hfsched, "resume", "demo")
    assert demo.wait() == 3
    assert time.monotonic_ns() - since >= 1500 * MS


def test_a_message_that_waits_for_the_resumption_is_no_stall(run: Start, hfsched: Start) -> None:
    demo = begin(run, "guests.py:echo")
    say(hfsched, "suspend", "demo")
    demo.type("hello\n")
    demo.end_input()
    time.sleep(1.5)
    say(hfsched, "resume", "demo")
    assert demo.wait() == 0
    assert demo.out == "[guests] up\nguests: hello\n"
    assert "has waited" not in demo.err


def test_each_command_says_what_it_has_changed(run: Start, hfsched: Start) -> None:
    demo = begin(run, "guests.py:echo")
    events = hfsched("events", "demo")
    events.until('"started"')
    assert say(hfsched, "resume", "demo") == "machine demo was not suspended\n"
    said = json.loads(say(hfsched, "suspend", "demo", "--json"))
    assert said == {"is": "suspension", "name": "demo", "changed": True, "suspended_by": ["user"]}
    assert say(hfsched, "suspend", "demo") == "machine demo was suspended already\n"
    said = json.loads(say(hfsched, "resume", "demo", "--json", "--within", "5s"))
    assert said == {"is": "suspension", "name": "demo", "changed": True, "suspended_by": []}
    events.until('"resumed"')
    assert demo.wait() == 0
    assert events.wait() == 0
    told = [json.loads(line) for line in events.out.splitlines()]
    assert [each for each in told if "holder" in each] == [
        {"event": "suspended", "holder": "user"},
        {"event": "resumed", "holder": "user"},
    ]


def test_which_machine_is_meant(run: Start, hfsched: Start) -> None:
    first, second = (begin(run, "guests.py:echo", name=name) for name in ("first", "second"))
    for command in ("suspend", "resume"):
        status, why = refused(hfsched, command)
        assert status == 1  # others of this user may run too
        assert re.match("several machines, name one: running: .*first, .*second", why)
        status, why = refused(hfsched, command, "third")
        assert status == 1
        assert re.match("no machine 'third': running: .*first, .*second", why)
    assert say(hfsched, "suspend", "second") == "machine second is suspended\n"
    first.type("hello\n")
    first.until("guests: hello")
    assert first.wait() == 0
    assert say(hfsched, "resume", "second") == "machine second is resumed\n"
    assert second.wait() == 0


@pytest.mark.parametrize("command", ["suspend", "resume"])
def test_what_cannot_be_meant(hfsched: Start, command: str) -> None:
    for words, status, text in (
        (("a", "b"), 2, "'b': one word too many"),
        (("--within", "0"), 2, "--within '0': a time such as 500ms or 8s, 1ms to 10m"),
        (("/nowhere/s",), 1, "/nowhere/s: there is no such socket"),
        (("nobody",), 1, "no machine 'nobody': "),
    ):
        found, why = refused(hfsched, command, *words)
        assert found == status
        assert why.startswith(text)


@can_swap
def test_memory_goes_out_and_comes_back_meanwhile(
    run: Start, hfsched: Start, tmp_path: Path
) -> None:
    stress = machine(run, tmp_path, "--name", "demo")
    say(hfsched, "suspend", "demo")
    stress.type("check 7\n")
    assert swap(hfsched, "enable", "stress").endswith(" pages are staged\n")
    swap(hfsched, "out", "stress")
    assert until(hfsched, "stress", "active")["pictures"] == {"stress": "FF"}
    swap(hfsched, "disable", "stress")
    until(hfsched, "stress", "ready")
    swap(hfsched, "enable", "stress")
    swap(hfsched, "out", "stress")
    until(hfsched, "stress", "active")
    assert stress.out.count("stress: ok ") == 1
    say(hfsched, "resume", "demo")
    assert stress.wait() == 0
    assert stress.out.count("stress: ok ") == 2
    assert "bad" not in stress.out


@can_swap
def test_a_suspended_machine_whose_memory_is_out_is_ended(
    run: Start, hfsched: Start, tmp_path: Path
) -> None:
    stress = machine(run, tmp_path, "--name", "demo")
    swap(hfsched, "enable", "stress")
    say(hfsched, "suspend", "demo")
    swap(hfsched, "out", "stress")
    until(hfsched, "stress", "active")
    stress.type("check 7\n")
    stress.interrupt()
    assert stress.wait() == 128 + signal.SIGINT
    assert "error" not in stress.err
