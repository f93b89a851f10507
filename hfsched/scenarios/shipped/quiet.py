"""A look finds a machine quiet only when every message that was sent before it has come to its end.

Hosts send, and so do clients of the host ports, each through a session; messages go from VM to VM, and in the
end to a guest that reads them, or back to who sent them.  `main` looks after each note that it may be quiet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from hfsched.abi.ffa import PRIMARY_ID, FfaError, Intid
from hfsched.control import wire
from hfsched.control.pusher import Timing
from hfsched.control.session import Session
from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.mailbox.mailbox import RxState
from hfsched.programs.library import GuestMailbox, interrupt_enable, interrupt_get
from hfsched.scenarios.machine import WITHIN, Courier, Guest, Host, ScenarioMachine
from hfsched.scenarios.shipped.looks import Looks
from hfsched.scheduler.outbox import Outbox
from hfsched.vcpu.script import Cpu, Program, Wfi
from hfsched.vcpu.script import Guest as Steps
from hfsched.vmm.assembly import Parts
from hfsched.vmm.report import QuietWatch

if TYPE_CHECKING:
    from hfsched.explore.foreign import XConnection
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.runtime.base import Event
    from hfsched.scenarios.guests import GuestLog
    from hfsched.scheduler.endpoint import Endpoint
    from hfsched.vmm.assembly import AssembledVm, Assembly

__all__ = ["QuietScenario"]


@dataclass(frozen=True)
class QuietScenario:
    """`hosts`, `couriers` and `clients` send `messages` each to the first of `vms`, of which each passes them on to the next one.

    The last one reads them; with `answers` it sends them to the host's port, where the one client takes them.
    A client that `leaves` disconnects in the end.
    """

    vms: int = 1
    hosts: int = 0
    couriers: int = 0
    clients: int = 1
    messages: int = 1
    answers: bool = False
    leaves: bool = False
    variant: str = ""

    values: ClassVar[Mapping[str, Collection[str]]] = {}
    variants: ClassVar[Mapping[str, Variant]] = {
        "one-look": Variant(
            "a message crosses from a VM not yet seen to one that was", {"hosts": 1, "clients": 0}
        ),
        "unasked": Variant("a message that a session has is not asked for"),
    }

    def __post_init__(self) -> None:
        check_ranges(
            self,
            ("vms", 1, 4),
            ("hosts", 0, 0 if self.answers else 4),
            ("couriers", 0, 0 if self.answers else 4),
            ("clients", int(self.answers), 1),
            ("messages", 1, 100),
            ("leaves", 0, self.clients),
        )
        if not self.hosts + self.couriers + self.clients:
            raise ValueError("hosts=0, couriers=0, clients=0: nobody sends")

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("quiet", self)

    def small(self) -> QuietScenario:
        """Return the size whose every interleaving a race pass runs."""
        hosts = 0 if self.clients or not self.hosts else 1
        couriers = 0 if self.clients or hosts else 1
        return replace(self, vms=1, hosts=hosts, couriers=couriers, messages=1)

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the machine, who sends, and who looks."""
        return _World(runtime, self).world()


def _programs(to: int | None, log: GuestLog, own: int) -> Sequence[Program]:
    return [partial(_passes, to, own, log)]


def _passes(to: int | None, own: int, log: GuestLog, cpu: Cpu) -> Steps:
    """Read every message; pass it on to VM `to`, unless that is None."""
    mailbox = GuestMailbox(cpu)
    mailbox.id = own
    yield from interrupt_enable(Intid.MAILBOX_WRITABLE)
    while True:
        message = (yield from mailbox.wait())[1]
        yield from mailbox.release()
        while to is not None:
            if (yield from mailbox.try_send(to, message, notify=True)) is not FfaError.BUSY:
                break
            yield Wfi()
            yield from interrupt_get()
        log.read.append(message)


class _CountedOutbox(Outbox):
    """Notes each message of a host in `joined` from the moment that its sender waits for its turn."""

    def __init__(self, joined: list[str], runtime: ExploreRuntime, *args: Any) -> None:
        super().__init__(runtime, *args)
        self._joined = joined
        self._tasks = runtime

    def join(self) -> Event | None:
        """See `Outbox.join`."""
        turn = super().join()
        task = self._tasks.current
        if task is not None and task.name.startswith("host."):
            self._joined.append(task.name)
        return turn


class _OneLook(QuietWatch):
    """Does not ask whether anything was claimed meanwhile."""

    def __init__(self, assembly: Assembly) -> None:
        super().__init__(assembly)
        self._parts = assembly

    def look(self) -> bool:
        """See `QuietWatch.look`."""
        return self._parts.ports.waiting() == 0 and all(map(self._rests, self._parts.vms))

    def _rests(self, vm: AssembledVm) -> bool:
        resting = vm.driven.mirror.quiet().resting
        info = self._parts.interface.info(vm.id)
        return resting and info is not None and info.rx is RxState.EMPTY and not vm.outbox.waiting()


