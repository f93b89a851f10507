"""The console at standard input and output, which are pipes here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from driver import FrontEnd

from hfsched.cli.device_ends import StandardLine
from hfsched.vhost.devices.console import Console

IN, OUT = 0, 1


class Pipes:
    """A console, served to `front`; `typed` is where its input is written, `shown` where its output is read."""

    def __init__(self, stack: ExitStack) -> None:
        source, typed = os.pipe()
        shown, target = os.pipe()
        self.typed = stack.enter_context(os.fdopen(typed, "wb", 0))
        self.shown = stack.enter_context(os.fdopen(shown, "rb", 0))
        for fd in (source, target):
            stack.callback(os.close, fd)
        self.target = target
        self.device = Console(StandardLine(source, target))
        self.front = stack.enter_context(FrontEnd(self.device))


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    with ExitStack() as stack:
        yield Pipes(stack)


def test_input_and_output(pipes: Pipes) -> None:
    pipes.front.request(b"login: ", index=OUT)
    assert pipes.shown.read(7) == b"login: "
    pipes.typed.write(b"root\n")
    assert pipes.front.request(room=100, index=IN) == b"root\n"


def test_output_goes_on_after_the_end_of_input(pipes: Pipes) -> None:
    pipes.typed.close()
    pipes.front.queues[IN].add(room=10)
    pipes.front.queues[IN].kick()
    for _ in range(3):
        pipes.front.request(b"output", index=OUT)
        assert pipes.shown.read(6) == b"output"
    assert not pipes.front.queues[IN].take()


def test_a_pipe_that_is_full_holds_the_guest_back_and_nothing_is_lost(pipes: Pipes) -> None:
    data = os.urandom(40 * 4096)
    queue = pipes.front.queues[OUT]
    queue.add(data)
    queue.kick()
    pipes.front.on_device(lambda: None)
    assert not queue.take()
    found = b""
    while len(found) < len(data):
        found += pipes.shown.read(len(data))
    assert found == data
    pipes.front.wait(OUT)


def test_nobody_reads_the_output_any_more(pipes: Pipes) -> None:
    pipes.shown.close()
    for _ in range(50):
        pipes.front.request(bytes(4096), index=OUT)
    assert pipes.front.notices == ["the console's other end is gone"]
