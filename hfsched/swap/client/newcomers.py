"""Children of processes beside main, which map guest memory too: main hears of them at any time.

A process that maps guest memory says on a channel of its own that it has started a child
(`hfsched.swap.protocol.newcomers`).  One task, the reader, listens to all such channels; it waits for nothing else, so
that no process waits for it.  Each child that has come is taken in by a task of its own, which may have to wait: for
the child, and for the end of a suspension.  No process waits for these tasks but the child itself.

Nothing that comes over such a channel is believed.  A process that sends what it cannot mean, or far too much, is not
heard any more, and ended (`ChildMember.distrust`); a child that cannot be taken in is dismissed, with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hfsched.errors import HfschedError, describe
from hfsched.swap.client.arrivals import Arrival, Candidate, candidate
from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.messages import ProtocolError
from hfsched.swap.protocol.newcomers import Newcomer

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, End, Runtime, Task
    from hfsched.swap.client.childmember import ChildMember

__all__ = ["Newcomers", "announcing"]

AT_ONCE = 8  # children of a process that are being taken in
DISMISSED_MAX = 64  # children of a process in a row, before it is ended
_SIZE = 1 << 16  # bytes of a message
_FDS = 8  # more than a message has
_LAST = 16  # messages that are read of a process that has gone
_NAME_MAX = 64  # characters of a name with those of its forebears


def announcing(runtime: Runtime) -> tuple[Connection, End]:
    """Return a connection to listen to, and the end for a process, which says there that it has started a child."""
    ours, its = runtime.channel("newcomers")
    try:
        return runtime.adopt_connection("newcomers", os.dup(ours.fileno())), its
    except BaseException:
        its.close()
        raise
    finally:
        ours.close()


@dataclass(slots=True, eq=False)
class _Channel:
    """The channel of a process; the lock guards the last three.

    How many of its children were dismissed in a row, and how many are being taken in; whether it has gone.
    """

    owner: ChildMember
    connection: Connection
    vms: tuple[str, ...]
    dismissed: int = 0
    under_way: int = 0
    gone: bool = False


class Newcomers:
    """See the module's text.  `add(arrival)` takes a child in, on a task of its own, or raises HfschedError or OSError.

    `room()` returns how many more processes can be served; `consider` is called as `candidate` is.
    """

    def __init__(
        self,
        runtime: Runtime,
        add: Callable[[Arrival], None],
        room: Callable[[], int],
        consider: Callable[[Runtime, bytes, list[int]], Candidate] = candidate,
    ) -> None:
        self._runtime = runtime
        self._add = add
        self._room = room
        self._candidate = consider
        self._lock = runtime.lock("newcomers", state=self.key)
        self._channels: list[_Channel] = []
        self._closing = False
        self._under_way = 0  # children that are being taken in
        self._reader: Task | None = None
        self._changed = runtime.event("newcomers.changed")
        self._dropped = runtime.event("newcomers.dropped")
        self._closed = runtime.event("newcomers.closed")
        self._calm = runtime.event("newcomers.calm")
        self._calm.set()

    def key(self) -> object:
        """Return all that the lock guards."""
        channels = tuple((each.dismissed, each.under_way, each.gone) for each in self._channels)
        return (channels, self._closing, self._under_way, self._reader is None)

    # On any task.

    def listen(self, owner: ChildMember, connection: Connection, vms: Sequence[str]) -> None:
        """Hear what a process says of its children, which may map the memory of `vms`; closes the connection in the end."""
        with self._lock:
            if self._closing:
                connection.close()
                return
            if self._reader is None:
                self._reader = self._runtime.spawn("swap.newcomers", self._read)
            self._channels.append(_Channel(owner, connection, tuple(vms)))
            self._changed.set()

    def forget(self, owner: ChildMember) -> None:
        """Hear no more of a process that is no member any more, but what it has said by now.

        Waits until the reader has closed its channel, which it does at once.
        """
        while True:
            with self._lock:
                known = [channel for channel in self._channels if channel.owner is owner]
                if not known:
                    return
                for channel in known:
                    channel.gone = True
                self._dropped.clear()
                self._changed.set()
            self._runtime.retain_only(level=1)
            self._dropped.wait()

    def end(self) -> None:
        """Take in no more, and give up who is being taken in; does not wait."""
        with self._lock:
            self._closing = True
            self._changed.set()
            self._closed.set()

    def close(self, deadline: int) -> bool:
        """After `end`, return whether all tasks have ended by the deadline (ns); then nobody may use this any more."""
        with self._lock:
            reader = self._reader
        # The reader may begin to take one in until its end.
        ended = (reader is None or reader.join(deadline)) and self._calm.wait(deadline)
        if ended:
            for event in (self._changed, self._dropped, self._closed, self._calm):
                event.close()
        return ended

    # The reader.

    def _read(self) -> None:
        try:
            self._read_all()
        finally:
            with self._lock:
                self._closing = True  # also after an error of ours: nobody waits for it then
                channels = list(self._channels)
            for channel in channels:
                self._drop(channel)

    def _read_all(self) -> None:
        while True:
            self._runtime.retain_only()
            with self._lock:
                channels = list(self._channels)
                gone = [channel for channel in channels if channel.gone]
                if self._closing:
                    return
                self._changed.clear()
            for channel in gone:
                for _ in range(_LAST):
                    if not self._hear(channel):
                        break
                self._drop(channel)
            if gone:
                continue
            connections = [channel.connection for channel in channels]
            ready = self._runtime.select([self._changed, *connections])
            for channel in channels:
                if channel.connection in ready:
                    self._hear(channel)

    def _drop(self, channel: _Channel) -> None:
        with self._lock:
            if channel in self._channels:
                self._channels.remove(channel)
                channel.connection.close()
                self._dropped.set()

    def _end(self, channel: _Channel, why: str) -> None:
        """End a process that cannot be trusted; `forget` keeps its member open until it is dropped."""
        channel.owner.distrust(why)
        self._drop(channel)

    def _hear(self, channel: _Channel) -> bool:
        """Receive a message, if there is one, and act on it; return whether another one may follow."""
        with self._lock:
            many = channel.dismissed > DISMISSED_MAX
        if many:
            self._end(channel, f"{DISMISSED_MAX} children of it in a row had to be dismissed")
            return False
        try:
            got = channel.connection.recv_fds(_SIZE, _FDS, self._runtime.now())
        except OSError:  # there are too many descriptors in it, or here
            self._count_dismissed(channel)
            return True
        if got is None:
            return False
        data, fds = got
        try:
            if not data:
                self._drop(channel)
                return False
            self._consider(channel, self._candidate(self._runtime, data, fds))
        except ProtocolError as exc:
            self._end(channel, str(exc))
            return False
        except (SwapError, OSError):  # it has ended, or cannot be looked at now
            self._count_dismissed(channel)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _consider(self, channel: _Channel, new: Candidate) -> None:
        """Begin to take a child in, or dismiss it."""
        why_not = self._why_not(channel, new.message)
        if not why_not:
            with self._lock:
                channel.under_way += 1
                self._under_way += 1
                self._calm.clear()
            try:
                self._runtime.spawn("swap.newcomer", partial(self._take_in, channel, new))
            except HfschedError as exc:  # there is no thread for it
                self._done(channel)
                why_not = describe(exc)
        if why_not:
            new.dismiss(why_not)
            self._count_dismissed(channel)

    def _why_not(self, channel: _Channel, message: Newcomer) -> str:
        """Return why a child cannot be taken in, empty if it can."""
        with self._lock:
            under_way, all_under_way = channel.under_way, self._under_way
        unknown = sorted(set(message.vms or ()) - set(channel.vms))
        if unknown:
            return f"its parent does not map the memory of {unknown[0]}"
        if not message.dynamic and channel.owner.dynamic:
            return "its parent may die, and so it must be one that may"
        if len(_full_name(channel, message)) > _NAME_MAX:
            return f"its name and those of its forebears have more than {_NAME_MAX} characters"
        if under_way >= AT_ONCE:
            return f"{AT_ONCE} children of its parent are being taken in already"
        if self._room() <= all_under_way:
            return "as many processes are served as can be"
        return ""

    def _count_dismissed(self, channel: _Channel) -> None:
        with self._lock:
            if channel in self._channels:  # else nobody looks
                channel.dismissed += 1

    # A task for each child.

    def _take_in(self, channel: _Channel, new: Candidate) -> None:
        try:
            end = new.welcome(self._runtime, self._closed)
            self._add(new.arrival(_full_name(channel, new.message), end, channel.vms))
            end.joined = True
        except (HfschedError, OSError) as exc:
            new.dismiss(describe(exc))
            self._count_dismissed(channel)
        else:
            new.close()
            with self._lock:
                if channel in self._channels:
                    channel.dismissed = 0
        finally:
            self._done(channel)

    def _done(self, channel: _Channel) -> None:
        with self._lock:
            if channel in self._channels:
                channel.under_way -= 1
            self._under_way -= 1
            if not self._under_way:
                self._calm.set()


def _full_name(channel: _Channel, message: Newcomer) -> str:
    return f"{channel.owner.name}/{message.name}"
