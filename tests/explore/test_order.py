"""What orders accesses to shared values, and what does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cases import HOLDS, said

from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.runtime.base import ChannelClosedError

RACE = "v: the "


def _join(runtime: ExploreRuntime, *, ordered: bool) -> None:
    value = runtime.shared("v", 0)

    def child() -> None:
        value.value = 1

    def parent() -> None:
        task = runtime.spawn("child", child)
        if ordered:
            task.join()
        value.value = 2
        task.join()

    runtime.spawn("parent", parent)


def _join_in_time(runtime: ExploreRuntime, *, ordered: bool) -> None:
    """A join whose deadline has passed orders nothing."""
    value = runtime.shared("v", 0)

    def child() -> None:
        value.value = 1

    def parent() -> None:
        ended = runtime.spawn("child", child).join(10)
        if ended or not ordered:
            value.value = 2

    runtime.spawn("parent", parent)


def _process(runtime: ExploreRuntime, *, ordered: bool) -> None:
    value = runtime.shared("v", 0)

    def child(_runtime: ExploreRuntime) -> None:
        value.value = 1

    def parent() -> None:
        process = runtime.process("child", child, [])
        if ordered:
            process.join()
        value.value = 2

    runtime.spawn("parent", parent)


def _status(runtime: ExploreRuntime, *, ordered: bool) -> None:
    value = runtime.shared("v", 0)

    def child(_runtime: ExploreRuntime) -> None:
        value.value = 1

    def parent() -> None:
        process = runtime.process("child", child, [])
        if process.exit_status is not None or not ordered:
            value.value = 2

    runtime.spawn("parent", parent)


def _is_set(runtime: ExploreRuntime, *, ordered: bool) -> None:
    value, event = runtime.shared("v", 0), runtime.event("e")

    def write() -> None:
        value.value = 1
        event.set()

    def look() -> None:
        if event.is_set() or not ordered:
            value.value = 2

    runtime.spawn("write", write)
    runtime.spawn("look", look)


def _channel_end(runtime: ExploreRuntime, *, ordered: bool) -> None:
    value = runtime.shared("v", 0)
    left, right = runtime.channel("c")

    def write() -> None:
        if ordered:
            value.value = 1
        left.close()
        if not ordered:
            value.value = 1

    def read() -> None:
        try:
            right.recv()
        except ChannelClosedError:
            value.value = 2

    runtime.spawn("write", write)
    runtime.spawn("read", read)


def _no_reader(runtime: ExploreRuntime, *, ordered: bool) -> None:
    """Who cannot send any more knows what the other side has done."""
    value = runtime.shared("v", 0)
    left, right = runtime.channel("c")

    def write() -> None:
        if ordered:
            value.value = 1
        left.close()
        if not ordered:
            value.value = 1

    def send() -> None:
        try:
            right.send(b"1")
        except ChannelClosedError:
            value.value = 2

    runtime.spawn("write", write)
    runtime.spawn("send", send)


def _end_of_a_process(runtime: ExploreRuntime, *, ordered: bool) -> None:
    value = runtime.shared("v", 0)
    here, there = runtime.channel("c")

    def child(_runtime: ExploreRuntime, _end: object) -> None:
        value.value = 1

    def parent() -> None:
        runtime.process("child", child, [there])
        try:
            if ordered:
                here.recv()
            value.value = 2
        except ChannelClosedError:
            value.value = 2

    runtime.spawn("parent", parent)


def _connection_end(runtime: ExploreRuntime, *, ordered: bool) -> None:
    value = runtime.shared("v", 0)
    left, right = runtime.connection("s")

    def write() -> None:
        if ordered:
            value.value = 1
        left.close()
        if not ordered:
            value.value = 1

    def read() -> None:
        if right.recv(10) == b"":
            value.value = 2

    runtime.spawn("write", write)
    runtime.spawn("read", read)


@pytest.mark.parametrize(
    "build",
    [
        _join,
        _join_in_time,
        _process,
        _status,
        _is_set,
        _channel_end,
        _no_reader,
        _end_of_a_process,
        _connection_end,
    ],
)
def test_it_orders_what_came_before_and_nothing_else(build: Callable[..., None]) -> None:
    def make(runtime: ExploreRuntime, *, ordered: bool) -> World:
        build(runtime, ordered=ordered)
        return World(idle=True)

    assert said(lambda runtime: make(runtime, ordered=True)) == HOLDS
    assert said(lambda runtime: make(runtime, ordered=False)).startswith(RACE)
