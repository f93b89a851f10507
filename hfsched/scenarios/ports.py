"""Ports while a snapshot is written that a machine is to end by: what lies in them is in the snapshot, or was read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hfsched.explore.opaque import opaque_call
from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.mailbox.ports import Handler, Port, PortMessage, Ports, frame
from hfsched.scenarios.portslive import LIVE, live_world

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.mailbox.records import PortsRecord

__all__ = ["PortsScenario"]

_VM = 2
_GUEST_PORT = 1
_LATE_PORT = 9  # nobody listens there at first
_BESIDE = ("", "opens", "handles", "connects")
_SHARED = ("", "stopped", "closed")


class _GivesOut(Ports):
    """What is in the snapshot can be read at once."""

    def hold(self) -> None:
        pass


class _WakesOne(Ports):
    """The end of a hold wakes one reader."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        super().__init__(runtime)
        self.others: list[Port] = []

    def open(self, vm: int, number: int | None = None, handler: Handler | None = None) -> Port:
        port = super().open(vm, number, handler)
        if number:
            self.others.append(port)
        return port

    def release(self) -> None:
        super().release()
        for port in self.others:
            port.arrived.clear()


@dataclass(frozen=True)
class PortsScenario:
    """`readers` wait for `messages` each, which lie there; a snapshot holds them, and is given up in the end.

    Meanwhile one `beside` ``opens`` a port for which a message has come before, or ``handles`` it by a function, or
    ``connects`` and goes again.  What the snapshot has is read by nobody before it is given up, and then once.

    With `shared` there is no snapshot: all readers read one port, to which the messages come one by one, until all
    is ``stopped``, or the port is ``closed``, at any point.  Each message is read once, and every reader hears of the end.

    With `live` there is none either: threads of two guests bring `messages` each to a port of their own, and each queue has room for one.
    The first port is ``read``, ``handled`` by a function, or ``reopened``; then the second is read.
    """

    readers: int = 1
    messages: int = 1
    beside: str = ""
    shared: str = ""
    live: str = ""
    variant: str = ""

    values: ClassVar[Mapping[str, Collection[str]]] = {
        "beside": _BESIDE,
        "shared": _SHARED,
        "live": ("", *LIVE),
    }
    variants: ClassVar[Mapping[str, Variant]] = {
        "gives-out": Variant("what the snapshot has is read before it is given up"),
        "wakes-one": Variant("one reader alone is woken when it is given up", {"readers": 2}),
    }

    def __post_init__(self) -> None:
        if self.beside not in _BESIDE:
            raise ValueError(f"beside={self.beside}: known: {', '.join(filter(None, _BESIDE))}")
        if self.shared not in _SHARED:
            raise ValueError(f"shared={self.shared}: known: {', '.join(filter(None, _SHARED))}")
        if self.live and self.live not in LIVE:
            raise ValueError(f"live={self.live}: known: {', '.join(LIVE)}")
        for one, two in (("shared", "beside"), ("live", "beside"), ("live", "shared")):
            if getattr(self, one) and getattr(self, two):
                raise ValueError(f"{two}={getattr(self, two)}: not with {one}={getattr(self, one)}")
        check_ranges(self, ("readers", 0, 4), ("messages", 1, 4))

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("ports", self)

    def small(self) -> PortsScenario:
        """Return the size whose every interleaving a race pass runs."""
        return replace(self, readers=min(self.readers, 1), messages=1)

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the ports, who reads them, and who takes the snapshot."""
        if self.live:
            return live_world(runtime, self.live, self.messages)
        return _World(self, runtime).world()


class _World:
    """One execution's world."""

    def __init__(self, scenario: PortsScenario, runtime: ExploreRuntime) -> None:
        self._scenario = scenario
        self._runtime = runtime
        kind = {"": Ports, "gives-out": _GivesOut, "wakes-one": _WakesOne}[scenario.variant]
        self._ports = kind(runtime)
        self._read: dict[int, list[int]] = {}  # port -> numbers of messages
        self._given_up = False

    def world(self) -> World:
        runtime, scenario = self._runtime, self._scenario
        self._ports.add(_VM, raw=False)
        if scenario.shared:
            return self._shared()
        runtime.spawn("guest", self._fill)
        runtime.settle()
        runtime.declare_records(self._read, reason="what the oracles compare")
        for number in range(scenario.readers):
            runtime.spawn(f"reader.{number}", partial(self._read_all, number))
        if scenario.beside:
            runtime.spawn(scenario.beside, getattr(self, f"_{scenario.beside}"))
        runtime.spawn("snapshot", self._snapshot)
        return World(
            self._check, final=lambda: tuple(map(tuple, self._read.values())), timers=False
        )

    def _shared(self) -> World:
        runtime, scenario = self._runtime, self._scenario
        runtime.declare_records(self._read, reason="what the oracles compare")
        port = self._ports.open(_VM, 0)
        closes = scenario.shared == "closed"
        ended: list[int] = []
        runtime.declare_records(ended, reason="what the oracles compare")

        def read(number: int) -> None:
            self._read[number] = []
            while (got := opaque_call(runtime, port).get()) is not None:
                self._note(number, got)
                runtime.retain_only()
            assert port.closed or self._ports.stopped, f"reader {number} is told of an end"
            ended.append(number)

        def put() -> None:
            for number in range(scenario.messages):
                runtime.retain_only(number)
                self._ports.put(_VM, frame(_GUEST_PORT, 0, bytes([number])))
            if not closes:
                self._ports.stop()

        def check() -> None:
            assert len(ended) == scenario.readers, f"of {scenario.readers} only {ended} end"
            came = sorted(number for read in self._read.values() for number in read)
            wanted = [*range(scenario.messages)]
            assert came == wanted or (closes and len({*came}) == len(came)), f"there came {came}"

        for number in range(scenario.readers):
            runtime.spawn(f"reader.{number}", partial(read, number))
        runtime.spawn("guest", put)
        if closes:
            runtime.spawn("closer", port.close)
        return World(check, timers=False)

    def _fill(self) -> None:
        """Be the guest, before the machine is suspended."""
        late = [_LATE_PORT] if self._scenario.beside in ("opens", "handles") else []
        for port in (*range(self._scenario.readers), *late):
            self._read[port] = []
            for number in range(self._scenario.messages):
                self._ports.put(_VM, frame(_GUEST_PORT, port, bytes([number])))

    def _note(self, port: int, got: PortMessage) -> None:
        self._read[port].append(got.payload[0])

    def _read_all(self, number: int) -> None:
        """Be a reader; also of messages that came before."""
        port = self._ports.open(_VM, number)
        for count in range(self._scenario.messages):
            self._runtime.retain_only(count)
            got = opaque_call(self._runtime, port).get()
            assert got is not None, f"port {number} has ended"
            self._note(number, got)
        port.close()

    def _opens(self) -> None:
        self._read_all(_LATE_PORT)

    def _handles(self) -> None:
        self._ports.open(_VM, _LATE_PORT, partial(self._note, _LATE_PORT))

    def _connects(self) -> None:
        self._ports.open(_VM).close()

    def _snapshot(self) -> None:
        """Hold what lies there, save it, and give that up."""
        self._ports.hold()
        saved = self._ports.save()
        self._runtime.checkpoint("the snapshot is written")
        assert _messages(self._ports.save()) == _messages(saved), "what is in the snapshot is read"
        self._ports.release()
        self._given_up = True

    def _check(self) -> None:
        assert self._given_up, "the snapshot does not come to its end"
        wanted = [*range(self._scenario.messages)]
        for port, read in self._read.items():
            assert read == wanted, f"port {port}: of {wanted} there came {read}"


def _messages(record: PortsRecord) -> list[tuple[int, int, bytes]]:
    """Return the messages that are saved, ordered by port: one that is opened has its own queue."""
    return sorted(record.vms[_VM].messages, key=lambda message: message[0])
