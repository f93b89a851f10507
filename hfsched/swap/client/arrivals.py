"""A child of a process beside main, as it comes: what is checked of it, and the channel that main makes for it.

Its descriptors are looked at by what the kernel says of them.  Main talks to it over a channel that main has made: the
one that came is the parent's, which may read from it too, and so it is used once, without waiting.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.client.descriptors import is_pagemap_of, pid_of
from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.childmessages import Dismiss, Welcome
from hfsched.swap.protocol.messages import NO_NUMBER, ProtocolError, encode, reply_text
from hfsched.swap.protocol.newcomers import DESCRIPTORS, Newcomer, decode_newcomer

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, End, Event, Runtime

__all__ = ["Arrival", "Candidate", "JoiningEnd", "candidate"]

_NO_USER = (1 << 32) - 1  # of a socket that is not AF_UNIX, or not connected


@dataclass(frozen=True, slots=True)
class Arrival:
    """A process to be added: what `ChildMember` is made of; who gets it closes its descriptors.

    `vms` are the names of those whose memory it maps; `pidfd` is there if another process says so.  A model has no
    descriptors.
    """

    name: str
    end: End
    pagemap: int | None
    pidfd: int | None
    vms: Sequence[str]
    dynamic: bool


@dataclass(slots=True)
class Candidate:
    """A message that is valid, and its descriptors."""

    message: Newcomer
    connection: Connection
    pidfd: int
    pagemap: int

    def close(self) -> None:
        """Close what has not become another's."""
        self.connection.close()
        for fd in (self.pidfd, self.pagemap):
            if fd >= 0:
                os.close(fd)

    def dismiss(self, why: str) -> None:
        """Tell it that it is not served, if it has not gone on with another channel yet, and close it."""
        with suppress(ChannelClosedError, OSError):
            self.connection.send(encode(NO_NUMBER, Dismiss(text=reply_text(why))))
        self.close()

    def welcome(self, runtime: Runtime, closed: Event) -> JoiningEnd:
        """Give it another channel; raises SwapError, OSError.  `closed` is set when main closes."""
        ours, its = runtime.channel("child")
        try:
            sent = self.connection.send(encode(NO_NUMBER, Welcome()), [its.fileno()])
            if not sent:
                raise SwapError("its channel has no room")
        except BaseException as exc:
            ours.close()
            if isinstance(exc, ChannelClosedError):
                raise SwapError("it has closed its channel") from None
            raise
        finally:
            its.close()
        return JoiningEnd(runtime, ours, closed)

    def arrival(self, name: str, end: End, vms: Sequence[str]) -> Arrival:
        """Return it as a process to be added; `vms` are all that it may map.  Its descriptors are the arrival's then."""
        pagemap, pidfd = self.pagemap, self.pidfd
        self.pagemap = self.pidfd = -1
        message = self.message
        return Arrival(name, end, pagemap, pidfd, message.vms or vms, message.dynamic)


def candidate(runtime: Runtime, data: bytes, fds: list[int]) -> Candidate:
    """Return a message with its descriptors, which are taken from `fds`.

    Raises ProtocolError for what no process in its right mind sends, SwapError and OSError for what may
    happen.
    """
    message = decode_newcomer(data)
    if len(fds) != DESCRIPTORS:
        raise ProtocolError(f"invalid newcomer: {len(fds)} descriptors, expected {DESCRIPTORS}")
    pid = pid_of(fds[1])
    if pid == -1:
        raise SwapError("it has ended")
    if pid in (None, 0, os.getpid()):
        raise ProtocolError("invalid newcomer: the second descriptor is not its pidfd")
    if not is_pagemap_of(fds[2], pid):
        if pid_of(fds[1]) == -1:
            raise SwapError("it has ended")
        raise ProtocolError("invalid newcomer: the third descriptor is not its pagemap")
    try:
        connection = runtime.adopt_connection("newcomer", fds[0])
    except OSError:
        raise ProtocolError("invalid newcomer: the first descriptor is no channel") from None
    _, pidfd, pagemap = fds
    fds.clear()
    made = Candidate(message, connection, pidfd, pagemap)
    if connection.peer_uid == _NO_USER:
        made.close()
        raise ProtocolError("invalid newcomer: the first descriptor is no channel")
    return made


class JoiningEnd:
    """An end whose `recv` raises SwapError when main closes, until its process has `joined`."""

    def __init__(self, runtime: Runtime, end: End, closed: Event) -> None:
        self._runtime = runtime
        self._end = end
        self._closed = closed
        self.joined = False

    def fileno(self) -> int:
        """See `End`."""
        return self._end.fileno()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """See `End`."""
        self._end.send(data, fds)

    def recv(self, deadline: int | None = None) -> tuple[bytes, list[int]] | None:
        """See `End`."""
        if not self.joined and self._closed in self._runtime.select(
            [self._end, self._closed], deadline
        ):
            raise SwapError("the machine is being closed")
        return self._end.recv(deadline)

    def close(self) -> None:
        """See `End`."""
        self._end.close()
