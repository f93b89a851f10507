"""The host's senders: in the order of arrival, nobody refused, nothing lost, nothing twice."""

from __future__ import annotations

import random
from functools import partial

import pytest

from hfsched.errors import InternalError, UserError
from hfsched.explore.objects import XEvent
from hfsched.explore.stepwise import Stepwise, WouldSleepError
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.ports import PAYLOAD_MAX
from hfsched.scheduler.outbox import Outbox, Sent

from .guests import echo, sink, spinner, talker
from .harness import Guest, Harness


@pytest.fixture
def world() -> Stepwise:
    return Stepwise()


def sender(
    world: Stepwise, guest: Guest, name: str, text: bytes, deadline: int | None = None
) -> list[Sent]:
    """Let a task send; what became of it comes into the list returned."""
    out: list[Sent] = []
    world.spawn(name, lambda: out.append(guest.outbox.send(text, deadline)))
    return out


def blocked(harness: Harness, world: Stepwise) -> Guest:
    """Return a guest that is about to read, with a full mailbox; its thread is paused."""
    guest = harness.vm("g", sink, raw=True)
    harness.start()
    world.settle()
    assert guest.outbox.send(b"first") is Sent.SENT
    assert guest.rx is RxState.RECEIVED
    return guest


def test_who_watches_for_stalls_is_told_that_a_sender_waits(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        before = harness.rests
        sender(world, guest, "s0", b"0")
        world.go("s0")
        assert harness.rests == before + 1


def test_a_send_to_an_empty_mailbox_does_not_wait(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.settle()
        for number in range(3):
            assert guest.outbox.send(b"%d" % number) is Sent.SENT
            world.settle()
        assert guest.notes == [b"0", b"1", b"2"]
        assert guest.outbox.accepted == 3
        assert guest.outbox.waiting() == 0


def test_senders_go_in_the_order_of_arrival(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        outcomes = [sender(world, guest, f"s{index}", b"%d" % index) for index in range(4)]
        for index in (0, 1, 2, 3):
            world.go(f"s{index}")
        assert guest.outbox.waiting() == 4
        for task in reversed(
            [task for task in world.tasks if task.act is None]
        ):  # however they are scheduled later
            world.go(task.name)
        world.settle()
        assert guest.notes == [b"first", b"0", b"1", b"2", b"3"]
        assert outcomes == [[Sent.SENT]] * 4
        assert guest.outbox.waiting() == 0


def test_a_late_sender_does_not_overtake_although_the_mailbox_is_empty(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        sender(world, guest, "s0", b"0")
        world.go("s0")
        world.go("g.0")  # reads; the mailbox is empty, and s0 told so, but not run yet
        assert guest.rx is RxState.EMPTY
        assert guest.outbox.try_send(b"late") is Sent.BUSY
        sender(world, guest, "s1", b"1")
        world.go("s1")
        world.settle()
        assert guest.notes == [b"first", b"0", b"1"]


def test_try_send_is_busy_at_a_full_mailbox_and_leaves_no_trace(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        assert guest.outbox.try_send(b"x") is Sent.BUSY
        assert guest.outbox.waiting() == 0
        assert guest.vm.mailbox.waiters == []
        world.settle()
        assert guest.outbox.try_send(b"x") is Sent.SENT
        world.settle()
        assert guest.notes == [b"first", b"x"]


def test_a_place_is_kept_between_two_tries(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        place = guest.outbox.place()
        assert place.try_send(b"0") is Sent.BUSY
        assert not place.room.is_set()
        later = sender(world, guest, "s1", b"1")
        world.go("s1")
        assert guest.outbox.waiting() == 2
        world.settle()
        assert guest.notes == [b"first"]
        assert place.room.is_set()
        assert place.try_send(b"another than before") is Sent.SENT
        world.settle()
        assert guest.notes == [b"first", b"another than before", b"1"]
        assert place.try_send(b"2") is Sent.SENT
        assert place.try_send(b"3") is Sent.BUSY
        assert not place.room.is_set(), "it would try again and again"
        place.leave()
        assert later == [Sent.SENT]
        assert guest.outbox.waiting() == 0


def test_a_place_behind_others_gets_its_turn(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        sender(world, guest, "s0", b"0")
        world.go("s0")
        place = guest.outbox.place()
        assert place.try_send(b"1") is Sent.BUSY
        assert place.try_send(b"1") is Sent.BUSY
        assert guest.outbox.waiting() == 2
        room = place.room
        world.settle()
        assert room.is_set()
        assert guest.notes == [b"first", b"0"]
        assert place.try_send(b"1") is Sent.SENT
        assert isinstance(room, XEvent)
        assert room.closer is not None, "its descriptor is not freed"
        world.settle()
        assert guest.notes == [b"first", b"0", b"1"]


def test_a_place_whose_try_fails_is_left(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.settle()
        place = guest.outbox.place()
        with pytest.raises(InternalError, match="5000 bytes cannot be sent"):
            place.try_send(bytes(5000))
        assert guest.outbox.waiting() == 0
        assert place.try_send(b"1") is Sent.SENT


@pytest.mark.parametrize("behind", [False, True])
def test_a_place_that_is_left_lets_others_send(world: Stepwise, *, behind: bool) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        if behind:
            sender(world, guest, "s0", b"0")
            world.go("s0")
        place = guest.outbox.place()
        assert place.try_send(b"x") is Sent.BUSY
        sender(world, guest, "s1", b"1")
        world.go("s1")
        place.leave()
        place.leave()
        world.settle()
        assert guest.notes == [b"first", *([b"0"] if behind else []), b"1"]
        assert place.try_send(b"y") is Sent.SENT
        world.settle()
        assert guest.notes[-1] == b"y"
        assert guest.outbox.waiting() == 0


def test_a_place_learns_of_the_end_of_a_suspension(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        world.settle()
        place = guest.outbox.place()
        assert harness.driver.suspend(world.now())
        assert place.try_send(b"x") is Sent.BUSY
        assert not place.room.is_set()
        harness.driver.resume()
        assert place.room.is_set()
        assert place.try_send(b"x") is Sent.SENT


def test_the_first_sender_gives_up_at_its_deadline(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        outcome = sender(world, guest, "s0", b"0", world.now() + 100)
        world.go("s0")
        world.advance(99)
        world.go("s0")
        assert outcome == []
        world.advance(1)
        world.go("s0")
        assert outcome == [Sent.BUSY]
        assert guest.outbox.waiting() == 0
        world.settle()
        assert guest.notes == [b"first"]


def test_a_deadline_that_has_passed_tries_once(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        assert guest.outbox.send(b"x", world.now()) is Sent.BUSY
        world.settle()
        assert guest.outbox.send(b"x", world.now()) is Sent.SENT


def test_a_sender_in_the_middle_gives_up_its_place(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        first = sender(world, guest, "s0", b"0")
        second = sender(world, guest, "s1", b"1", world.now() + 100)
        third = sender(world, guest, "s2", b"2")
        for name in ("s0", "s1", "s2"):
            world.go(name)
        world.advance(100)
        world.go("s1")
        assert second == [Sent.BUSY]
        assert guest.outbox.waiting() == 2
        world.settle()
        assert guest.notes == [b"first", b"0", b"2"]
        assert first == third == [Sent.SENT]


def test_a_sender_that_gives_up_does_not_try_out_of_turn(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        first = sender(world, guest, "s0", b"0")
        second = sender(world, guest, "s1", b"1", world.now() + 100)
        world.go("s0")
        world.go("s1")
        world.go("g.0")  # the mailbox is empty, and s0, who is first, told so
        world.advance(100)
        world.go("s1")
        assert second == [Sent.BUSY]
        world.settle()
        assert first == [Sent.SENT]
        assert guest.notes == [b"first", b"0"]


def test_a_sender_that_gives_up_wakes_nobody_before_his_turn(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        for index, deadline in enumerate((None, None, world.now() + 100)):
            sender(world, guest, f"s{index}", b"%d" % index, deadline)
            world.go(f"s{index}")
        world.advance(100)
        world.go("s2")
        assert world.go("s1") == "asleep g.turn"
        assert world.asleep() == ["s0", "s1"]
        world.settle()
        assert guest.notes == [b"first", b"0", b"1"]


def test_a_sender_that_gives_up_at_its_turn_passes_it_on(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        first = sender(world, guest, "s0", b"0", world.now() + 50)
        second = sender(world, guest, "s1", b"1", world.now() + 100)
        third = sender(world, guest, "s2", b"2")
        for name in ("s0", "s1", "s2"):
            world.go(name)
        world.advance(100)
        world.go("s1", "lock g.outbox")  # its deadline is over, and nobody knows yet
        world.go("s0")  # so is this one's: s1 is first now
        world.go("s1")
        assert first == second == [Sent.BUSY]
        assert guest.outbox.waiting() == 1
        world.settle()
        assert third == [Sent.SENT]
        assert guest.notes == [b"first", b"2"]


def test_the_mailbox_becomes_writable_between_busy_and_the_sleep(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        outcome = sender(world, guest, "s0", b"0")
        world.go("s0", "sent 2 BUSY")
        world.go("g.0")
        world.go("s0")
        assert outcome == [Sent.SENT]
        world.settle()
        assert guest.notes == [b"first", b"0"]


def test_another_vm_may_be_faster_than_a_sender_that_was_told(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        harness.vm("t", talker(3, 2, b"guest"))
        harness.driver.owners._tasks.clear()
        loop = partial(harness.driver.vcpu, harness.driver.vm(3), 0)
        world.spawn("t.0", loop)
        outcome = sender(world, guest, "s0", b"0")
        world.go("s0")
        world.go("g.0")
        world.go("t.0")
        assert guest.rx is RxState.RECEIVED
        world.go("s0")
        assert outcome == []
        world.settle()
        assert outcome == [Sent.SENT]
        assert guest.notes == [b"first", b"guest", b"0"]


def test_a_guest_without_buffers_yet_is_waited_for(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        assert guest.outbox.try_send(b"x") is Sent.BUSY
        outcome = sender(world, guest, "s0", b"0")
        world.go("s0")
        world.settle()
        assert outcome == [Sent.SENT]
        assert guest.notes == [b"0"]


def test_a_dead_vm_fails_everybody(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", spinner)
        harness.start()
        outcomes = [sender(world, guest, f"s{index}", b"x") for index in range(3)]
        for index in range(3):
            world.go(f"s{index}")
        harness.driver._abort(guest.driven, 0, "a test")
        for index in range(3):
            world.go(f"s{index}")
        assert outcomes == [[Sent.DEAD]] * 3
        assert guest.outbox.send(b"x") is Sent.DEAD
        assert guest.outbox.try_send(b"x") is Sent.DEAD
        assert guest.outbox.waiting() == guest.outbox.accepted == 0


@pytest.mark.parametrize("place", ["lock g.mirror", "sent 2 BUSY", "wait g.writable"])
def test_a_death_at_any_moment_of_a_send_is_noticed(world: Stepwise, place: str) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", spinner)
        harness.start()
        outcome = sender(world, guest, "s0", b"x")
        assert world.go("s0", place) == place
        harness.driver._abort(guest.driven, 0, "a test")
        world.go("s0")
        assert outcome == [Sent.DEAD]


def test_too_long_a_message_is_our_bug_and_blocks_nobody(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.settle()
        for send in (guest.outbox.send, guest.outbox.try_send):
            with pytest.raises(InternalError, match=r"^vm g: 4097 bytes cannot be sent$"):
                send(bytes(4097))
        assert guest.outbox.send(bytes(4096)) is Sent.SENT


@pytest.mark.parametrize("seed", range(20))
def test_senders_with_deadlines_in_any_order(world: Stepwise, seed: int) -> None:
    """What was sent comes once, in each sender's order; what was busy does not come."""
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        sent: list[bytes] = []

        def send_some(name: str, deadline: int | None) -> None:
            for index in range(5):
                text = f"{name}{index}".encode()
                if guest.outbox.send(text, deadline) is Sent.SENT:
                    sent.append(text)

        for name in "abc":
            world.spawn(name, partial(send_some, name, world.now() if name == "c" else None))
        world.shuffle(random.Random(seed))
        assert sorted(guest.notes) == sorted(sent)
        for prefix in (b"a", b"b", b"c"):
            mine = [text for text in guest.notes if text.startswith(prefix)]
            assert mine == sorted(mine)
            assert prefix == b"c" or len(mine) == 5
        assert guest.outbox.accepted == len(sent)


class InterruptedError_(BaseException):
    """What a signal's handler raises."""


def test_a_sender_that_is_interrupted_gives_up_its_place(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        first, third = sender(world, guest, "s0", b"0"), sender(world, guest, "s2", b"2")
        world.go("s0")

        def interrupted() -> None:
            with pytest.raises(InterruptedError_):
                guest.outbox.send(b"1")

        world.spawn("s1", interrupted)
        world.go("s1")
        world.go("s2")
        world.interrupt("s1", InterruptedError_)
        world.settle()
        assert first == third == [Sent.SENT]


def test_no_event_is_left_of_senders_that_waited(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = blocked(harness, world)
        sender(world, guest, "s0", b"0")
        sender(world, guest, "s1", b"1", world.now() + 100)
        sender(world, guest, "s2", b"2")
        for name in ("s0", "s1", "s2"):
            world.go(name)
        world.advance(100)
        world.go("s1")
        world.settle()
        assert guest.notes == [b"first", b"0", b"2"]
        assert "g.turn" not in [thing.name for thing in world.controller.table.things]


# Endpoints.


def test_an_endpoint_frames_what_it_sends(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", echo)
        end = harness.connect(guest, remote=5)
        harness.start()
        world.settle()
        assert end.send(b"a") is Sent.SENT
        world.settle()
        assert end.try_send(b"b") is Sent.SENT
        assert end.try_send(b"c") is Sent.BUSY
        world.settle()
        got = [end.recv(0), end.recv(0), end.recv(0)]
        assert [
            port_message and (port_message.source, port_message.payload) for port_message in got
        ] == [
            (5, b"a"),
            (5, b"b"),
            None,
        ]


@pytest.mark.parametrize(("raw", "limit"), [(False, PAYLOAD_MAX), (True, 4096)])
def test_an_endpoint_refuses_what_does_not_fit(world: Stepwise, raw: bool, limit: int) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", spinner, raw=raw)
        end = harness.connect(guest)
        assert end.payload_max == limit
        for send in (end.send, end.try_send):
            with pytest.raises(
                UserError, match=rf"^a message of {limit + 1} bytes: at most {limit}$"
            ):
                send(bytes(limit + 1))
        with pytest.raises(WouldSleepError):
            end.send(bytes(limit))


def test_a_raw_endpoint_sends_what_it_is_given(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        end = harness.connect(guest)
        harness.start()
        world.settle()
        assert end.send(b"bare") is Sent.SENT
        world.settle()
        assert guest.notes == [b"bare"]


def test_a_closed_endpoint_discards_what_comes(world: Stepwise) -> None:
    with Harness(world) as harness:
        guest = harness.vm("g", echo)
        end = harness.connect(guest)
        harness.start()
        world.settle()
        end.send(b"a")
        end.close()
        world.settle()
        assert harness.ports.counts(guest.id) == (0, 1, 0)


def test_two_outboxes_of_two_vms_do_not_wait_for_each_other(world: Stepwise) -> None:
    with Harness(world) as harness:
        slow, quick = harness.vm("g", spinner), harness.vm("q", sink, raw=True)
        harness.start()
        world.go("q.0")
        sender(world, slow, "s0", b"x")
        world.go("s0")
        assert isinstance(quick.outbox, Outbox)
        assert quick.outbox.send(b"y") is Sent.SENT
