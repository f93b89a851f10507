"""A story in a terminal."""

from __future__ import annotations

import re

import pytest

from hfsched.explore.explain.story import Story
from hfsched.explore.explain.text import draw

from .conftest import story_of
from .test_story import Counter

LINES = [
    r"host\.0 +thread g\.0 +hypervisor +guest g\.0 +beside",
    r"RUN g\.0",
    r"MSG_WAIT",
    r"waits for a message",
    r"preemption: host\.0 runs instead of thread g\.0",
    r"send 2 bytes to g: sent",
    r"^> *\d+ .*reads g\.0\.waiting: False",
    r"\^ from here on every schedule fails",
    r"inject MAILBOX_READABLE into g\.0: not enabled",
    r"g\.0\.waiting = True",
    r"reads g\.0\.abort_sleep: False",
    r"sleeps, waiting for g\.0\.thread",
    r"no task is runnable",
    r"^FAILED: lost wake-up: unread message, all vCPUs asleep",
    r"^Point of failure: step \d+: from here on every schedule fails",
]


def in_order(text: str, patterns: list[str]) -> None:
    lines = iter(text.splitlines())
    for pattern in patterns:
        assert any(re.search(pattern, line) for line in lines), f"{pattern} is not there in turn"


def test_the_lost_wake_up_in_lanes(upstream: Story) -> None:
    text = draw(upstream, 110)
    in_order(text, LINES)
    assert "├─ RUN g.0 ──" in text
    assert "▶" in text
    assert "reproduce: hfsched fuzz replay AbCdEf0123-_x\n" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [20, 30, 50, 79, 80, 100, 132, 200])
def test_no_line_is_wider_than_the_terminal(upstream: Story, width: int) -> None:
    for line in draw(upstream, width).splitlines():
        if not line.startswith("reproduce:"):  # a token is copied: it stays on one line
            assert len(line) <= width, line


def test_a_narrow_terminal_gets_a_list(upstream: Story) -> None:
    text = draw(upstream, 60)
    in_order(text, [r"thread g\.0 -> hypervisor: RUN g\.0", *LINES[2:4]])
    in_order(text, [r"host\.0: reads g\.0\.waiting: False", LINES[7], r"FAILED"])
    assert "│" not in text


def test_colour_only_when_asked_and_ascii_when_asked(upstream: Story) -> None:
    assert "\x1b[31m" in draw(upstream, 110, color=True)
    plain = draw(upstream, 110, ascii_only=True)
    assert plain.isascii()
    in_order(plain, LINES)
    assert "|- RUN g.0 --" in plain


def test_nothing_that_a_terminal_obeys_comes_through() -> None:
    text = draw(story_of(Counter(name="\x1b]0;owned\x07", text="lost\x1b[2J\u202e\r")), 90)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "owned" in text
