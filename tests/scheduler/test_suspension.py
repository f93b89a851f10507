"""The suspend suspension: its order, its failures, and two who suspend at once; all interleavings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from hfsched.errors import InternalError
from hfsched.explore.execution import search
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World as Explored
from hfsched.explore.stepwise import Stepwise
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.mailbox.mirror import Entry, Mirror
from hfsched.scheduler.outbox import Sent
from hfsched.scheduler.suspension import (
    THROTTLE_MAX,
    Holder,
    Step,
    SuspendError,
    SuspendThrottle,
    Suspension,
)

from .guests import sink, talker
from .harness import Guest, Harness, port_message


class Machine:
    """Three things to stop; `late` is the one that never stops, `broken` the one that raises."""

    def __init__(self, late: str = "", broken: str = "") -> None:
        self.late = late
        self.broken = broken
        self.did: list[str] = []
        self.steps = [Step(name, self._stop(name), self._go_on(name)) for name in "abc"]

    def _stop(self, name: str) -> Callable[[int | None], bool]:
        def stop(_deadline: int | None) -> bool:
            self.did.append(f"stop {name}")
            if name == self.broken:
                raise OSError(name)
            return name != self.late

        return stop

    def _go_on(self, name: str) -> Callable[[], None]:
        return lambda: self.did.append(f"go on {name}")


def test_steps_are_taken_in_order_and_undone_in_reverse() -> None:
    machine = Machine()
    suspension = Suspension(Stepwise(), machine.steps)
    for _ in range(2):
        machine.did.clear()
        with suspension.held("test"):
            assert machine.did == ["stop a", "stop b", "stop c"]
        assert machine.did[3:] == ["go on c", "go on b", "go on a"]


def test_holders_are_reported_when_they_suspend_and_before_they_resume() -> None:
    machine = Machine(late="c")
    suspension = Suspension(Stepwise(), machine.steps)
    suspension.on_hold = lambda holder, held: machine.did.append(f"{holder} {held}")
    with pytest.raises(SuspendError):
        suspension.suspend("first", 100)
    assert "first True" not in machine.did
    machine.late = ""
    machine.did.clear()
    with suspension.held("first"):
        with suspension.held("second"):
            assert machine.did == ["stop a", "stop b", "stop c", "first True", "second True"]
        assert machine.did[5:] == ["second False"]
    assert machine.did[6:] == ["first False", "go on c", "go on b", "go on a"]


@pytest.mark.parametrize("kind", ["late", "broken"])
def test_a_step_that_fails_is_undone_with_those_before(kind: str) -> None:
    machine = Machine(**{kind: "b"})
    suspension = Suspension(Stepwise(), machine.steps)
    with pytest.raises(SuspendError if kind == "late" else OSError, match="b"):
        suspension.suspend("test", 100, frozen=True)
    assert machine.did == ["stop a", "stop b", "go on b", "go on a"]
    with suspension.writing("other", 0):
        pass
    machine.late = machine.broken = ""
    suspension.suspend("test", 100)  # nobody holds it


class Timed(Stepwise):
    """A time that passes when told, and what was slept."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[int] = []

    def sleep_until(self, deadline: int) -> None:
        self.slept.append(deadline - self.time)
        self.advance(deadline - self.time)


@pytest.mark.parametrize(
    ("stood", "passes", "limit", "slept"),
    [
        (700, 0, None, [700]),
        (700, 300, None, [400]),
        (700, 700, None, []),
        (10 * THROTTLE_MAX, 0, None, [THROTTLE_MAX]),
        (700, 0, 200, [200]),
    ],
)
def test_between_two_suspensions_a_machine_runs_as_long_as_it_stood(
    stood: int, passes: int, limit: int | None, slept: list[int]
) -> None:
    world = Timed()
    machine = Machine()
    suspension = Suspension(world, [SuspendThrottle(world).step, *machine.steps])
    with suspension.held("test"):
        assert world.slept == []
        world.advance(stood)
    world.advance(passes)
    with suspension.held("test", None if limit is None else world.time + limit):
        assert world.slept == slept


def test_an_undo_that_raises_does_not_keep_the_others_stopped() -> None:
    machine = Machine()

    def broken() -> None:
        raise OSError("c")

    machine.steps[2] = Step("c", machine.steps[2].pause, broken)
    suspension = Suspension(Stepwise(), machine.steps)
    suspension.suspend("test")
    with pytest.raises(OSError, match="c"):
        suspension.resume("test")
    assert machine.did[3:] == ["go on b", "go on a"]
    suspension.suspend("test")


