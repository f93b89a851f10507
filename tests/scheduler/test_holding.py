"""Messages that wait for room in a port, and those who wait with them."""

from __future__ import annotations

import random

import pytest

from hfsched.explore.stepwise import Stepwise
from hfsched.mailbox.ports import FIRST_CONNECTION, QUEUE_MAX, Port, PortMessage, Ports, frame

VM, OTHER = 2, 3
PORT = 7


class Case:
    """Ports in a world, whose tasks bring messages and read them."""

    def __init__(self) -> None:
        self.world = Stepwise()
        self.ports = Ports(self.world)
        self.ports.add(VM, raw=False)
        self.ports.add(OTHER, raw=False)
        self.brought: dict[str, list[bool]] = {}

    def bring(self, name: str, vm: int, port: int, *texts: bytes) -> None:
        """Let a task bring messages; what `put` said comes into `brought`."""
        out = self.brought[name] = []

        def body() -> None:
            out.extend(self.ports.put(vm, frame(1, port, text)) for text in texts)

        self.world.spawn(name, body)

    def full(self, vm: int, number: int) -> Port:
        """Open a port and fill its queue."""
        port = self.ports.open(vm, number)
        for index in range(QUEUE_MAX):
            assert self.ports.put(vm, frame(1, number, b"%d" % index))
        return port


def drain(port: Port) -> list[bytes]:
    out = []
    while (port_message := port.get(0)) is not None:
        out.append(port_message.payload)
    return out


def test_a_full_port_holds_who_brings_and_nobody_else() -> None:
    case = Case()
    full = case.full(VM, PORT)
    open_ = case.ports.open(VM, 8)
    case.bring("held", VM, PORT, b"late")
    case.bring("free", VM, 8, b"a", b"b")
    case.world.settle()
    assert case.world.asleep() == ["held"]
    assert drain(open_) == [b"a", b"b"]
    case.world.settle()
    assert case.world.asleep() == ["held"]
    assert full.get(0) == PortMessage(1, b"0")
    case.world.settle()
    assert case.brought["held"] == [True]
    assert drain(full)[-1] == b"late"


def test_every_message_taken_makes_room_for_one() -> None:
    case = Case()
    port = case.full(VM, PORT)
    for name in ("a", "b", "c"):
        case.bring(name, VM, PORT, name.encode())
    case.world.settle()
    for left in (2, 1, 0):
        port.get(0)
        case.world.settle()
        assert len(case.world.asleep()) == left
    assert drain(port)[-3:] == [b"a", b"b", b"c"]


def test_closing_a_full_port_lets_its_bringers_go() -> None:
    case = Case()
    port = case.ports.open(VM)
    for _ in range(QUEUE_MAX):
        case.ports.put(VM, frame(1, port.number, b"x"))
    case.bring("held", VM, port.number, b"late")
    case.world.settle()
    port.close()
    case.world.settle()
    assert case.brought["held"] == [True]
    assert case.ports.counts(VM) == (0, QUEUE_MAX + 1, 0)


def test_opening_a_port_makes_room_among_the_unclaimed() -> None:
    case = Case()
    for number in range(QUEUE_MAX):
        case.ports.put(VM, frame(1, number, b"x"))
    case.bring("held", VM, 99, b"late")
    case.world.settle()
    assert case.world.asleep() == ["held"]
    case.ports.open(VM, 3)
    case.world.settle()
    assert case.brought["held"] == [True]
    assert case.ports.counts(VM) == (QUEUE_MAX, 0, 0)


def test_opening_the_port_itself_takes_what_was_held_after_what_waited() -> None:
    case = Case()
    texts = [b"%d" % index for index in range(QUEUE_MAX + 2)]
    case.bring("guest", VM, PORT, *texts)
    case.world.settle()
    port = case.ports.open(VM, PORT)
    got = []
    while (port_message := port.get(0)) is not None:
        got.append(port_message.payload)
        case.world.settle()
    assert got == texts


def test_opening_with_a_handler_gives_it_what_was_held() -> None:
    case = Case()
    texts = [b"%d" % index for index in range(QUEUE_MAX + 2)]
    case.bring("guest", VM, PORT, *texts)
    case.world.settle()
    got: list[PortMessage] = []
    case.ports.open(VM, PORT, got.append)
    case.world.settle()
    assert [port_message.payload for port_message in got] == texts


def test_a_stop_lets_everybody_go() -> None:
    case = Case()
    case.full(VM, PORT)
    empty = case.ports.open(VM, 8)
    got: list[PortMessage | None] = []
    case.bring("held", VM, PORT, b"late")
    case.world.spawn("reader", lambda: got.append(empty.get()))
    case.world.settle()
    assert case.world.asleep() == ["held", "reader"]
    case.ports.stop()
    case.world.settle()
    assert case.brought["held"] == [False]
    assert got == [None]


