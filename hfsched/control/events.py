"""Events of a machine, for the programs that subscribe to them.

The code that runs a machine publishes into one `Hub`; each subscriber has a bounded queue.  Publishing
never waits: a subscriber that does not read in time loses events, and `Lost` takes their place.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Hashable

    from hfsched.runtime.base import Runtime

__all__ = [
    "QUEUE_MAX",
    "Aborted",
    "ClientConnected",
    "ClientDisconnected",
    "Ended",
    "Event",
    "Hub",
    "Lost",
    "Resumed",
    "Started",
    "Subscription",
    "Suspended",
    "SwapChanged",
    "SwapMoved",
    "encode",
]

QUEUE_MAX = 1000  # events; more than describe the state of any machine


class _Event(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", kw_only=True
):
    pass


class Started(_Event, frozen=True, tag="started"):
    """The vCPUs have been started; `version` is that of hfsched."""

    machine: str
    version: str
    vms: tuple[str, ...]


class Aborted(_Event, frozen=True, tag="aborted"):
    """A VM has ended, for a reason of one line."""

    vm: str
    reason: str


class Suspended(_Event, frozen=True, tag="suspended"):
    """A holder keeps the machine suspended, alone or with others."""

    holder: str


class Resumed(_Event, frozen=True, tag="resumed"):
    """A holder no longer keeps the machine suspended; it runs when none is left."""

    holder: str


class SwapChanged(_Event, frozen=True, tag="swap"):
    """Swap is in another state (`hfsched.swap.protocol.messages.State`)."""

    state: str


class SwapMoved(_Event, frozen=True, tag="swap-moved"):
    """A move of swap has ended: enable, trim, out or disable; `error` is why it did not come to its end.

    `pages` is how many were moved in `ms`, `state` the state after it.
    """

    move: str
    state: str
    pages: Annotated[int, Meta(ge=0)]
    ms: Annotated[int, Meta(ge=0)]
    error: str


class ClientConnected(_Event, frozen=True, tag="connected"):
    """A host program has connected to a VM's port; `host_port` is the program's, -1 without framing.

    `client` numbers the connections of the machine.
    """

    client: int
    vm: str
    port: Annotated[int, Meta(ge=0)]
    host_port: int


class ClientDisconnected(_Event, frozen=True, tag="disconnected"):
    """The connection of a host program to a VM's port has ended; `reason` is empty if the program ended it."""

    client: int
    vm: str
    port: Annotated[int, Meta(ge=0)]
    reason: str = ""


class Lost(_Event, frozen=True, tag="lost"):
    """Here the subscriber's queue was full, and `count` events were lost."""

    count: Annotated[int, Meta(ge=1)]


class Ended(_Event, frozen=True, tag="ended"):
    """The machine is about to end; this is the last event."""


Event: TypeAlias = (
    Started
    | Aborted
    | Suspended
    | Resumed
    | SwapChanged
    | SwapMoved
    | ClientConnected
    | ClientDisconnected
    | Lost
    | Ended
)


def encode(event: Event) -> bytes:
    """Return an event as a packet."""
    return msgspec.json.encode(event)


class Subscription:
    """One subscriber's queue, made by `Hub.subscribe`; `filled` is set while `take` has something."""

    def __init__(self, hub: Hub, number: int, events: list[Event]) -> None:
        self._hub = hub
        self._queue = deque(events)
        self._lost = 0
        self.filled = hub.runtime.event(f"control.events.{number}")
        if events:
            self.filled.set()

    def take(self) -> list[Event]:
        """Return the events that have come, in their order; does not wait."""
        with self._hub.lock:
            self._note_loss()
            events = list(self._queue)
            self._queue.clear()
            self.filled.clear()
        return events

    def close(self) -> None:
        """End the subscription; `filled` is not used any more."""
        self._hub.unsubscribe(self)
        self.filled.close()

    def _offer(self, event: Event) -> None:
        """Queue an event if there is space; under the hub's lock."""
        if len(self._queue) >= QUEUE_MAX:
            self._lost += 1
            return
        self._note_loss()
        self._queue.append(event)
        self.filled.set()

    def _note_loss(self) -> None:
        if self._lost:
            self._queue.append(Lost(count=self._lost))
            self._lost = 0


class Hub:
    """Where a machine's events are published.  Any task may call any method; none waits.

    A subscription begins with the events that describe the present state: the start, VMs that have
    ended, holders of the suspension, connected clients, and the state of swap as far as it is known.
    `watched` is set while there is a subscriber.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.lock = runtime.lock("control.events", state=self.key)
        self.watched = runtime.event("control.watched")
        self._subscriptions: list[Subscription] = []
        self._count = 0
        self._state: dict[Hashable, Event] = {}

    def key(self) -> object:
        """Return all that the lock guards."""
        queues = tuple((tuple(each._queue), each._lost) for each in self._subscriptions)
        return (queues, self._count, tuple(self._state.items()))

    def publish(self, event: Event) -> None:
        """Queue an event for every subscriber; a swap state that has not changed is no event."""
        with self.lock:
            if not self._keep(event):
                return
            for subscription in self._subscriptions:
                subscription._offer(event)

    def note_hold(self, holder: str, held: bool) -> None:  # noqa: FBT001 - a callback
        """Publish that a holder has suspended the machine, or resumes it."""
        change = Suspended if held else Resumed
        self.publish(change(holder=holder))

    def note_client(
        self,
        client: int,
        vm: str,
        port: int,
        host_port: int,
        reason: str | None,
    ) -> None:
        """Publish that a client has connected to a VM's port (None), or why its connection has ended."""
        if reason is None:
            self.publish(ClientConnected(client=client, vm=vm, port=port, host_port=host_port))
        else:
            self.publish(ClientDisconnected(client=client, vm=vm, port=port, reason=reason))

    def subscribe(self) -> Subscription:
        """Return a new subscriber's queue; the caller closes it."""
        with self.lock:
            if not self._subscriptions:
                self._state.pop("swap", None)  # without subscribers it is not followed
            self._count += 1
            subscription = Subscription(self, self._count, list(self._state.values()))
            self._subscriptions.append(subscription)
            self.watched.set()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Queue nothing more for a subscriber; see `Subscription.close`."""
        with self.lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
            if not self._subscriptions:
                self.watched.clear()

    def _keep(self, event: Event) -> bool:
        """Update the events that describe the present state; return whether this one is news."""
        state = self._state
        match event:
            case Started():
                state["started"] = event
            case Aborted(vm=vm):
                state["aborted", vm] = event
            case Suspended(holder=holder):
                state["suspended", holder] = event
            case Resumed(holder=holder):
                state.pop(("suspended", holder), None)
            case SwapChanged():
                if state.get("swap") == event:
                    return False
                state["swap"] = event
            case ClientConnected(client=client):
                state["client", client] = event
            case ClientDisconnected(client=client):
                state.pop(("client", client), None)
        return True
