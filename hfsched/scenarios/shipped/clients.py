"""Programs that connect to a machine's sockets.

- ``asks``: connects to a port, exchanges messages, and leaves;
- ``stalls``: connects to a port, sends its messages, and reads nothing more;
- ``drops``: the same, and disconnects;
- ``listens``: connects to a port, sends nothing, and reads to the end;
- ``silent``: connects, and says nothing;
- ``queries``: asks at the ports which VMs there are, and leaves;
- ``goes``: as ``asks``, but dies at any point;
- ``status``: asks the control socket for the machine's status;
- ``suspender``: has the machine suspended, and resumed, by requests to the control socket;
- ``snapshotter``: has a snapshot written, and confirms it;
- ``retrier``: the same, and once more if it was cancelled;
- ``hibernator``: has the machine end by a snapshot;
- ``quitter``: has one written and the machine held for it, and leaves;
- ``canceller``: cancels whatever snapshot is under way;
- ``copier``: begins to copy a file into the guest, and leaves;
- ``subscriber``: subscribes to events, and reads them to the end;
- ``follower``: subscribes, suspends the machine for a moment, reads slowly of both, and leaves;
- ``slow``: subscribes to events, and reads them to the end, with little room for them;
- ``deaf``: subscribes to events, and reads none.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING

import msgspec

from hfsched.control import commands, events, wire
from hfsched.control.guest_messages import CopyBegin
from hfsched.control.snapshot_messages import (
    SnapshotCancel,
    SnapshotConfirm,
    SnapshotTake,
    SnapshotWritten,
)
from hfsched.explore.thing import Thing
from hfsched.runtime.base import ChannelClosedError
from hfsched.scenarios.shipped.guests import PORT
from hfsched.scenarios.shipped.servers import Servers

if TYPE_CHECKING:
    from hfsched.control.commands import Answer, Request
    from hfsched.explore.foreign import XConnection
    from hfsched.explore.handles import ProcessHandle, TaskHandle
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.scenarios.shipped.world import ShippedMachine

__all__ = ["CLIENTS", "Client", "servers_for"]

_PORT_CLIENTS = ("asks", "stalls", "drops", "listens", "silent", "goes", "queries")
_SNAPSHOTS = ("snapshotter", "retrier", "hibernator", "quitter", "canceller")
CLIENTS = (
    *(*_PORT_CLIENTS, "status", "suspender", *_SNAPSHOTS),
    *("copier", "subscriber", "follower", "slow", "deaf"),
)
_SLOW = ("stalls", "drops", "follower", "slow", "deaf")
_SERVED = ("asks", "queries", "status", "suspender", "follower", "snapshotter", "retrier")
_EVENTS: msgspec.json.Decoder[events.Event] = msgspec.json.Decoder(events.Event)
_NARROW = 64  # bytes that may be unread, of a client that does not read


def servers_for(
    runtime: ExploreRuntime, shipped: ShippedMachine, kinds: Collection[str], places: int
) -> Servers:
    """Return what clients of these kinds need; each socket has `places` for clients."""
    ports = any(kind in _PORT_CLIENTS for kind in kinds)
    control = not {*kinds} <= {*_PORT_CLIENTS}
    return Servers(runtime, shipped, ports=ports, control=control, places=places)


class Client(Thing):
    """Another program, with one connection; its own state is a part of the state."""

    def __init__(
        self, runtime: ExploreRuntime, servers: Servers, number: int, kind: str, messages: int
    ) -> None:
        super().__init__(runtime, f"client.{number}")
        self.kind = kind
        self._number = number
        self._messages = messages
        self._came = servers.came
        self._machine = servers.machine
        self._listener = (
            servers.port_listener if kind in _PORT_CLIENTS else servers.command_listener
        )
        self._connection: XConnection | None = None
        self.sent = 0  # messages that its socket took
        self.read = 0  # answers
        self.reason = ""  # why the machine has ended the connection
        self._heard: list[events.Event] = []
        self.dead = False
        self.ended = False

    def key(self) -> Hashable:
        """See `Thing.key`."""
        return (self.sent, self.read, self.reason, self.dead, self.ended)

    @property
    def leaves(self) -> bool:
        """Whether it ends by itself, before the machine."""
        return self.kind not in ("silent", "listens", "subscriber", "slow")

    @property
    def waits(self) -> bool:
        """Whether it waits for an answer to each message."""
        return self.kind not in ("stalls", "drops", "goes")

    def begin(self) -> TaskHandle | ProcessHandle:
        """Start it."""
        if self.kind != "goes":
            return self.runtime.spawn(self.name, self._run)
        process = self.runtime.process(self.name, lambda _runtime: self._run(), [])
        self.runtime.event_of(f"death of {self.name}", lambda: self._die(process))
        return process

    def check(self, *, early: bool) -> None:
        """Check, at the end, that it does not wait; and, unless the machine ended `early`, that it is through."""
        assert self.ended, f"{self.name} has sent {self.sent} and read {self.read}, and waits"
        if self.kind == "status" and "idle" in self.reason:
            self._check_came()
        if self.kind in _SERVED:
            assert early or not self.reason, f"{self.name} is cut off: {self.reason}"
        if self.kind == "listens" and self._machine.aborts and self.read:
            assert "has ended" in self.reason, (
                f"the VM has ended: {self.name} hears {self.reason!r}"
            )
        if self.kind == "slow" and not early:
            self._check_heard()

    def _check_came(self) -> None:
        """Check, where a request was refused, that another client had connected before it was made."""
        before = self._came[: self._came.index((self.name, "asks"))]
        assert any(name != self.name for name, _ in before), (
            f"{self.name} loses its place: {self.reason}"
        )

    def _check_heard(self) -> None:
        """Check that it was told of the end of what it was told the beginning of, or that something is lost."""
        if any(isinstance(each, events.Lost) for each in self._heard) or not (
            self._heard and isinstance(self._heard[-1], events.Ended)
        ):
            return
        begun = [each.holder for each in self._heard if isinstance(each, events.Suspended)]
        ended = [each.holder for each in self._heard if isinstance(each, events.Resumed)]
        assert begun == ended, f"{self.name} hears of suspensions by {begun}, and ends of {ended}"

    def _die(self, process: ProcessHandle) -> None:
        self.dead = self.ended = True
        self.runtime.controller.kill(process.group)
        if self._connection is not None:
            self._connection.cut()
            self.runtime.touch(self._connection.name)
            self.runtime.touch(self._connection.peer.name)

    def _run(self) -> None:
        try:
            self._connect()
            getattr(self, f"_{self.kind}" if self.kind != "goes" else "_asks")()
        except (ChannelClosedError, ConnectionRefusedError):
            self.reason = self.reason or "closed"
        self.ended = True

    def _connect(self) -> None:
        kind: dict[str, int] = {"uid": os.geteuid()}
        if self.kind in _SLOW:
            kind["capacity"] = _NARROW
        connection = self.runtime.connect(self.name, self._listener, **kind)
        self._came.append((self.name, "connects"))
        self._connection = connection

    @property
    def _socket(self) -> XConnection:
        assert self._connection is not None
        return self._connection

    def _receive(self) -> bytes:
        got = self._socket.recv(wire.PACKET_MAX)
        if not got:
            raise ChannelClosedError
        return got

    # What each kind does.

    def _hello(self) -> bool:
        self._socket.send(wire.Hello("g0", PORT, None).encode())
        answer = self._receive()
        if b'"error"' in answer:
            self.reason = "refused"
        return not self.reason

    def _asks(self) -> None:
        if not self._hello():
            return
        for count in range(self._messages):
            self.runtime.retain_only(count)
            message = bytes((self._number, count))
            self._socket.send(wire.DATA + message)
            self.sent += 1
            packet = self._receive()
            if packet[:1] == wire.CLOSING:
                self.reason = packet[1:].decode()
                return
            assert packet == wire.DATA + message, f"{message!r} is answered by {packet!r}"
            self.read += 1
        self._socket.close()

    def _stalls(self) -> None:
        self._socket.send(wire.Hello("g0", PORT, None).encode())
        for count in range(self._messages):
            if self._socket.send(wire.DATA + bytes((self._number, count))):
                self.sent += 1

    def _drops(self) -> None:
        self._stalls()
        self._socket.close()

    def _listens(self) -> None:
        if self._hello():
            self.read += 1
            packet = self._receive()
            assert packet[:1] == wire.CLOSING, f"{packet!r} comes, and nothing was asked"
            self.reason = packet[1:].decode()

    def _silent(self) -> None:
        self.reason = "refused" if b'"error"' in self._receive() else ""

    def _queries(self) -> None:
        self._socket.send(wire.Ask("g0").encode())
        answer = self._receive()
        if b'"error"' in answer:
            self.reason = "refused"
        else:
            assert b'"has": true' in answer, f"which VMs there are is answered by {answer!r}"
            self.read += 1
        self._socket.close()

    def _status(self) -> None:
        if not isinstance(self._ask(commands.MachineStatus()), commands.Refused):
            self.read += 1
        self._socket.close()

    def _suspender(self) -> None:
        for request in (commands.MachineSuspend(), commands.MachineResume()):
            self.runtime.retain_only(self.read)
            self._socket.send(commands.encode(request))
            answer = commands.decode_answer(self._receive())
            if isinstance(answer, commands.Refused):
                self.reason = answer.code
                return
            assert isinstance(answer, commands.Suspension)
            self.read += 1
        self._socket.close()

    def _snapshotter(self) -> None:
        self._take(hold=False, end=False)
        self._socket.close()

    def _retrier(self) -> None:
        for count in range(2):
            self.runtime.retain_only(count)
            self.reason = ""
            self._take(hold=False, end=False)
            if not self.reason:
                break
        self._socket.close()

    def _hibernator(self) -> None:
        self._take(hold=True, end=True)
        self._socket.close()

    def _quitter(self) -> None:
        self._ask(SnapshotTake(name=self.name, created=0, hold=True), files=(0, 1))
        self._socket.close()

    def _canceller(self) -> None:
        self._ask(SnapshotCancel())
        self._socket.close()

    def _take(self, *, hold: bool, end: bool) -> None:
        written = self._ask(SnapshotTake(name=self.name, created=0, hold=hold), files=(0, 1))
        if isinstance(written, SnapshotWritten):
            self.read += 1
            self._ask(SnapshotConfirm(end=end))
        if not self.reason:
            self.read += 1

    def _ask(self, request: Request, files: Sequence[int] = ()) -> Answer:
        self._socket.send(commands.encode(request), files)
        self._came.append((self.name, "asks"))
        answer = commands.decode_answer(self._receive())
        if isinstance(answer, commands.Refused):
            self.reason = answer.text
        return answer

    def _copier(self) -> None:
        if not isinstance(self._ask(CopyBegin(vm="g0", name="file", size=1)), commands.Refused):
            self.read += 1
        self._socket.close()

    def _subscriber(self) -> None:
        self._socket.send(commands.encode(commands.EventsSubscribe()))
        while True:
            self._receive()
            self.read += 1

    def _slow(self) -> None:
        self._socket.send(commands.encode(commands.EventsSubscribe()))
        self._receive()
        while True:
            self._heard.append(_EVENTS.decode(self._receive()))
            self.read += 1

    def _follower(self) -> None:
        self._socket.send(commands.encode(commands.EventsSubscribe()))
        self._receive()
        with self._machine.suspension.held(self.name):
            pass
        mine = f'"holder":"{self.name}"'.encode()
        for word in (b'"suspended"', b'"resumed"'):
            event = self._receive()
            while mine not in event and b'"lost"' not in event:
                event = self._receive()
            if b'"lost"' in event:  # the machine ends, and this client has read too little
                break
            assert word in event, f"{event!r} comes where {word!r} was due"
            self.read += 1
        self._socket.close()

    def _deaf(self) -> None:
        self._socket.send(commands.encode(commands.EventsSubscribe()))