def test_a_reader_sleeps_until_a_message_or_its_deadline() -> None:
    case = Case()
    port = case.ports.open(VM, PORT)
    got: list[PortMessage | None] = []
    deadline = case.world.now() + 50

    def read() -> None:
        got.extend((port.get(), port.get(deadline)))

    case.world.spawn("reader", read)
    case.world.settle()
    case.ports.put(VM, frame(1, PORT, b"a"))
    case.world.settle()
    assert got == []
    assert case.world.asleep() == ["reader"]
    case.world.advance(50)
    case.world.settle()
    assert got == [PortMessage(1, b"a"), None]


def test_two_readers_share_a_port() -> None:
    case = Case()
    port = case.ports.open(VM, PORT)
    got: list[PortMessage | None] = []
    for name in ("a", "b"):
        case.world.spawn(name, lambda: got.append(port.get()))
    case.world.settle()
    case.ports.put(VM, frame(1, PORT, b"1"))
    case.world.settle()
    assert len(case.world.asleep()) == 1
    case.ports.put(VM, frame(1, PORT, b"2"))
    case.world.settle()
    assert got == [PortMessage(1, b"1"), PortMessage(1, b"2")]


def test_a_hostile_guest_is_held_and_its_port_numbers_are_forgotten() -> None:
    case = Case()
    numbers = random.Random(1)
    port = case.ports.open(VM)
    texts = 500

    def flood() -> None:
        for _ in range(texts):
            case.ports.put(VM, frame(1, numbers.getrandbits(64), b"x" * 4080))

    case.world.spawn("hostile", flood)
    case.world.settle()
    assert case.world.asleep() == ["hostile"]
    assert case.ports.counts(VM) == (QUEUE_MAX, 0, 0)
    assert list(case.ports._open) == [port.key]
    case.bring("other", OTHER, FIRST_CONNECTION + 5, b"x")
    case.world.settle()
    assert case.brought["other"] == [True]


@pytest.mark.parametrize("seed", range(20))
def test_any_order_keeps_each_bringers_order(seed: int) -> None:
    """One port, so that the bugs below do not meet: two guests' vCPUs, one slow reader."""
    case = Case()
    port = case.ports.open(VM, PORT)
    for name in ("a", "b"):
        case.bring(name, VM, PORT, *[f"{name}{index:02}".encode() for index in range(20)])
    got: list[bytes] = []

    def read() -> None:
        while len(got) < 40:
            port_message = port.get()
            assert port_message is not None
            got.append(port_message.payload)

    case.world.spawn("reader", read)
    case.world.shuffle(random.Random(seed))
    assert case.world.asleep() == []
    for prefix in (b"a", b"b"):
        mine = [text for text in got if text.startswith(prefix)]
        assert mine == sorted(mine)
        assert len(mine) == 20


def test_room_in_one_port_is_not_lost_to_a_bringer_for_another() -> None:
    """Between the look and the sleep of one, its port gets room, and another finds its own full."""
    case = Case()
    mine, theirs = case.full(VM, PORT), case.full(OTHER, PORT)
    case.bring("a", VM, PORT, b"late")
    case.bring("b", OTHER, PORT, b"later")
    case.world.go("a", "wait port.2.7.look")  # a has looked, and is about to sleep
    assert mine.get(0) == PortMessage(1, b"0")  # room for a
    case.world.go("b")  # b finds its own port full, and forgets that there was room
    case.world.settle()
    assert case.brought["a"] == [True]
    assert len(drain(theirs)) == QUEUE_MAX


def test_an_open_port_is_not_lost_to_a_bringer_for_one_that_is_not() -> None:
    """Between the look and the sleep of one, its port is opened, and another finds the unclaimed queue full still."""
    case = Case()
    for number in range(QUEUE_MAX):
        case.ports.put(VM, frame(1, PORT + 2, bytes([number])))
    case.bring("a", VM, PORT, b"late")
    case.bring("b", VM, PORT + 1, b"later")
    case.world.go("b", f"wait port.2.{PORT + 1}.look")
    case.world.go("a", f"wait port.2.{PORT}.look")  # a has looked, and is about to sleep
    port = case.ports.open(VM, PORT)
    case.world.go("b")  # b finds no room
    case.world.settle()
    assert case.brought["a"] == [True]
    assert drain(port) == [b"late"]


@pytest.mark.parametrize("stopped", [False, True])
def test_closing_a_port_lets_its_reader_go(stopped: bool) -> None:
    case = Case()
    port = case.ports.open(VM, PORT)
    got: list[PortMessage | None] = []
    case.world.spawn("reader", lambda: got.append(port.get()))
    case.world.settle()
    port.close()
    if stopped:
        case.ports.stop()
    case.world.settle()
    assert got == [None]


def test_a_new_handler_gets_what_waited_before_what_comes() -> None:
    case = Case()
    case.ports.put(VM, frame(1, PORT, b"old"))
    case.bring("guest", VM, PORT, b"new")
    got: list[bytes] = []

    def host() -> None:
        case.ports.open(VM, PORT, lambda port_message: got.append(port_message.payload))

    case.world.spawn("host", host)
    case.world.go("host", "lock ports")
    case.world.go("host", "lock ports")  # it is open, and has not been given anything
    case.world.go("guest")
    case.world.settle()
    assert got == [b"old", b"new"]