class _World:
    """One execution's world."""

    def __init__(self, runtime: ExploreRuntime, scenario: QuietScenario) -> None:
        self._runtime = runtime
        self._scenario = scenario
        self._looks = Looks(runtime, self._amounts)
        self._joined: list[str] = []
        self._taken: list[int] = []  # messages that the client's socket took
        self._through: list[str] = []  # who has sent everything
        runtime.declare_records(
            self._joined, self._taken, self._through, reason="what the oracles compare"
        )
        parts = Parts(outbox=partial(_CountedOutbox, self._joined))
        self._machine = ScenarioMachine(runtime, parts, on_idle=self._looks.changed.set)
        self._guests = self._chain()
        self._machine.start(boot=False)
        self._hosts = [
            Host(self._machine, number, self._guests[0], scenario.messages)
            for number in range(scenario.hosts)
        ]
        self._hosts += [
            Courier(self._machine, scenario.hosts + number, self._guests[0], scenario.messages)
            for number in range(scenario.couriers)
        ]
        self._sessions: list[Session] = []
        self._closing = runtime.event("closing")
        self._ready = runtime.event("ready")  # the client may send
        self._left = not scenario.clients  # the client has got all that it waits for
        self._found = False  # main has seen that it is quiet, at the end

    def _chain(self) -> list[Guest]:
        """Add the VMs, the last one first."""
        made: list[Guest] = []
        to = PRIMARY_ID if self._scenario.answers else None
        for number in reversed(range(self._scenario.vms)):
            made.insert(0, self._machine.vm(f"g{number}", 1, partial(_programs, to)))
            to = made[0].vm.id
        return made

    def world(self) -> World:
        """Spawn the tasks."""
        runtime = self._runtime
        if self._scenario.clients:
            mine, theirs = runtime.connection("client")
            session = self._session(theirs)
            self._sessions.append(session)
            runtime.spawn("session", session.run)
            runtime.spawn("client", partial(self._be_client, mine))
            runtime.settle()
            self._ready.set()
        for host in self._hosts:
            runtime.spawn(host.name, partial(self._send, host))
        runtime.spawn("main", self._main)
        return World(
            self._check, invariant=self._looks.look, timers=False, watch=self._machine.state
        )

    # The tasks.

    def _send(self, host: Host) -> None:
        host.run()
        self._through.append(host.name)
        if not isinstance(host, Courier):  # whose place tells that itself
            self._looks.changed.set()

    def _be_client(self, connection: XConnection) -> None:
        connection.send(wire.Hello("g0", 0, None).encode())
        connection.recv(wire.PACKET_MAX)
        self._ready.wait()
        for number in range(self._scenario.messages):
            self._runtime.retain_only(number)
            connection.send(wire.DATA + bytes((9, number)))
            self._taken.append(number)
        self._through.append("client")
        self._looks.changed.set()  # what comes back tells nobody, so that it is the session that must
        for number in range(self._scenario.messages if self._scenario.answers else 0):
            self._runtime.retain_only(number)
            assert connection.recv(wire.PACKET_MAX) == wire.DATA + bytes((9, number))
        if self._scenario.leaves:
            connection.close()
        self._left = True

    def _name_vm(self, vm: str) -> str | None:
        self._sessions[0].vm = vm
        return None

    def _session(self, connection: XConnection) -> Session:
        return Session(
            self._runtime,
            self,
            ("m", "session"),
            connection,
            closing=self._closing,
            name_vm=self._name_vm,
            admit=lambda _hello: None,
            on_idle=self._looks.changed.set,
            on_client=lambda *_: None,
            on_give_up=lambda _text: None,
            timing=Timing(WITHIN, WITHIN),
        )

    def _main(self) -> None:
        kind = _OneLook if self._scenario.variant == "one-look" else QuietWatch
        watch = kind(self._machine.assembly)
        self._looks.until(lambda: not self._pending() and watch.look(), self._over)
        self._found = True

    def _pending(self) -> bool:
        asked = self._sessions if self._scenario.variant != "unasked" else []
        return any(session.pending() for session in asked)

    def _over(self) -> bool:
        return len(self._through) == len(self._hosts) + self._scenario.clients

    # The oracles.

    def _amounts(self) -> tuple[int, int]:
        """Return how many messages have been sent, and how many of them are still on their way."""
        assembly = self._machine.assembly
        sent = len(self._taken) + len(self._joined)
        through = len(self._guests[-1].log.read)
        if self._scenario.answers:
            through = sum(each.to_host for each in assembly.vms[-1].driven.counters)
            through -= assembly.ports.peek()
        return sent, sent - through

    def _check(self) -> None:
        assert self._found, "it is quiet, and main, which waits to be told so, has not seen it"
        for name in [host.name for host in self._hosts] + ["client"] * self._scenario.clients:
            assert name in self._through, f"{name} waits"
        assert self._left, "the client waits for its answers"
        sent, left = self._amounts()
        assert left == 0, f"{left} of {sent} messages are nowhere"

    # What a session needs of a machine, and of a server.

    def vm_names(self) -> list[str]:
        """See `PortMachine`."""
        return [guest.vm.name for guest in self._guests]

    def port_number(self, vm: str, port: int | str) -> int:
        """See `PortMachine`."""
        del vm
        return int(port)

    def endpoint(self, vm: str, port: int, local: int | None = None) -> Endpoint:
        """See `PortMachine`."""
        assembly = self._machine.assembly
        return assembly.endpoint(assembly.vms[self.vm_names().index(vm)], port, local)
