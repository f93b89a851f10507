"""Channels and the programs at their other ends."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from hfsched.runtime.base import ChannelClosedError, End
from hfsched.runtime.threads import MESSAGE_MAX, ThreadRuntime

from . import children
from .times import later

if TYPE_CHECKING:
    from collections.abc import Iterator

# Channels.


@pytest.fixture
def pair(rt: ThreadRuntime) -> Iterator[tuple[End, End]]:
    ends = rt.channel("c")
    yield ends
    for end in ends:
        end.close()


def test_messages_stay_whole_and_in_order(pair: tuple[End, End]) -> None:
    left, right = pair
    for message in (b"a", b"bc", b"x" * 1000):
        left.send(message)
    right.send(b"back")
    assert [right.recv() for _ in range(3)] == [(b"a", []), (b"bc", []), (b"x" * 1000, [])]
    assert left.recv() == (b"back", [])


def test_the_longest_message(checked: ThreadRuntime) -> None:
    left, right = checked.channel("c")
    task = checked.spawn("sender", lambda: left.send(b"y" * MESSAGE_MAX))
    assert right.recv(later(checked)) == (b"y" * MESSAGE_MAX, [])
    assert task.join(later(checked))
    left.close()
    right.close()


@pytest.mark.parametrize(("data", "fds"), [(b"", 0), (b"x" * (MESSAGE_MAX + 1), 0), (b"x", 33)])
def test_what_a_message_cannot_be(pair: tuple[End, End], data: bytes, fds: int) -> None:
    with pytest.raises(ValueError, match=r"^a message has 1 to 65536 bytes and at most 32 fds$"):
        pair[0].send(data, [0] * fds)
    assert pair[1].recv(0) is None


def test_an_end_that_came_over_another_channel_is_an_end(
    rt: ThreadRuntime, pair: tuple[End, End]
) -> None:
    left, right = pair
    here, there = rt.channel("another")
    left.send(b"go on with this", [there.fileno()])
    there.close()
    got = right.recv()
    assert got is not None
    adopted = rt.adopt_end("another", got[1][0])
    here.send(b"hello")
    assert adopted.recv() == (b"hello", [])
    adopted.close()
    with pytest.raises(ChannelClosedError):
        here.send(b"hello")
    here.close()


def test_descriptors_go_along(pair: tuple[End, End]) -> None:
    left, right = pair
    reading, writing = os.pipe()
    left.send(b"take these", [reading, writing])
    os.close(reading)
    os.close(writing)
    got = right.recv()
    assert got is not None
    data, (reading, writing) = got
    assert data == b"take these"
    os.write(writing, b"through")
    assert os.read(reading, 10) == b"through"
    os.close(reading)
    os.close(writing)


def test_thirty_two_descriptors(pair: tuple[End, End]) -> None:
    pair[0].send(b"x", [0] * 32)
    got = pair[1].recv()
    assert got is not None
    assert len(got[1]) == 32
    for fd in got[1]:
        os.close(fd)


def test_descriptors_received_are_not_inherited(pair: tuple[End, End]) -> None:
    pair[0].send(b"x", [0])
    got = pair[1].recv()
    assert got is not None
    inheritable = os.get_inheritable(got[1][0])
    os.close(got[1][0])
    assert not inheritable


def test_what_was_sent_before_the_close_is_read_before_the_end(rt: ThreadRuntime) -> None:
    left, right = rt.channel("c")
    left.send(b"last")
    left.close()
    assert right.recv() == (b"last", [])
    for _ in range(2):
        with pytest.raises(ChannelClosedError):
            right.recv()
    with pytest.raises(ChannelClosedError):
        right.recv(0)
    with pytest.raises(ChannelClosedError):
        right.send(b"x")
    right.close()


def test_a_peer_that_goes_without_reading_does_not_take_its_last_words_along(
    pair: tuple[End, End],
) -> None:
    left, right = pair
    right.send(b"never read")
    left.send(b"last")
    left.close()
    assert right.recv() == (b"last", [])
    with pytest.raises(ChannelClosedError):
        right.recv()


def test_a_close_ends_a_recv(checked: ThreadRuntime) -> None:
    left, right = checked.channel("c")
    closed: list[bool] = []
    asleep = threading.Event()

    def body() -> None:
        asleep.set()
        try:
            right.recv()
        except ChannelClosedError:
            closed.append(True)

    task = checked.spawn("reader", body)
    asleep.wait()
    left.close()
    assert task.join(later(checked))
    assert closed == [True]
    right.close()


# Processes.


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let children leave no compiled files in the tree."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


@pytest.mark.usefixtures("clean")
def test_a_child_talks_and_ends_with_its_status(rt: ThreadRuntime) -> None:
    mine, theirs = rt.channel("c")
    process = rt.process("child", children.echo, [theirs])
    assert process.name == "child"
    for text in (b"abc", b"xyz"):
        mine.send(text)
        assert mine.recv(later(rt)) == (text[::-1], [])
    assert process.exit_status is None
    assert not process.join(0)
    mine.close()
    assert process.join(later(rt))
    assert process.exit_status == 7
    process.kill()  # harmless now


@pytest.mark.usefixtures("clean")
def test_a_child_can_be_killed_anywhere(rt: ThreadRuntime) -> None:
    mine, theirs = rt.channel("c")
    process = rt.process("child", children.sleep_for_ever, [theirs])
    assert mine.recv(later(rt)) == (b"here", [])
    process.kill()
    with pytest.raises(ChannelClosedError):
        mine.recv(later(rt))
    assert process.join(later(rt))
    assert process.exit_status == -signal.SIGKILL
    mine.close()


@pytest.mark.usefixtures("clean")
def test_a_child_gets_its_ends_in_order_and_descriptors(rt: ThreadRuntime) -> None:
    (left, their_left), (right, their_right) = rt.channel("l"), rt.channel("r")
    carrier = rt.process("carrier", children.between_two, [their_left, their_right])
    mine, theirs = rt.channel("c")
    writer = rt.process("writer", children.through_a_descriptor, [theirs])
    with pytest.raises(OSError, match="Bad file"):
        theirs.recv()  # it was handed over
    left.send(b"carried")
    reading, writing = os.pipe()
    mine.send(b"here", [writing])
    os.close(writing)
    assert right.recv(later(rt)) == (b"carried", [])
    assert os.read(reading, 100) == b"from the child"
    os.close(reading)
    assert carrier.join(later(rt))
    assert writer.join(later(rt))
    assert carrier.exit_status == writer.exit_status == 0
    for end in (left, right, mine):
        end.close()


@pytest.mark.usefixtures("clean")
def test_a_child_may_be_a_method_and_inherits_the_environment(rt: ThreadRuntime) -> None:
    mine, theirs = rt.channel("c")
    process = rt.process("child", children.Nested.main, [theirs])
    assert mine.recv(later(rt)) == (b"1", [])
    assert process.join(later(rt))
    mine.close()