def waiting(suspension: Suspension) -> int:
    """Return how many wait for a change, as its key tells."""
    key: Any = suspension.key()
    count: int = key[-1][0]
    return count


def test_the_second_gives_up_at_its_deadline() -> None:
    world = Stepwise()
    suspension = Suspension(world, Machine().steps)
    suspension.suspend("test")
    with pytest.raises(SuspendError, match="the suspension by test did not end in time"):
        suspension.suspend("test", world.now())
    assert waiting(suspension) == 0
    suspension.resume("test")
    suspension.suspend("test", world.now())


def test_another_holder_joins_a_standing_suspension_at_once() -> None:
    world, machine = Stepwise(), Machine()
    suspension = Suspension(world, machine.steps)
    suspension.suspend("terminal")
    suspension.suspend("swap", world.now(), frozen=True)
    assert suspension.holders == ("terminal", "swap")
    did = list(machine.did)
    suspension.resume("terminal")
    assert machine.did == did, "it is still held"
    suspension.resume("swap")
    assert machine.did[3:] == ["go on c", "go on b", "go on a"]
    with pytest.raises(InternalError, match="swap does not hold"):
        suspension.resume("swap")


def test_writes_wait_for_another_holders_frozen_memory() -> None:
    world = Stepwise()
    suspension = Suspension(world, Machine().steps)
    with suspension.held("debugger"):
        with suspension.held("swap", frozen=True):
            with (
                pytest.raises(SuspendError, match="swap keeps guest memory as it is"),
                suspension.writing("debugger", world.now()),
            ):
                pass
            with suspension.writing("swap", world.now()):
                pass
        with suspension.writing("debugger", world.now()):
            with pytest.raises(SuspendError):
                suspension.suspend("swap", world.now(), frozen=True)
            suspension.suspend("snapshot", world.now())
        suspension.resume("snapshot")
        suspension.suspend("swap", world.now(), frozen=True)
        suspension.resume("swap")


@dataclass(frozen=True)
class Joined:
    """A holder keeps the machine suspended, perhaps after a write, until another has joined it."""

    writes: bool
    name: str = "joined"

    def build(self, runtime: ExploreRuntime) -> Explored:
        suspension = Suspension(runtime, Machine().steps)
        joined = runtime.event("joined")
        ended: list[str] = []

        def hold() -> None:
            with suspension.held("first"):
                if self.writes:
                    with suspension.writing("first"):
                        pass
                joined.wait()
            ended.append("first")

        def join() -> None:
            with suspension.held("second", frozen=self.writes):
                joined.set()
            ended.append("second")

        runtime.spawn("first", hold)
        runtime.spawn("second", join)

        def check() -> None:
            assert sorted(ended) == ["first", "second"], f"only {ended} ended"

        return Explored(check)


@pytest.mark.parametrize("writes", [False, True])
def test_a_holder_joins_while_the_first_begins_or_writes(writes: bool) -> None:
    result = search(Joined(writes), Exhaustive())
    assert result.failure is None, result.failure


@pytest.mark.parametrize("frozen", [False, True])
def test_a_holder_as_an_object(frozen: bool) -> None:
    world, machine = Stepwise(), Machine()
    suspension = Suspension(world, machine.steps)
    holder = Holder(suspension, "swap", frozen=True) if frozen else Holder(suspension, "swap")
    holder.suspend()
    assert list(suspension.holders) == ["swap"]
    suspension.suspend("other", world.now())
    try:
        with suspension.writing("other", world.now()):
            assert not frozen
    except SuspendError:
        assert frozen
    suspension.resume("other")
    holder.resume()
    assert list(suspension.holders) == []
    assert machine.did[-1] == "go on a"
    suspension.suspend("swap")
    with pytest.raises(SuspendError, match="did not end in time"):
        holder.suspend(world.now())


def test_a_step_is_taken_after_those_before_it() -> None:
    machine = Machine()
    first, second, _ = machine.steps
    suspension = Suspension(Stepwise(), [first])
    suspension.add(second)
    with suspension.held("test"):
        assert machine.did == ["stop a", "stop b"]
    assert machine.did[2:] == ["go on b", "go on a"]


# The driver's step.


@contextmanager
def resting() -> Iterator[tuple[Stepwise, Harness, Guest]]:
    """A harness with one guest, which waits for a message."""
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.settle()
        yield world, harness, guest


