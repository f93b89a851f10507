"""Python guests, and what they can do wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Start

MISTAKES = """
import json
from hfsched.programs.library import GuestMailbox, log
from hfsched.vcpu.script import Abort, Hvc, Load, Step, Wfi


def library_raises(cpu):
    yield from log("up")
    json.loads("{")  # HERE


def forgot_to_delegate(cpu):
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    sender, data = mailbox.wait()


def forgot_and_used(cpu):
    yield Step()
    GuestMailbox(cpu).wait()[0]


def forgot_from(cpu):
    yield log("up")


def forgot_all(cpu):
    GuestMailbox(cpu).map()


def rubbish(cpu):
    yield 5


def rubbish_call(cpu):
    yield Hvc("text")


def no_generator(cpu):
    return None


def no_parameter():
    yield Step()


def raises_at_once(cpu):
    raise ValueError("at once")


def exits(cpu):
    yield Step()
    raise SystemExit(0)


def outside(cpu):
    cpu.write(cpu.base - 1, b"x")
    yield Step()


class Ugly(Exception):
    def __repr__(self):
        return "two\\nlines \\x1b[31m"


def ugly(cpu):
    yield Step()
    raise Ugly


class Unspeakable(Exception):
    def __repr__(self):
        raise ValueError("no name")


def unspeakable(cpu):
    yield Step()
    raise Unspeakable


def bad_handler(cpu):
    cpu.handler = "text"
    cpu.masked = False
    yield Wfi()
"""


@pytest.fixture
def mistake(run: Start) -> Start:
    """Run a guest of MISTAKES; return the line that names its mistake."""
    Path("mistakes.py").write_text(MISTAKES)

    def story(name: str) -> str:
        guest = run("--guest", f"g=mistakes.py:{name}", "--linger", "0.2", "--quiet")
        assert guest.wait() == 1
        (line,) = guest.err.splitlines()
        assert line.isprintable()
        assert line.startswith("hfsched: error: vm g")
        return line

    return story  # type: ignore[return-value]


@pytest.mark.parametrize("guest", ["guests.py:echo", "guests:echo", "echo", "reader"])
def test_where_a_python_guest_may_be(run: Start, guest: str) -> None:
    options = [] if ":" in guest else ["--engine", "script"]
    echo = run("--guest", f"g={guest}", *options)
    echo.type("hello\n")
    assert echo.wait() == 0, echo.err
    assert echo.out.endswith("g: hello\n")


def test_a_function_called_guest_need_not_be_named(run: Start) -> None:
    Path("alone.py").write_text("from hfsched.programs.bundled import echo as guest\n")
    alone = run("--guest", "alone.py")
    alone.type("hello\n")
    assert alone.wait() == 0
    assert alone.out == "alone: hello\n"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("rubbish_call", "TypeError"),
        ("no_generator", "it returned None: it has to `yield` hypercalls"),
        ("forgot_all", "it returned None: it has to `yield` hypercalls, or `yield from`"),
        ("forgot_to_delegate", "): a call of the library needs `yield from` before it"),
        ("forgot_and_used", "): a call of the library needs `yield from` before it"),
        ("forgot_from", "yielded a generator: write `yield from log(...)`"),
        ("library_raises", f"(mistakes.py:{MISTAKES.partition('# HERE')[0].count(chr(10)) + 1})"),
        ("outside", "is outside"),
    ],
)
def test_a_mistake_ends_the_guest(mistake: Start, name: str, why: str) -> None:
    assert why in str(mistake(name))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("rubbish", "5"),
        ("no_parameter", "TypeError"),
        ("raises_at_once", "at once"),
        ("exits", "SystemExit"),
        ("ugly", r"\x1b"),
        ("unspeakable", "Unspeakable"),
    ],
)
def test_a_mistake_is_the_guests_and_not_ours(mistake: Start, name: str, why: str) -> None:
    assert why in str(mistake(name))


def test_a_module_that_raises_has_the_line(run: Start) -> None:
    Path("worse.py").write_text("x = 1\nundefined\n")
    worse = run("worse.py")
    assert worse.wait() == 1
    why = "NameError: name 'undefined' is not defined (worse.py:2)"
    assert worse.err == f"hfsched: error: vm worse: script guest worse.py: {why}\n"


def test_a_mistake_does_not_reach_the_other_guest(run: Start) -> None:
    Path("mistakes.py").write_text(MISTAKES)
    two = run("--guest", "bad=mistakes.py:outside", "--guest", "e=guests.py:echo", "--to", "e")
    two.until("vm bad aborted", "err")
    two.type("hello\n")
    assert two.wait() == 1
    assert two.out.endswith("e: hello\n")


NEWER = """
from hfsched.vcpu.script import Hvc, Wfi


def guest(cpu):
    for _ in range(3):
        yield Hvc(0xC400_008A, 1, ord("a"))
        yield Hvc(0xFF07)
    while True:
        yield Wfi()
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_a_guest_of_another_generation_is_noticed_once(run: Start, *, quiet: bool) -> None:
    Path("newer.py").write_text(NEWER)
    newer = run("--guest", "newer.py", *["--quiet"] * quiet)
    assert newer.wait() == 0
    notices = [line for line in newer.err.splitlines() if "unknown function" in line]
    notice = (
        "hfsched: vm newer: unknown function 0xc400008a: FFA_CONSOLE_LOG, 64-bit, in"
        " ffa-1.1 (Hafnium v2.6 to v2.10), ffa-1.2 (Hafnium v2.11 to v2.13); this VM speaks ffa-1.0"
    )
    assert notices == ([] if quiet else [notice])


def test_the_guest_that_the_readme_shows(run: Start) -> None:
    readme = Path(__file__).resolve().parents[2] / "guests" / "README.md"
    _, code, _ = readme.read_text().split("```", 2)
    Path("hello.py").write_text(code.removeprefix("python\n"))
    hello = run("hello.py")
    hello.type("shout\n")
    assert hello.wait() == 0
    assert hello.out == "[hello] up\nhello: SHOUT\n"
