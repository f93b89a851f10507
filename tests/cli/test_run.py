"""`hfsched run`: what a user types, and what comes out."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from memory.fdt_writer import tree, write

from hfsched.vmm.guests import bundled_images

if TYPE_CHECKING:
    from conftest import Process, Start

with_images = pytest.mark.skipif(
    "trusty.bin" not in bundled_images(), reason="the bundled guests are not built: script/guests"
)


def events(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.raw.splitlines()]


def terminal(run: Start, *arguments: str, **environment: str) -> Process:
    """Run with stdout on a terminal; stdin is a pipe."""
    ours, theirs = pty.openpty()
    process = run(*arguments, stdout=theirs, environment={"TERM": "xterm", **environment})
    os.close(theirs)
    process.watch(ours)
    return process


# One guest.


@with_images
def test_a_bundled_image_boots_logs_and_answers(run: Start) -> None:
    pytest.importorskip("unicorn")
    trusty = run("--guest", "trusty.bin")
    trusty.until(r"^\[trusty\] trusty: up, 16384 KiB")
    trusty.type("version\n")
    trusty.until(r"^trusty: hfsched trusty guest 1$")
    assert trusty.wait() == 0
    assert re.search(r"^hfsched: engine (unicorn|kvm): \w", trusty.err, re.MULTILINE)
    assert "trusty: messages 1 from the host, 1 to it, 0 to guests" in trusty.err


@with_images
def test_the_engine_that_was_asked_for(run: Start) -> None:
    pytest.importorskip("unicorn")
    echo = run("--guest", "echo.bin", "--engine", "unicorn")
    echo.type("hello\n")
    assert echo.wait() == 0
    assert echo.out.endswith("echo: hello\n")
    assert "hfsched: engine unicorn: asked for\n" in echo.err


@with_images
def test_an_answer_that_takes_its_time_is_waited_for(run: Start) -> None:
    pytest.importorskip("unicorn")
    trusty = run("--guest", "trusty.bin", "--linger", "60")
    trusty.type("sleep 300\n")
    assert trusty.wait() == 0
    slept = re.search(r"^trusty: slept (\d+) ms$", trusty.out, re.MULTILINE)
    assert slept is not None
    assert int(slept[1]) >= 300


@with_images
def test_two_vcpus(run: Start) -> None:
    pytest.importorskip("unicorn")
    smp = run("--guest", "smp.bin", "--vcpus", "2")
    smp.type("one\ntwo\n")
    assert smp.wait() == 0
    assert {"smp: vcpu 0 of 2: one", "smp: vcpu 1 of 2: two"} <= set(smp.out.splitlines())


def test_the_engine_of_a_python_guest_is_printed(run: Start) -> None:
    echo = run("--guest", "guests.py:echo")
    echo.type("hello\n")
    assert echo.wait() == 0
    assert echo.out == "[guests] up\nguests: hello\n"
    assert "hfsched: engine script: the guest is a Python function\n" in echo.err


def test_the_summary_counts(run: Start) -> None:
    echo = run("--guest", "e=guests.py:echo")
    echo.type("one\ntwo\nthree\n")
    assert echo.wait() == 0
    summary = re.search(
        r"^hfsched: summary after \d+\.\d\d s\n"
        r"  e: messages 3 from the host, 3 to it, 0 to guests; (\d+) RUNs? \((.*)\);"
        r" (\d+) wake-ups?, \d+ spurious RUNs?$",
        echo.err,
        re.MULTILINE,
    )
    assert summary is not None, echo.err
    kinds = {kind: int(count) for count, kind in re.findall(r"(\d+) (\w+)", summary[2])}
    assert sum(kinds.values()) == int(summary[1])
    assert kinds["Message"] == 3
    assert int(summary[3]) >= 1


def test_quiet_prints_nothing_on_stderr(run: Start) -> None:
    echo = run("--guest", "guests.py:echo", "--quiet")
    echo.type("hello\n")
    assert echo.wait() == 0
    assert echo.err == ""


def test_bytes_that_are_no_text_come_back_as_they_went(run: Start) -> None:
    data = bytes(byte for byte in range(256) if byte != 10)
    echo = run("--guest", "guests.py:echo")
    echo.type(data + b"\n")
    assert echo.wait() == 0
    assert echo.raw == b"[guests] up\nguests: " + data + b"\n"


def test_a_last_line_without_its_newline_is_a_line(run: Start) -> None:
    echo = run("--guest", "guests.py:echo")
    echo.type("first\nlast")
    assert echo.wait() == 0
    assert echo.out.endswith("guests: first\nguests: last\n")


def test_the_longest_message_fits_and_the_next_does_not(run: Start) -> None:
    echo = run("--guest", "guests.py:echo")
    echo.type("x" * 4080 + "\n" + "y" * 4081 + "\nafter\n")
    assert echo.wait() == 1
    assert echo.out == f"[guests] up\nguests: {'x' * 4080}\nguests: after\n"
    assert (
        "hfsched: error: vm guests: a message of 4081 bytes: at most 4080; the line was not sent\n"
        in echo.err
    )


def test_the_end_of_a_line_that_is_too_long_is_no_message(run: Start, tmp_path: Path) -> None:
    with (tmp_path / "lines").open("w+b") as file:
        file.write(b"x" * (17 << 16) + b"the end of it\nafter\n")
        file.seek(0)
        echo = run("--guest", "guests.py:echo", stdin=file)
        assert echo.wait() == 1
    assert echo.out == "[guests] up\nguests: after\n"


def test_lines_that_can_never_be_sent_take_no_memory(run: Start, tmp_path: Path) -> None:
    with (tmp_path / "lines").open("w+b") as file:
        for number in range(40):
            file.write(b"@deaf " * (number % 2) + b"x" * (1 << 20) + b"\n")
        file.write(b"@e after\n")
        file.seek(0)
        two = run(*("deaf=guests.py:deaf", "e=guests.py:echo", "--linger", "0.2"), stdin=file)
        two.until("^e: after")
        status = Path(f"/proc/{two.pid}/status").read_text()
        assert two.wait() == 1
    peak = int(status.partition("VmHWM:")[2].split()[0])  # KiB
    assert peak < 100 << 10
    assert two.err.count(": at most 4080; ") == 40
    assert (
        "vm deaf: a message of more than 4080 bytes: at most 4080; the line was not sent" in two.err
    )


def test_thousands_of_lines_keep_their_order(run: Start, tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(3000)]
    with (tmp_path / "lines").open("w+b") as file:
        file.write("\n".join(lines).encode())
        file.seek(0)
        echo = run("--guest", "guests.py:echo", stdin=file)
        assert echo.wait() == 0
    assert echo.out.splitlines() == ["[guests] up", *(f"guests: {line}" for line in lines)]


# For programs.


def test_json_is_one_object_a_line(run: Start) -> None:
    echo = run("--guest", "e=guests.py:echo", "--json")
    echo.type(b"text\n\xff\n")
    assert echo.wait() == 0
    engine, log, text, data, summary = events(echo)
    assert engine["event"] == "notice"
    assert f"hfsched: {engine['text']}" in echo.err
    assert log == {"event": "log", "vm": "e", "line": "up"}
    assert (text["event"], text["vm"], text["port"], text["text"]) == ("message", "e", 1, "text")
    assert base64.b64decode(str(data["data"])) == b"\xff"
    assert "text" not in data
    assert summary["event"] == "summary"
    (vm,) = summary["vms"]
    assert (vm["name"], vm["from_host"], vm["to_host"], vm["unread"]) == ("e", 2, 2, 0)
    assert vm["runs"]["Message"] == 2


def test_json_has_what_standard_error_says(run: Start) -> None:
    two = run("a=guests.py:echo", "b=guests.py:deaf", "--json", "--linger", "0.2")
    two.type("@nobody text\n@b unread\n@b never taken\n")
    assert two.wait() == 3
    seen = events(two)
    texts = [(each["event"], str(each["text"])) for each in seen if "text" in each]
    assert [kind for kind, _ in texts] == ["notice", "refused", "undelivered", "undelivered"]
    for (_, text), part in zip(
        texts, ("engine", "no VM nobody", "vm b: unread message", "1 line undelivered"), strict=True
    ):
        assert part in text
        assert text in two.err
    assert seen[-1]["event"] == "summary"


def test_json_has_an_abort(run: Start) -> None:
    two = run("a=guests.py:raises", "--json")
    assert two.wait() == 1
    (abort,) = [each for each in events(two) if each["event"] == "aborted"]
    assert f"vm {abort['vm']} aborted: {abort['reason']}" in two.err


def test_json_of_an_interrupted_run_ends_with_its_summary(run: Start) -> None:
    echo = run("--guest", "e=guests.py:echo", "--json")
    echo.until("up")
    echo.interrupt()
    assert echo.wait() == 130
    assert events(echo)[-1]["event"] == "summary"


# Several guests.


def test_a_line_finds_its_guest(run: Start) -> None:
    two = run("--guest", "a=guests.py:echo", "--guest", "b=guests.py:echo")
    two.type("first\n@b second\n@a third\n@@nobody fourth\n@b\n@b\tfifth\n@@\n@a @b sixth\n")
    assert two.wait() == 0
    answers = sorted(line for line in two.out.splitlines() if not line.startswith("["))
    assert answers == [
        *("a: @", "a: @b sixth", "a: @nobody fourth", "a: first", "a: third"),
        *("b: ", "b: fifth", "b: second"),
    ]


def test_a_line_for_a_vm_that_is_not_there_is_not_sent(run: Start) -> None:
    two = run("--guest", "a=guests.py:echo", "--guest", "bee=guests.py:echo", "--quiet")
    two.type("@nobody text\n@ text\n@\n@be\n@\x1b[31m\n@a end\n")
    assert two.wait() == 1
    assert "text" not in two.out
    assert two.out.endswith("a: end\n")
    none = "no VM's name after '@': '@@' begins a line that is to begin with '@'"
    there = "there are a, bee"
    assert two.err.splitlines() == [
        f"hfsched: error: standard input: {why}; the line was not sent"
        for why in (
            f"no VM nobody: {there}",
            none,
            none,
            f"no VM be: {there}: did you mean 'bee'?",
            f"no VM \\x1b[31m: {there}",
        )
    ]


def test_another_guest_can_be_the_one_that_is_talked_to(run: Start) -> None:
    two = run("--guest", "a=guests.py:echo", "--guest", "b=guests.py:echo", "--to", "b")
    two.type("hello\n")
    assert two.wait() == 0
    assert "b: hello\n" in two.out


def test_guests_without_names_are_called_after_their_files(run: Start) -> None:
    two = run("--engine", "script", "--guest", "echo", "--guest", "echo")
    two.type("one\n@echo-2 two\n")
    assert two.wait() == 0
    assert sorted(two.out.splitlines()) == ["echo-2: two", "echo: one"]


def test_guests_pass_messages_on(run: Start) -> None:
    chain = run("--engine", "script", *("--guest", "relay") * 3, "--guest", "echo")
    chain.type("round\n")
    assert chain.wait() == 0
    assert chain.out == "relay: round\n"
    assert re.search(
        r"^  relay-2: messages 0 from the host, 0 to it, 2 to guests", chain.err, re.MULTILINE
    )


def test_one_guest_dies_and_the_other_answers(run: Start) -> None:
    two = run("--guest", "dead=guests.py:returns", "--guest", "e=guests.py:echo", "--to", "e")
    two.until("vm dead aborted: the guest function returned\n", "err")
    two.type("still there?\n")
    assert two.wait() == 1
    assert two.out.endswith("e: still there?\n")


# Manifests.


def test_a_manifest_has_all_options(run: Start, tmp_path: Path) -> None:
    Path("board.dtb").write_bytes(write(tree()))
    Path("demo.toml").write_text(
        """
            name = "demo"
            engine = "script"
            [[vm]]
            name = "small"
            image = "guests.py:boot"
            memory = "1MiB"
            ports = { text = 9 }
            [[vm]]
            name = "board"
            image = "guests.py:boot"
            memory = 2097152
            fdt = "board.dtb"
            dialect = "ffa-1.0"
            [[vm]]
            name = "raw"
            image = "guests.py:bare"
            framing = "raw"
            """
    )
    Path("elsewhere").mkdir()
    demo = run(str(tmp_path / "demo.toml"), cwd="elsewhere")
    demo.type("to small\n@board to board\n@raw to raw\n")
    assert demo.wait() == 0, demo.err
    lines = demo.out.splitlines()
    assert "[small] 1048576 bytes, argument at " in demo.out
    assert "[small] port 9: b'to small'" in lines
    board = re.search(r"^\[board\] 2097152 bytes, argument at (0x\w+)$", demo.out, re.MULTILINE)
    assert board is not None
    assert 0 < int(board[1], 16) < 2097152, "the FDT is in the guest's memory"
    assert "[board] port 1: b'to board'" in lines
    assert "raw: bare to raw" in lines


def test_a_name_in_use_is_refused_before_anything_boots(run: Start) -> None:
    first = run("--guest", "guests.py:echo", "--name", "taken")
    first.type("hello\n")
    first.until("hello")
    second = run("--guest", "guests.py:echo", "--name", "taken")
    assert second.wait() == 1
    assert "error: a machine 'taken' is running" in second.err
    assert second.out == ""


def test_a_name_is_free_again_after_a_kill(run: Start) -> None:
    first = run("--guest", "guests.py:echo", "--name", "killed")
    first.type("hello\n")
    first.until("hello")
    first.interrupt(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = run("--guest", "guests.py:echo", "--name", "killed")
    second.type("hello\n")
    assert second.wait() == 0
    assert second.out.endswith("guests: hello\n")


# Terminals.


def test_a_pipe_gets_no_colour_and_what_the_guest_wrote(run: Start) -> None:
    ugly = run("--guest", "guests.py:ugly")
    ugly.type("go\n")
    assert ugly.wait() == 0
    assert ugly.raw == (b"[guests] red \x1b[31m bell \x07 not text \xff\nguests: clear \x1b[2J\n")


def test_a_terminal_gets_colour_and_no_control_character_of_a_guest(run: Start) -> None:
    ugly = terminal(run, "--guest", "guests.py:ugly")
    ugly.type("go\n")
    assert ugly.wait() == 0
    assert ugly.out == (
        "\x1b[36m[guests]\x1b[0m red \\x1b[31m bell \\x07 not text \\xff\r\n"
        "\x1b[36mguests:\x1b[0m clear \\x1b[2J\r\n"
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"NO_COLOR": "1"},
        pytest.param({"TERM": "dumb"}),
    ],
)
def test_a_terminal_without_colour(run: Start, environment: dict[str, str]) -> None:
    ugly = terminal(run, "--guest", "guests.py:ugly", **environment)
    ugly.type("go\n")
    assert ugly.wait() == 0
    assert "\x1b" not in ugly.out
    assert ugly.out.startswith("[guests] red \\x1b[31m bell \\x07")


ESCAPED = (
    b"[guests] red \\x1b[31m bell \\x07 not text \\xff\n"
    b"guests: clear \\x1b[2J\n"
)  # fmt: skip
RAW = b"[guests] red \x1b[31m bell \x07 not text \xff\nguests: clear \x1b[2J\n"


@pytest.mark.parametrize(
    ("escape", "pipe", "tty"),
    [("always", ESCAPED, ESCAPED), ("never", RAW, RAW), ("auto", RAW, ESCAPED)],
)
def test_escapes_as_the_command_line_says(run: Start, escape: str, pipe: bytes, tty: bytes) -> None:
    ugly = run("guests.py:ugly", "--escape", escape)
    ugly.type("go\n")
    assert ugly.wait() == 0
    assert ugly.raw == pipe
    ugly = terminal(run, "guests.py:ugly", "--escape", escape, NO_COLOR="1")
    ugly.type("go\n")
    assert ugly.wait() == 0
    assert ugly.raw == tty.replace(b"\n", b"\r\n")


def test_lines_with_an_end_in_them_are_one_line_when_escaped(run: Start) -> None:
    windows = run("w=guests.py:windows", "--escape", "always")
    windows.type("go\n")
    assert windows.wait() == 0
    assert windows.raw == b"[w] up\n[w] 10%\\r20%\nw: a\\nb\\rc\n"


def test_a_carriage_return_and_a_newline_are_one_line_end(run: Start) -> None:
    windows = terminal(run, "w=guests.py:windows", NO_COLOR="1")
    windows.type("go\n")
    assert windows.wait() == 0
    assert windows.out == "[w] up\r\n[w] 10%\\r20%\r\nw: a\\nb\\rc\r\n"
    windows = run("w=guests.py:windows")
    windows.type("go\n")
    assert windows.wait() == 0
    assert windows.raw == b"[w] up\n[w] 10%\r20%\nw: a\nb\rc\n"
    windows = run("w=guests.py:windows", "--json")
    windows.type("go\n")
    assert windows.wait() == 0
    up, _, answer, _ = events(windows)[1:]
    assert (up["line"], answer["text"]) == ("up", "a\r\nb\rc\r\n\r\n")


# The end.


def test_the_end_comes_with_the_last_release_and_not_with_the_linger(run: Start) -> None:
    echo = run("--guest", "guests.py:echo", "--linger", "3600")
    echo.type("one\ntwo\n")
    assert echo.wait() == 0
    assert echo.out.endswith("guests: two\n")


def test_no_input_at_all_is_a_good_end(run: Start) -> None:
    echo = run("--guest", "guests.py:echo", "--linger", "3600")
    assert echo.wait() == 0
    assert echo.out == "[guests] up\n"


def test_a_guest_that_sleeps_until_a_deadline_is_waited_for(run: Start) -> None:
    later = run("--guest", "guests.py:later", "--linger", "3600")
    later.type("in a while\n")
    assert later.wait() == 0
    assert later.out == "guests: in a while\n"


def test_a_guest_that_sleeps_longer_than_the_linger_is_not(run: Start) -> None:
    later = run("--guest", "guests.py:later", "--linger", "0.01")
    later.type("in a while\n")
    later.wait()
    assert later.out == ""


def test_an_unread_message_is_status_3(run: Start) -> None:
    deaf = run("--guest", "guests.py:deaf", "--linger", "0.2")
    deaf.type("anybody?\n")
    assert deaf.wait() == 3
    assert "hfsched: error: vm guests: unread message in its mailbox" in deaf.err


def test_lines_that_wait_behind_an_unread_message_are_counted(run: Start) -> None:
    deaf = run("--guest", "guests.py:deaf", "--linger", "0.2")
    deaf.type("one\ntwo\nthree\n")
    assert deaf.wait() == 3
    assert re.search(
        r"error: standard input: 2 lines undelivered: vm guests has not read the message before$",
        deaf.err,
        re.MULTILINE,
    )


def test_an_answer_to_a_port_that_no_program_opened_is_status_3(run: Start) -> None:
    stray = run("--guest", "guests.py:stray", "--linger", "0.2")
    stray.type("one\ntwo\n")
    assert stray.wait() == 3
    assert "hfsched: error: vm guests: 2 messages for host ports " in stray.err


def test_a_message_without_a_header_is_status_3(run: Start) -> None:
    short = run("--guest", "guests.py:short", "--linger", "0.2")
    short.type("one\ntwo\n")
    assert short.wait() == 3
    dropped = (
        "error: vm guests: 2 messages to the host dropped: shorter than the 16-byte port header"
    )
    assert dropped in short.err


def test_without_stdin_it_runs_until_a_signal(run: Start) -> None:
    echo = run("--guest", "guests.py:echo", "--no-stdin")
    echo.end_input()
    echo.until("up")
    echo.interrupt(signal.SIGINT)
    assert echo.wait() == 130
    assert "summary after" in echo.err


@with_images
def test_the_manifest_that_the_readme_shows(run: Start) -> None:
    readme = Path(__file__).resolve().parents[2] / "README.md"
    _, _, rest = readme.read_text().partition("```toml\n")
    Path("copied.toml").write_text(rest.partition("```")[0])
    demo = run("copied.toml")
    demo.type("version\n")
    assert demo.wait() == 0, demo.err
    assert "trusty: hfsched trusty guest 1" in demo.out
