"""Events of a machine: the hub that they are published to, and the subscribers of the control socket."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
from progress import QUIET

from hfsched.control import commands, events, runtime_dir, wire
from hfsched.control.command_client import find_machine, subscribe
from hfsched.control.command_server import CommandServer
from hfsched.control.commands import EventsSubscribe, MachineStatus, Refused, Subscribed
from hfsched.control.events import (
    QUEUE_MAX,
    Aborted,
    ClientConnected,
    ClientDisconnected,
    Ended,
    Event,
    Hub,
    Lost,
    Resumed,
    Started,
    Subscription,
    Suspended,
    SwapChanged,
    SwapMoved,
)
from hfsched.control.runtime_dir import claim
from hfsched.control.swap_watch import SwapWatch
from hfsched.errors import UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.suspension import Suspension
from hfsched.scheduler.userhold import UserHold
from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.messages import Moved, State, Status
from hfsched.vmm.report import SwapFault, VmState
from hfsched.vmm.snapshots import Snapshots

from .harness import REPOSITORY, WITHIN, Harness, runtime_directory

if TYPE_CHECKING:
    from hfsched.vmm.swapping import MachineSwap
    from hfsched.vmm.utilities import MachineServices

STARTED = Started(machine="m", version="1", vms=("a", "b"))
DEAD = Aborted(vm="b", reason="it has ended")
CONNECTED = ClientConnected(client=3, vm="a", port=1, host_port=7)
DISCONNECTED = ClientDisconnected(client=3, vm="a", port=1)


@pytest.fixture
def hub() -> Hub:
    return Hub(ThreadRuntime())


# The hub.


def test_subscribers_get_what_is_published_in_its_order(hub: Hub) -> None:
    subscriptions = [hub.subscribe(), hub.subscribe()]
    assert not subscriptions[0].filled.is_set()
    for event in (STARTED, DEAD, Suspended(holder="swap"), Resumed(holder="swap")):
        hub.publish(event)
    assert subscriptions[0].filled.is_set()
    for subscription in subscriptions:
        assert subscription.take() == [
            STARTED,
            DEAD,
            Suspended(holder="swap"),
            Resumed(holder="swap"),
        ]
        assert not subscription.filled.is_set()
        assert subscription.take() == []
        subscription.close()
    hub.publish(STARTED)


def test_a_subscription_begins_with_the_present_state(hub: Hub) -> None:
    for event in (
        STARTED,
        DEAD,
        Suspended(holder="swap"),
        Suspended(holder="job control"),
        CONNECTED,
        Resumed(holder="swap"),
    ):
        hub.publish(event)
    subscription = hub.subscribe()
    assert subscription.filled.is_set()
    assert subscription.take() == [STARTED, DEAD, Suspended(holder="job control"), CONNECTED]
    hub.publish(DISCONNECTED)
    hub.publish(Resumed(holder="job control"))
    assert subscription.take() == [DISCONNECTED, Resumed(holder="job control")]
    assert hub.subscribe().take() == [STARTED, DEAD]


def test_a_swap_state_is_an_event_when_it_changes(hub: Hub) -> None:
    subscription = hub.subscribe()
    for state in ("ready", "ready", "pending", "pending", "ready"):
        hub.publish(SwapChanged(state=state))
    assert [each.state for each in subscription.take() if isinstance(each, SwapChanged)] == [
        "ready",
        "pending",
        "ready",
    ]
    assert hub.subscribe().take() == [SwapChanged(state="ready")]


def test_a_swap_state_is_forgotten_when_the_last_subscriber_leaves(hub: Hub) -> None:
    first = hub.subscribe()
    hub.publish(SwapChanged(state="pending"))
    assert hub.watched.is_set()
    first.close()
    assert not hub.watched.is_set()
    second = hub.subscribe()
    assert second.take() == []
    hub.publish(SwapChanged(state="pending"))
    assert second.take() == [SwapChanged(state="pending")]


def test_a_full_queue_loses_events_and_their_number_takes_their_place(hub: Hub) -> None:
    slow = hub.subscribe()
    numbered = [Suspended(holder=str(number)) for number in range(QUEUE_MAX + 5)]
    for event in numbered:
        hub.publish(event)
    assert slow.take() == [*numbered[:QUEUE_MAX], Lost(count=5)]
    hub.publish(DEAD)
    assert slow.take() == [DEAD]


def test_publishing_waits_for_no_subscriber(hub: Hub) -> None:
    hub.subscribe()
    publishers = [
        threading.Thread(target=lambda: [*map(hub.publish, [DEAD] * QUEUE_MAX)]) for _ in range(4)
    ]
    for each in publishers:
        each.start()
    for each in publishers:
        each.join(WITHIN)
        assert not each.is_alive()


def test_every_event_is_one_json_object() -> None:
    for event, text in (
        (STARTED, '{"event":"started","machine":"m","version":"1","vms":["a","b"]}'),
        (DEAD, '{"event":"aborted","vm":"b","reason":"it has ended"}'),
        (Suspended(holder="x"), '{"event":"suspended","holder":"x"}'),
        (Resumed(holder="x"), '{"event":"resumed","holder":"x"}'),
        (SwapChanged(state="pending"), '{"event":"swap","state":"pending"}'),
        (CONNECTED, '{"event":"connected","client":3,"vm":"a","port":1,"host_port":7}'),
        (DISCONNECTED, '{"event":"disconnected","client":3,"vm":"a","port":1,"reason":""}'),
        (Lost(count=5), '{"event":"lost","count":5}'),
        (Ended(), '{"event":"ended"}'),
    ):
        assert events.encode(event).decode() == text


# The state of swap.


class FakeSwap:
    """Swap: its monitor fails once, and then reports one state after another."""

    def __init__(self) -> None:
        self.states = [State.READY, State.PENDING, State.PENDING, State.ACTIVE]
        self.asked = 0

    def status(self, deadline: int | None = None) -> Status:
        assert deadline is not None
        self.asked += 1
        if self.asked == 1:
            raise SwapError("the monitor is busy")
        return Status(state=self.states.pop(0) if len(self.states) > 1 else self.states[0])


def test_the_state_of_swap_is_followed_while_there_is_a_subscriber(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hfsched.control.swap_watch.INTERVAL", 1)
    swap = FakeSwap()
    watch = SwapWatch(hub.runtime, swap, hub)
    assert swap.asked == 0
    subscription = hub.subscribe()
    seen: list[Event] = []
    while len(seen) < 3:
        assert subscription.filled.wait(hub.runtime.now() + int(QUIET * 1e9))
        seen += subscription.take()
    assert seen == [SwapChanged(state=state) for state in ("ready", "pending", "active")]
    assert watch.close(hub.runtime.now() + int(QUIET * 1e9)) == []
    subscription.close()


class MovingSwap:
    """Swap that has made some moves: by each monitor, how many at each time that it is asked."""

    def __init__(self, *monitors: list[int]) -> None:
        self.monitors = list(monitors)
        self.count = 0

    def status(self, deadline: int | None = None) -> Status:
        del deadline
        if not self.monitors[0] and len(self.monitors) > 1:
            self.monitors.pop(0)
        counts = self.monitors[0]
        self.count = counts.pop(0) if counts else self.count
        return Status(state=State.ACTIVE, moved=tuple(map(moved, range(1, self.count + 1))))


def moved(number: int) -> Moved:
    return Moved(number=number, move="out", state=State.ACTIVE, pages=number, ms=7)


def test_each_move_of_swap_is_one_event_also_after_another_monitor_came(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hfsched.control.swap_watch.INTERVAL", 1)
    watch = SwapWatch(hub.runtime, MovingSwap([2, 2, 3, 5, 5], [0, 1]), hub)
    subscription = hub.subscribe()
    seen: list[Event] = []
    while len(seen) < 5:
        assert subscription.filled.wait(hub.runtime.now() + int(QUIET * 1e9))
        seen += [each for each in subscription.take() if isinstance(each, SwapMoved)]
        if SwapMoved(move="out", state="active", pages=1, ms=7, error="") in seen:
            break
    # The first two were before there was a subscriber.
    assert [each.pages for each in seen if isinstance(each, SwapMoved)] == [3, 4, 5, 1]
    assert watch.close(hub.runtime.now() + int(QUIET * 1e9)) == []
    subscription.close()


# The socket.


class Machine:
    name = "m"
    swap: MachineSwap | None = None
    user_hold: UserHold
    snapshots: Snapshots
    services: MachineServices

    def discard(self, name: str, ipa: int, size: int, deadline: int | None = None) -> None:
        raise UserError(f"{name} has no memory to discard: {ipa:#x}, {size:#x}, {deadline is None}")

    def faults(self, since: int = 0) -> list[SwapFault]:
        return [SwapFault(since, 0, "a", 0, "zero", 0)]

    def vm_names(self) -> list[str]:
        return ["a"]

    def vm_states(self) -> list[VmState]:
        return [VmState("a", ("runs",), None)]

    def suspended_by(self) -> tuple[str, ...]:
        return ()


class Served:
    def __init__(self, listener: socket.socket, path: str) -> None:
        self.runtime = ThreadRuntime()
        self.hub = Hub(self.runtime)
        self.path = path
        adopted = self.runtime.adopt_listener("control", listener.detach())
        machine = Machine()
        machine.user_hold = UserHold(self.runtime, Suspension(self.runtime))
        self.server = CommandServer(self.runtime, machine, self.hub, adopted)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(WITHIN)
        sock.connect(self.path)
        return sock

    def subscriber(self) -> socket.socket:
        sock = self.connect()
        sock.send(commands.encode(EventsSubscribe()))
        assert commands.decode_answer(sock.recv(1 << 16)) == Subscribed()
        return sock


@pytest.fixture
def served() -> Iterator[Served]:
    with runtime_directory(), claim("m") as directory:
        made = Served(directory.listen("control"), str(directory.path / "control"))
        yield made
        assert made.server.close() == []


def heard(sock: socket.socket) -> dict[str, object]:
    event = json.loads(sock.recv(1 << 16))
    assert isinstance(event, dict)
    return event


def test_a_subscriber_gets_events_and_its_requests_are_still_answered(served: Served) -> None:
    served.hub.publish(STARTED)
    with served.subscriber() as sock:
        assert heard(sock)["event"] == "started"
        sock.send(commands.encode(MachineStatus()))
        assert heard(sock)["is"] == "machine"
        served.hub.publish(DEAD)
        assert heard(sock) == {"event": "aborted", "vm": "b", "reason": "it has ended"}
        sock.send(commands.encode(EventsSubscribe()))
        answer = commands.decode_answer(sock.recv(1 << 16))
        assert answer == Refused(text="this connection has subscribed already")
        served.hub.publish(DEAD)
        assert heard(sock)["event"] == "aborted"


def test_the_last_event_is_the_end_of_the_machine(served: Served) -> None:
    with served.subscriber() as sock:
        served.hub.publish(DEAD)
        assert served.server.close() == []
        assert [heard(sock)["event"] for _ in range(2)] == ["aborted", "ended"]
        assert sock.recv(1) == b""


def test_a_subscriber_that_leaves_ends_its_subscription(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    unsubscribe = served.hub.unsubscribe

    def noted(subscription: Subscription) -> None:
        unsubscribe(subscription)
        ended.set()

    monkeypatch.setattr(served.hub, "unsubscribe", noted)
    with served.subscriber():
        assert served.hub.watched.is_set()
    assert ended.wait(WITHIN)
    assert not served.hub.watched.is_set()
    served.hub.publish(DEAD)


def test_a_subscriber_that_does_not_read_loses_events_and_delays_no_other(
    served: Served,
) -> None:
    with served.subscriber() as slow, served.subscriber() as quick:
        sent = 0
        while (lost := _lost_by(served.hub)) < 10:
            served.hub.publish(Aborted(vm="b", reason=str(sent)))
            sent += 1
            assert heard(quick) == {"event": "aborted", "vm": "b", "reason": str(sent - 1)}
        assert lost == 10
        got = 0
        while (event := heard(slow))["event"] == "aborted":
            assert event["reason"] == str(got)
            got += 1
        assert event == {"event": "lost", "count": sent - got}


def _lost_by(hub: Hub) -> int:
    with hub.lock:
        return max(each._lost for each in hub._subscriptions)


def test_a_subscriber_that_does_not_read_does_not_delay_the_end(served: Served) -> None:
    with served.subscriber():
        while _lost_by(served.hub) == 0:
            served.hub.publish(DEAD)
        assert served.server.close() == []


def test_the_one_machine_that_runs_need_not_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    within = time.monotonic() + WITHIN
    with runtime_directory() as folder:
        monkeypatch.setattr(runtime_dir, "roots", lambda: [folder / "hfsched"])
        with pytest.raises(UserError, match=r"^no machine is running$"):
            find_machine(None, within)
        with pytest.raises(UserError, match=r"^no machine 'a': no machine is running$"):
            find_machine("a", within)
        with claim("a") as a, a.listen("ports"), a.listen("control"):
            assert find_machine(None, within) == a.path / "control"
            with claim("b") as b:
                b.listen("ports").close()  # as one that was killed leaves it
                b.listen("control").close()
                assert find_machine(None, within) == a.path / "control"
            with claim("b") as b, b.listen("ports"), b.listen("control"):
                with pytest.raises(UserError, match=r"^several machines, name one: running: a, b$"):
                    find_machine(None, within)
                with pytest.raises(UserError, match=r"^no machine 'c': running: a, b$"):
                    find_machine("c", within)
                assert find_machine("b", within) == b.path / "control"


def test_the_client_yields_events_until_the_machine_ends(served: Served) -> None:
    served.hub.publish(STARTED)
    stream = subscribe(Path(served.path), time.monotonic() + WITHIN)
    assert next(stream)["event"] == "started"
    assert served.server.close() == []
    assert list(stream) == [{"event": "ended"}]


def test_the_client_takes_events_of_later_machines_and_refuses_what_is_none() -> None:
    with runtime_directory() as folder:
        path = folder / "s"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()

            def serve() -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(1024)
                    peer.send(b'{"is":"subscribed"}')
                    peer.send(b'{"event":"moon","phase":3}')
                    peer.send(b'["event"]')

            server = threading.Thread(target=serve)
            server.start()
            stream = subscribe(Path(path), time.monotonic() + WITHIN)
            assert next(stream) == {"event": "moon", "phase": 3}
            with pytest.raises(UserError, match=r'not an event: \["event"\]$'):
                next(stream)
            server.join(WITHIN)


# The ports.


def test_clients_of_ports_are_events() -> None:
    hub = Hub(ThreadRuntime())
    subscription = hub.subscribe()
    with (
        runtime_directory(),
        Harness("demo", {"alpha": "echo"}, on_client=hub.note_client) as harness,
    ):
        with harness.call(wire.Ask("alpha").encode()) as asking:
            assert json.loads(asking.recv(1 << 16))["ok"]
        with harness.call(wire.Hello("alpha", 5, 9).encode()) as sock:
            assert json.loads(sock.recv(1 << 16))["host_port"] == 9
            (connected,) = subscription.take()
            assert isinstance(connected, ClientConnected)
            assert (connected.vm, connected.port, connected.host_port) == ("alpha", 5, 9)
        harness.until(subscription.filled.is_set)
        assert subscription.take() == [
            ClientDisconnected(client=connected.client, vm="alpha", port=5)
        ]


# The documentation.


def test_the_documentation_has_every_command_and_every_event() -> None:
    text = (REPOSITORY / "docs" / "control.md").read_text()
    commanding, _, listening = text.partition("\n## Events\n")
    rows = [line for line in commanding.splitlines() if line.startswith("| `")]
    for group, requests in commands.GROUPS.items():
        for each in get_args(requests) or (requests,):
            name = each.__struct_config__.tag
            (row,) = [row for row in rows if f"| `{group}` |" in row and f"`{name}`" in row]
            fields = set(each.__struct_fields__) - {"version", "group", "within_ms"}
            assert all(f"`{field}`" in row for field in fields)
    rows = [line for line in listening.splitlines() if line.startswith("| `")]
    for event in get_args(Event):
        (row,) = [row for row in rows if f"`{event.__struct_config__.tag}`" in row.split("|")[1]]
        assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == set(event.__struct_fields__)
