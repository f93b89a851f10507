"""Clients that do not read, at every interleaving: the deadline on what waits for one, and its session."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfsched.control import wire
from hfsched.control.pusher import Pusher, Timing
from hfsched.control.session import Session
from hfsched.explore.execution import Result, search
from hfsched.explore.foreign import XConnection
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.mailbox import ports
from hfsched.mailbox.ports import Ports
from hfsched.runtime.base import ChannelClosedError
from hfsched.scheduler.endpoint import Endpoint

if TYPE_CHECKING:
    import pytest

LIMIT = 100  # ns, of the explorer's time
FOR_EVER = 1 << 60
PACKETS = 3
DEAF, BRISK = 0, 1  # their host ports


@dataclass(frozen=True)
class Case:
    """A scenario of `tasks`, which return what must hold at the end."""

    tasks: Callable[[ExploreRuntime], Callable[[], None]]
    name: str = "case"

    def build(self, runtime: ExploreRuntime) -> World:
        return World(self.tasks(runtime))


def explore(tasks: Callable[[ExploreRuntime], Callable[[], None]]) -> Result:
    result = search(Case(tasks), Exhaustive())
    assert result.failure is None, str(result.failure.failure)
    assert result.complete
    return result


def test_a_client_is_given_up_only_while_something_is_unread() -> None:
    """The socket has room for one packet.  The reader may be as slow as the explorer likes."""
    outcomes: set[bool] = set()

    def tasks(runtime: ExploreRuntime) -> Callable[[], None]:
        mine, theirs = runtime.connection("client", capacity=1)
        closing = runtime.event("closing")
        late: list[tuple[int, int]] = []
        sent: list[bool] = []
        got: list[bytes | None] = []
        began = 0

        def give_up() -> None:
            late.append((runtime.time - began, len(sent) - len(got)))

        def write() -> None:
            nonlocal began
            pusher = Pusher(runtime, mine, closing, LIMIT, give_up)
            for _ in range(PACKETS):
                began = runtime.time
                sent.append(pusher.push(b"x"))
                if not sent[-1]:
                    mine.close()
                    return

        def read() -> None:
            for _ in range(PACKETS):
                runtime.sleep_until(runtime.now() + 1)
                got.append(theirs.recv(9))

        def check() -> None:
            outcomes.add(bool(late))
            if late:
                (waited, unread), *more = late
                assert waited >= LIMIT
                assert unread == 1
                assert not more
                assert sent == [True] * (len(sent) - 1) + [False]
            else:
                assert got == [b"x"] * PACKETS

        runtime.spawn("writer", write)
        runtime.spawn("reader", read)
        return check

    assert explore(tasks).executions > 1
    assert outcomes == {False, True}


class Machine:
    """Two open ports of one VM, which has no mailbox."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        self.ports = Ports(runtime)
        self.ports.add(1, raw=False)

    def vm_names(self) -> list[str]:
        return ["a"]

    def port_number(self, vm: str, port: int | str) -> int:
        assert isinstance(port, int)
        return port

    def endpoint(self, vm: str, port: int, local: int | None = None) -> Endpoint:
        outbox: Any = None
        return Endpoint(outbox, self.ports.open(1, local), port)


def test_a_vm_goes_on_after_a_client_that_never_reads_and_the_others_lose_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At every interleaving: the deaf client finds its reason, and the other one all its messages."""
    monkeypatch.setattr(ports, "QUEUE_MAX", 1)
    regular: list[int] = []

    def tasks(runtime: ExploreRuntime) -> Callable[[], None]:
        machine = Machine(runtime)
        closing = runtime.event("closing")
        ended: list[str] = []
        got: list[bytes] = []
        put: list[bool] = []
        welcomed = [runtime.event(f"welcomed.{local}") for local in (DEAF, BRISK)]

        def serve(name: str, connection: XConnection, limit: int) -> None:
            def note(_vm: str, _port: int, _local: int, reason: str | None) -> None:
                if reason is not None:
                    ended.append(f"{name}: {reason[:16]}")

            def name_vm(vm: str) -> None:
                session.vm = vm

            session = Session(
                runtime,
                machine,
                ("m", name),
                connection,
                closing=closing,
                name_vm=name_vm,
                admit=lambda _hello: None,
                on_idle=lambda: None,
                on_client=note,
                on_give_up=lambda _text: None,
                timing=Timing(FOR_EVER, limit),
            )
            runtime.spawn(f"{name}.reader", session.run)

        def client(local: int, end: XConnection, messages: int) -> None:
            with suppress(ChannelClosedError):  # the clock has reached the deadline for its hello
                end.send(wire.Hello("a", 1, local).encode())
                end.recv(wire.ANSWER_MAX)
            welcomed[local].set()
            for _ in range(messages):
                packet = end.recv(99)
                assert packet is not None
                got.append(packet)
            if messages:
                end.close()

        def vm() -> None:
            for event in welcomed:
                event.wait()
            messages = [ports.frame(1, local, b"x") for local in (*[DEAF] * 5, BRISK)]
            put.extend(machine.ports.put(1, message) for message in messages)

        deaf, at_deaf = runtime.connection("deaf", capacity=2)
        brisk, at_brisk = runtime.connection("brisk", capacity=1 << 10)
        serve("deaf", at_deaf, LIMIT)
        serve("brisk", at_brisk, FOR_EVER)
        runtime.spawn("client.deaf", lambda: client(DEAF, deaf, 0))
        runtime.spawn("client.brisk", lambda: client(BRISK, brisk, 1))
        runtime.spawn("vm", vm)

        def check() -> None:
            assert put == [True] * 6 or runtime.time >= FOR_EVER, "the VM is stuck"
            if runtime.time >= FOR_EVER:  # the explorer's clock may also outrun the one that reads
                return
            regular.append(1)
            assert got == [wire.DATA + b"x"]
            assert sorted(ended) == ["brisk: ", "deaf: nothing was read"]

        return check

    result = search(Case(tasks), make("random", 1), until=lambda so_far: so_far.executions >= 1000)
    assert result.failure is None, str(result.failure.failure)
    assert len(regular) > 50, "nearly all executions were beside the point"
