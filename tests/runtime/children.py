"""Programs for `Runtime.process`: each is called in a fresh interpreter."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Runtime


def echo(_: Runtime, end: End) -> None:
    """Answer every message with its bytes reversed, until the other end is closed."""
    try:
        while (got := end.recv()) is not None:
            end.send(got[0][::-1])
    except ChannelClosedError:
        sys.exit(7)


def through_a_descriptor(_: Runtime, end: End) -> None:
    """Write into the descriptor that comes with the first message."""
    got = end.recv()
    assert got is not None
    os.write(got[1][0], b"from the child")


def between_two(runtime: Runtime, left: End, right: End) -> None:
    """Carry one message from the first end to the second."""
    ready = runtime.select([left, right])
    assert ready == [left]
    got = left.recv()
    assert got is not None
    right.send(got[0])


def sleep_for_ever(_: Runtime, end: End) -> None:
    end.send(b"here")
    end.recv()


class Nested:
    @staticmethod
    def main(_: Runtime, end: End) -> None:
        end.send(repr(sys.flags.dont_write_bytecode).encode())
