"""A monitor's program for `Runtime.process`, over pages that die with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfsched.swap.monitor.controller import Controller
from hfsched.swap.monitor.serving import serve
from hfsched.swap.protocol.messages import Begin

from .fakes import FakeMembers, FakePages

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Runtime


def monitor(runtime: Runtime, end: End) -> None:
    """Write a port_message into the resource "log", and serve."""

    def make(begin: Begin, fds: Sequence[int]) -> Controller:
        log = fds[begin.resources.index("log")]
        os.write(log, b"F" if begin.fresh else b"T")
        os.close(log)
        return Controller(runtime.now, FakePages(), FakeMembers())

    serve(runtime, end, make)
