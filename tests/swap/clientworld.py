"""A client of the monitor with two members, over a runtime of fakes."""

from __future__ import annotations

from contextlib import suppress

from progress import QUIET_NS, until

from hfsched.swap.client.client import MonitorClient
from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.messages import State

from .fakes import FakeMember, FakeRuntime, Plan

SECOND = 1_000_000_000


class Suspendable:
    def __init__(self, runtime: FakeRuntime) -> None:
        self.runtime = runtime
        self.error: Exception | None = None

    def suspend(self, deadline: int | None = None) -> None:
        self.runtime.note("suspend")
        if self.error is not None:
            raise self.error

    def resume(self) -> None:
        self.runtime.note("resume")


class World:
    """A client with a static member 0 and a dynamic member 1; `log` has the events after that."""

    def __init__(
        self,
        *plans: Plan,
        default_timeout: int | None = QUIET_NS,
        runtime: FakeRuntime | None = None,
    ) -> None:
        self.runtime = runtime or FakeRuntime(*plans)
        self.suspendable = Suspendable(self.runtime)
        self.lost: list[str] = []
        self.client = MonitorClient(
            self.runtime,
            self.runtime.monitor,
            self.suspendable,
            default_timeout=default_timeout,
            on_lost=self.lost.append,
        )
        self.members = [
            FakeMember(0, self.runtime.note),
            FakeMember(1, self.runtime.note, dynamic=True),
        ]

    def start(self) -> World:
        self.client.start()
        for member in self.members:
            self.client.add(member)
        self.runtime.log.clear()
        return self

    @property
    def log(self) -> list[str]:
        return self.runtime.log

    def wait_until(self, state: State) -> None:
        until(lambda: self.client.status().state, lambda found: found is state)

    def close(self) -> None:
        """End the client and its monitor; a killed monitor would be replaced."""
        with suppress(SwapError):
            self.client.close(self.runtime.now() + SECOND // 10, discard=True)
        assert self.client.join(self.runtime.now() + QUIET_NS), "the client's task does not end"


def begin(worlds: list[World], *plans: Plan) -> World:
    worlds.append(World(*plans))
    return worlds[-1].start()
