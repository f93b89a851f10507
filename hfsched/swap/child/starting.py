"""Starts a child of a process that maps guest memory, and tells main of it; see `Child.start_child`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hfsched.errors import HfschedError
from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.core.pagemap import open_pagemap
from hfsched.swap.protocol.newcomers import Newcomer, decode_newcomer, encode_newcomer

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, End, Process, Runtime

__all__ = ["start"]


def start(
    runtime: Runtime,
    main: Connection,
    name: str,
    program: Callable[..., None],
    ends: Sequence[End],
    *,
    dynamic: bool,
    vms: Sequence[str] | None,
) -> Process:
    """Start a process, and tell main, which has the other end of `main`; see `Child.start_child`."""
    message = encode_newcomer(
        Newcomer(name=name, dynamic=dynamic, vms=None if vms is None else tuple(vms))
    )
    decode_newcomer(message)  # raises ProtocolError for what main would not take
    with ExitStack() as stack:
        mains, its = runtime.channel(name)
        stack.callback(mains.close)
        try:
            process = runtime.process(name, program, [its, *ends], outlives=True)
        except BaseException:
            its.close()
            raise
        try:
            _tell(main, message, mains, process, stack)
        except BaseException:
            process.kill()
            raise
        return process


def _tell(main: Connection, message: bytes, end: End, process: Process, stack: ExitStack) -> None:
    pid = process.pid
    if pid is None:
        raise HfschedError(f"child {process.name}: it has ended")
    pidfd = os.pidfd_open(pid)  # it is not reaped before its handle is asked
    stack.callback(os.close, pidfd)
    pagemap = open_pagemap(pid)
    stack.callback(os.close, pagemap)
    try:
        sent = main.send(message, [end.fileno(), pidfd, pagemap])
    except ChannelClosedError:
        raise HfschedError(f"child {process.name}: main takes none any more") from None
    if not sent:
        raise HfschedError(f"child {process.name}: main has not taken the last ones yet")