def test_host_senders_wait_for_the_end_of_a_suspension() -> None:
    with resting() as (world, harness, guest):
        assert harness.driver.suspend(0)
        sent: list[object] = []
        world.spawn("host", lambda: sent.append(guest.outbox.send(b"x")))
        assert world.go("host") == "asleep g.resumed"
        assert guest.outbox.try_send(b"y").name == "BUSY"
        assert guest.vm.mailbox.writable
        harness.driver.resume()
        world.settle()
        assert guest.notes == [b"x"]
        assert [each.name for each in sent] == ["SENT"]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Stopped:
    """A suspended machine is stopped, and suspended again; a sender came before that."""

    name: str = "stopped"

    def build(self, runtime: ExploreRuntime) -> Explored:
        mirror = Mirror(runtime, "g", 1)
        mirror.suspend()
        heard: list[Entry] = []

        def send() -> None:
            while (entry := mirror.begin_send()) is Entry.SUSPENDED:
                mirror.wait_resumed(None)
            heard.append(entry)

        def stop() -> None:
            mirror.stop()
            mirror.suspend()

        runtime.spawn("sender", send)
        runtime.spawn("stopper", stop)

        def check() -> None:
            assert heard == [Entry.ENDED]

        return Explored(check)


def test_a_sender_hears_of_a_stop_though_the_machine_is_suspended_again() -> None:
    result = search(Stopped(), Exhaustive())
    assert result.failure is None, result.failure
    assert result.complete


def test_a_sender_gives_up_at_its_deadline_during_a_suspension() -> None:
    with resting() as (world, harness, guest):
        assert harness.driver.suspend(0)
        assert guest.outbox.send(b"x", world.now()).name == "BUSY"
        assert guest.outbox.waiting() == 0


def test_a_suspension_waits_for_a_sender_that_has_begun() -> None:
    with resting() as (world, harness, guest):
        sent: list[object] = []
        world.spawn("host", lambda: sent.append(guest.outbox.send(b"x")))
        world.go("host", "sent 2")
        assert not harness.driver.suspend(0), "written, and not delivered yet"
        world.go("host")
        world.settle()
        assert harness.driver.suspend(0)
        harness.driver.resume()
        world.settle()
        assert guest.notes == [b"x"]


def test_a_sender_that_has_begun_is_waited_for_after_a_stop_too() -> None:
    with resting() as (world, harness, guest):
        sent: list[object] = []
        world.spawn("host", lambda: sent.append(guest.outbox.send(b"x")))
        world.go("host", "sent 2")
        guest.driven.mirror.stop()
        assert not harness.driver.wait_quiesced(world.now())
        world.settle()
        assert sent == [Sent.SENT]
        assert harness.driver.wait_quiesced(world.now())


def test_a_message_without_room_is_held_over_a_suspension() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        texts = [b"%d" % number for number in range(18)]
        guest = harness.vm("g", talker(2, 1, *[port_message(text, 1, 5) for text in texts]))
        harness.start()
        world.settle()
        assert harness.driver.suspend(0), "the thread that waits for room is in no RUN"
        port = harness.ports.open(2, 5)
        assert port.get(0) is not None
        world.settle()
        assert len(port.messages) == 15, "nothing is put meanwhile"
        harness.driver.resume()
        got = [b"0"]
        while True:
            world.settle()
            here = port.get(0)
            if here is None:
                break
            got.append(here.payload)
        assert got == texts
        assert guest.driven.counters[0].lost == 0


@pytest.mark.parametrize("size", [1, 4097])
def test_a_refused_try_holds_no_suspension_up(size: int) -> None:
    with resting() as (world, harness, guest):
        assert guest.outbox.try_send(b"x") is Sent.SENT
        with suppress(InternalError):  # it is full; and the second would not fit
            assert guest.outbox.try_send(bytes(size)) is Sent.BUSY
        world.settle()
        assert harness.driver.suspend(0)


def test_a_try_that_raises_holds_no_suspension_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError

    with resting() as (_, harness, guest):
        with monkeypatch.context() as patch:
            patch.setattr(harness.hypervisor.primary, "send", broken)
            with pytest.raises(MemoryError):
                guest.outbox.send(b"x")
        assert harness.driver.suspend(0)


def test_what_guests_send_is_no_sender_of_the_host() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        to = harness.vm("g", sink, raw=True)
        harness.vm("s", talker(3, 2, b"one", b"two"))
        harness.start()
        world.settle()
        assert to.notes == [b"one", b"two"]
        assert harness.driver.suspend(0)
