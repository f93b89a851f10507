"""Programs that connect to a machine's sockets, and the servers of those: production code over models.

- ``asks``: connects to a port, exchanges messages, and leaves;
- ``stalls``: connects to a port, sends its messages, and reads nothing more;
- ``drops``: the same, and disconnects;
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
- ``subscriber``: subscribes to events, and reads them to the end;
- ``follower``: subscribes, suspends the machine for a moment, reads slowly of both, and leaves;
- ``slow``: subscribes to events, and reads them to the end, with little room for them;
- ``deaf``: subscribes to events, and reads none.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from hfsched.control import commands, events, wire
from hfsched.control.command_server import CommandServer
from hfsched.control.events import Hub, Started
from hfsched.control.port_server import PortServer
from hfsched.control.snapshot_messages import (
    SnapshotCancel,
    SnapshotConfirm,
    SnapshotTake,
    SnapshotWritten,
)
from hfsched.explore.thing import Thing
from hfsched.runtime.base import ChannelClosedError
from hfsched.scenarios.shipped.guests import PORT

if TYPE_CHECKING:
    from hfsched.control.commands import Answer, Request
    from hfsched.control.runtime_dir import MachineDirectory
    from hfsched.explore.foreign import XConnection, XListener
    from hfsched.explore.handles import ProcessHandle, TaskHandle
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.scenarios.shipped.world import ShippedMachine

__all__ = ["CLIENTS", "Client", "Servers"]

_PORT_CLIENTS = ("asks", "stalls", "drops", "silent", "goes", "queries")
_SNAPSHOTS = ("snapshotter", "retrier", "hibernator", "quitter", "canceller")
CLIENTS = (
    *(*_PORT_CLIENTS, "status", "suspender", *_SNAPSHOTS),
    *("subscriber", "follower", "slow", "deaf"),
)
_SLOW = ("stalls", "drops", "follower", "slow", "deaf")
_SERVED = ("asks", "queries", "status", "suspender", "follower", "snapshotter", "retrier")
_EVENTS: msgspec.json.Decoder[events.Event] = msgspec.json.Decoder(events.Event)
_NARROW = 64  # bytes that may be unread, of a client that does not read


class _Number:
    """What stands for a new socket of the directory."""

    def __init__(self, number: int) -> None:
        self._number = number

    def detach(self) -> int:
        return self._number


class _Directory:
    """The machine's directory with a listening socket: `hfsched.control.runtime_dir.MachineDirectory`."""

    name = "m"

    def __init__(self, runtime: ExploreRuntime, listener: XListener) -> None:
        self._runtime = runtime
        self._listener = listener

    def listen(self, what: str) -> _Number:
        del what
        return _Number(self._runtime.descriptor(self._listener))


class Servers:
    """Those of ports and of commands, as `hfsched run` has them."""

    def __init__(
        self,
        runtime: ExploreRuntime,
        shipped: ShippedMachine,
        *,
        ports: bool,
        control: bool,
        places: int,
    ) -> None:
        machine = shipped.machine
        self.machine = machine
        self.hub = Hub(runtime)
        machine.suspension.on_hold = self.hub.note_hold
        self.port_listener = runtime.listener("ports.socket")
        self.command_listener = runtime.listener("control.socket")
        directory: Any = _Directory(runtime, self.port_listener)
        self.ports: PortServer | None = None
        self.commands: CommandServer | None = None
        if ports:
            self.ports = PortServer(
                runtime,
                machine,
                cast("MachineDirectory", directory),
                clients_max=places,
                silent_max=0,
                on_idle=shipped.note_activity,
                on_client=self.hub.note_client,
            )
            shipped.on_abort = self.ports.vm_ended
        if control:
            self.commands = CommandServer(
                runtime, machine, self.hub, self.command_listener, clients_max=places
            )
        self.came: list[
            tuple[str, str]
        ] = []  # what clients did, in order: {name, connects or asks}
        runtime.declare_records(self.came, reason="what the oracles compare")
        names = tuple(machine.vm_names())
        self.hub.publish(Started(machine=machine.name, version="", vms=names))

    @classmethod
    def of(
        cls, runtime: ExploreRuntime, shipped: ShippedMachine, kinds: Collection[str], places: int
    ) -> Servers:
        """Return what clients of these kinds need; each socket has `places` for clients."""
        ports = any(kind in _PORT_CLIENTS for kind in kinds)
        control = not {*kinds} <= {*_PORT_CLIENTS}
        return cls(runtime, shipped, ports=ports, control=control, places=places)

    def pending(self) -> bool:
        """Return whether a client's message is on its way; see `PortServer.pending`."""
        return self.ports is not None and self.ports.pending()

    def close_commands(self) -> list[str]:
        """Do what comes before the machine's stop; return the tasks that did not end."""
        return [] if self.commands is None else self.commands.close()

    def close_ports(self) -> list[str]:
        """Do what comes after it, likewise."""
        return [] if self.ports is None else self.ports.close()


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
        return self.kind not in ("silent", "subscriber", "slow")

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
