"""Two guests' threads bring messages to host ports with little room, while the ports are opened, read and closed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hfsched.explore.opaque import opaque_call
from hfsched.explore.scenario import World
from hfsched.mailbox.ports import Port, PortMessage, Ports, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["LIVE", "live_world"]

_VM = 2
_GUEST_PORT = 1


class _Live:
    """One execution's world; the second port is opened when the first has been read."""

    def __init__(self, runtime: ExploreRuntime, messages: int) -> None:
        self._runtime = runtime
        self._messages = messages
        self._ports = Ports(runtime, queue_max=1)
        self._ports.add(_VM, raw=False)
        self._read: dict[int, list[int]] = {0: [], 1: []}
        self._ended: list[str] = []
        self._through = runtime.event("through")
        runtime.declare_records(self._read, self._ended, reason="what the oracles compare")

    def world(self, kind: str) -> World:
        """Spawn the tasks."""
        tasks: dict[str, Callable[[], None]] = {
            "guest.0": partial(self._put, 0),
            "guest.1": partial(self._put, 1),
            "first": partial(self._first, LIVE[kind]),
            "second": self._second,
        }
        for name, body in tasks.items():
            self._runtime.spawn(name, partial(self._run, name, body))

        def check() -> None:
            assert len(self._ended) == len(tasks), f"only {self._ended} have ended"
            _, discarded, _ = self._ports.counts(_VM)
            for port, read in self._read.items():
                assert read == sorted({*read}), f"port {port}: there came {read}"
            came = sum(map(len, self._read.values()))
            assert came + discarded == 2 * self._messages, f"{came} came, and {discarded} did not"

        return World(check, timers=False)

    def _run(self, name: str, body: Callable[[], None]) -> None:
        body()
        self._ended.append(name)

    def _put(self, port: int) -> None:
        for number in range(self._messages):
            self._runtime.retain_only(number)
            self._ports.put(_VM, frame(_GUEST_PORT, port, bytes([number])))

    def _first(self, read: Callable[[_Live], None]) -> None:
        read(self)
        self._through.set()

    def _second(self) -> None:
        self._through.wait()
        port = self._ports.open(_VM, 1)
        self._take(port, self._messages)
        port.close()

    def _take(self, port: Port, messages: int) -> None:
        for left in range(messages, 0, -1):
            self._runtime.retain_only(left, level=1)
            got = opaque_call(self._runtime, port).get()
            assert got is not None, f"port {port.number} has ended"
            self._note(port.number, got)

    def _note(self, port: int, got: PortMessage) -> None:
        self._read[port].append(got.payload[0])

    # How the first port is read.

    def read(self) -> None:
        """Open it, and read all."""
        port = self._ports.open(_VM, 0)
        self._take(port, self._messages)
        port.close()

    def handle(self) -> None:
        """Open it with a function."""
        all_of_it = self._runtime.event("all")

        def handler(got: PortMessage) -> None:
            self._note(0, got)
            if len(self._read[0]) == self._messages:
                all_of_it.set()

        port = self._ports.open(_VM, 0, handler)
        all_of_it.wait()
        port.close()

    def reopen(self) -> None:
        """Close it after a message, which discards what lies there, and open it again."""
        port = self._ports.open(_VM, 0)
        self._take(port, 1)
        port.close()
        _, discarded, _ = self._ports.counts(_VM)
        port = self._ports.open(_VM, 0)
        self._take(port, self._messages - 1 - discarded)
        port.close()


LIVE = {"read": _Live.read, "handled": _Live.handle, "reopened": _Live.reopen}


def live_world(runtime: ExploreRuntime, kind: str, messages: int) -> World:
    """Return the world in which the first port is read in one of the ways of `LIVE`."""
    return _Live(runtime, messages).world(kind)
