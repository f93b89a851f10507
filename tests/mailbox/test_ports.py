"""The host's ports, without anybody who sleeps: what waits for room is the scheduler's tests' story."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.errors import UserError
from hfsched.mailbox.ports import (
    FIRST_CONNECTION,
    HEADER,
    PAYLOAD_MAX,
    QUEUE_MAX,
    RAW,
    PortMessage,
    Ports,
    frame,
)
from hfsched.runtime.threads import ThreadRuntime
from hfsched.runtime.threads.sync import FlagEvent

VM, OTHER, BARE = 2, 3, 4


class AwakeEvent(FlagEvent):
    __slots__ = ()

    def wait(self, deadline: int | None = None) -> bool:
        assert self.is_set() or deadline is not None, f"would sleep on {self.name} for ever"
        return super().wait(deadline)


class AwakeRuntime(ThreadRuntime):
    """Whoever would sleep for ever has a bug."""

    def event(self, name: str) -> AwakeEvent:
        return AwakeEvent(name)


@pytest.fixture
def ports() -> Ports:
    made = Ports(AwakeRuntime())
    made.add(VM, raw=False)
    made.add(OTHER, raw=False)
    made.add(BARE, raw=True)
    return made


def now() -> int:
    return ThreadRuntime().now()


def test_the_header_is_sixteen_bytes_little_endian_source_first() -> None:
    assert frame(1, 2, b"x") == b"\1" + bytes(7) + b"\2" + bytes(7) + b"x"
    assert HEADER.size + PAYLOAD_MAX == 4096


def test_a_message_comes_to_its_port_without_its_header(ports: Ports) -> None:
    port = ports.open(VM, 7)
    assert ports.put(VM, frame(9, 7, b"hello"))
    assert port.get(now()) == PortMessage(9, b"hello")
    assert port.get(now()) is None


def test_a_port_keeps_the_order(ports: Ports) -> None:
    port = ports.open(VM, 7)
    for number in range(QUEUE_MAX):
        ports.put(VM, frame(1, 7, b"%d" % number))
    got = [port.get(now()) for _ in range(QUEUE_MAX)]
    assert got == [PortMessage(1, b"%d" % number) for number in range(QUEUE_MAX)]


def test_ports_of_two_vms_do_not_meet(ports: Ports) -> None:
    mine, theirs = ports.open(VM, 7), ports.open(OTHER, 7)
    ports.put(OTHER, frame(1, 7, b"x"))
    assert mine.get(now()) is None
    assert theirs.get(now()) == PortMessage(1, b"x")


def test_every_connection_has_a_port_of_its_own(ports: Ports) -> None:
    numbers = [ports.open(VM).number for _ in range(5)] + [ports.open(OTHER).number]
    assert numbers == list(range(FIRST_CONNECTION, FIRST_CONNECTION + 6))


@pytest.mark.parametrize("number", [-1, -(1 << 63), FIRST_CONNECTION, 1 << 64])
def test_users_cannot_name_a_connections_port(ports: Ports, number: int) -> None:
    with pytest.raises(UserError, match=rf"^port {number}: not between 0 and 4294967295$"):
        ports.open(VM, number)


@pytest.mark.parametrize("number", [0, FIRST_CONNECTION - 1])
def test_the_first_and_the_last_port_of_a_user(ports: Ports, number: int) -> None:
    assert ports.open(VM, number).number == number


def test_a_port_is_taken_once_and_free_after_close(ports: Ports) -> None:
    port = ports.open(VM, 7)
    with pytest.raises(UserError, match=r"^vm 2: port 7 is in use by another connection$"):
        ports.open(VM, 7)
    port.close()
    ports.open(VM, 7)


def test_closing_twice_does_not_close_a_successor(ports: Ports) -> None:
    port = ports.open(VM, 7)
    port.close()
    successor = ports.open(VM, 7)
    port.close()
    ports.put(VM, frame(1, 7, b"x"))
    assert successor.get(now()) == PortMessage(1, b"x")


# Without framing.


def test_a_raw_vm_has_one_port_and_no_header(ports: Ports) -> None:
    port = ports.open(BARE)
    assert port.number == RAW
    for message in (b"", b"x", b"x" * 4096):
        assert ports.put(BARE, message)
        assert port.get(now()) == PortMessage(RAW, message)
    assert ports.counts(BARE) == (0, 0, 0)
    with pytest.raises(UserError, match=r"^vm 4: its only port \(framing raw\) is in use"):
        ports.open(BARE, 3)


# What nobody reads.


def test_messages_for_a_port_never_opened_wait_for_it(ports: Ports) -> None:
    ports.put(VM, frame(1, 7, b"a"))
    ports.put(VM, frame(1, 8, b"b"))
    ports.put(VM, frame(1, 7, b"c"))
    assert ports.counts(VM) == (3, 0, 0)
    port = ports.open(VM, 7)
    assert ports.counts(VM) == (1, 0, 0)
    assert [port.get(now()) for _ in range(3)] == [PortMessage(1, b"a"), PortMessage(1, b"c"), None]
    assert ports.open(VM, 8).get(now()) == PortMessage(1, b"b")


def test_arrived_shows_what_waits(ports: Ports) -> None:
    assert not ports.open(VM, 6).arrived.is_set()
    ports.put(VM, frame(1, 7, b"early"))
    port = ports.open(VM, 7)
    assert port.arrived.is_set()
    port.get(now())
    port.get(now())
    assert not port.arrived.is_set()
    ports.put(VM, frame(1, 7, b"late"))
    assert port.arrived.is_set()


def test_a_closed_port_has_nothing_to_read(ports: Ports) -> None:
    port = ports.open(VM, 7)
    ports.put(VM, frame(1, 7, b"x"))
    port.close()
    assert port.get(now()) is None


@pytest.mark.parametrize("vm", [VM, BARE])
def test_messages_for_a_reader_that_was_given_up_wait_for_none_until_the_next_one_comes(
    ports: Ports, vm: int
) -> None:
    port = ports.open(vm, 7)
    port.close(given_up=True)
    before = ports.key()
    for _ in range(2 * QUEUE_MAX):
        assert ports.put(vm, frame(1, 7, b"lost"))
    assert ports.counts(vm) == (0, 2 * QUEUE_MAX, 0)
    again = ports.open(vm, 7)
    assert ports.put(vm, frame(1, 7, b"read"))
    assert again.get(now()) is not None
    again.close()
    assert ports.key() != before
    ports.put(vm, frame(1, 7, b"waits"))
    assert ports.counts(vm) == (1, 2 * QUEUE_MAX, 0)


def test_messages_for_a_connection_that_has_gone_are_discarded(ports: Ports) -> None:
    port = ports.open(VM)
    ports.put(VM, frame(1, port.number, b"unread"))
    assert ports.waiting() == 1
    port.close()
    assert ports.counts(VM) == (0, 1, 0)
    ports.put(VM, frame(1, port.number, b"late"))
    assert ports.counts(VM) == (0, 2, 0)
    assert ports.waiting() == 0


@pytest.mark.parametrize("size", [0, 1, HEADER.size - 1])
def test_a_message_without_a_whole_header_is_malformed(ports: Ports, size: int) -> None:
    assert ports.put(VM, bytes(size))
    assert ports.counts(VM) == (0, 0, 1)
    assert ports.counts(OTHER) == (0, 0, 0)


def test_a_header_alone_is_an_empty_message(ports: Ports) -> None:
    port = ports.open(VM, 7)
    ports.put(VM, frame(1, 7, b""))
    assert port.get(now()) == PortMessage(1, b"")


def test_waiting_counts_what_lies_in_open_ports(ports: Ports) -> None:
    port, _ = ports.open(VM, 7), ports.put(VM, frame(1, 8, b"unclaimed"))
    ports.put(VM, frame(1, 7, b"a"))
    ports.put(VM, frame(1, 7, b"b"))
    assert ports.waiting() == 2
    port.get(now())
    assert ports.waiting() == 1


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, (1 << 64) - 1), st.binary(max_size=20)), max_size=60))
def test_hostile_port_numbers_do_not_grow_memory(messages: list[tuple[int, bytes]]) -> None:
    ports = Ports(AwakeRuntime())
    ports.add(VM, raw=False)
    ports.open(VM).close()
    for number, payload in messages[:QUEUE_MAX]:
        assert ports.put(VM, frame(number, number, payload))
    ports.stop()  # what finds no room from here on is not kept
    for number, payload in messages[QUEUE_MAX:]:
        ports.put(VM, frame(number, number, payload))
    assert len(ports._open) == 0
    assert len(ports._vms) == 1
    assert ports.counts(VM)[0] <= QUEUE_MAX


# Handlers.


def test_a_handler_is_called_with_each_message_and_has_no_queue(ports: Ports) -> None:
    got: list[PortMessage] = []
    ports.open(VM, 7, got.append)
    for number in range(3 * QUEUE_MAX):
        assert ports.put(VM, frame(1, 7, b"%d" % number))
    assert got == [PortMessage(1, b"%d" % number) for number in range(3 * QUEUE_MAX)]
    assert ports.waiting() == 0


def test_a_handler_gets_what_waited_for_its_port(ports: Ports) -> None:
    got: list[PortMessage] = []
    ports.put(VM, frame(1, 7, b"a"))
    ports.put(VM, frame(1, 8, b"b"))
    ports.put(VM, frame(1, 7, b"c"))
    port = ports.open(VM, 7, got.append)
    assert got == [PortMessage(1, b"a"), PortMessage(1, b"c")]
    assert ports.counts(VM) == (1, 0, 0)
    assert not port.messages


def test_a_handler_may_use_the_ports(ports: Ports) -> None:
    seen: list[tuple[int, int, int]] = []

    def handler(_: PortMessage) -> None:
        seen.append(ports.counts(VM))
        port.close()

    port = ports.open(VM, 7, handler)
    ports.put(VM, frame(1, 7, b"x"))
    assert seen == [(0, 0, 0)]


def test_a_closed_handler_is_called_no_more(ports: Ports) -> None:
    got: list[PortMessage] = []
    port = ports.open(VM, None, got.append)
    port.close()
    ports.put(VM, frame(1, port.number, b"x"))
    assert got == []
    assert ports.counts(VM) == (0, 1, 0)


# Stop.


def test_after_a_stop_queues_can_be_emptied_and_nothing_comes(ports: Ports) -> None:
    port = ports.open(VM, 7)
    ports.put(VM, frame(1, 7, b"before"))
    ports.stop()
    assert not ports.put(VM, frame(1, 7, b"after"))
    assert port.get() == PortMessage(1, b"before")
    assert port.get() is None  # at once: there is no deadline
    assert port.get() is None


def test_the_key_tells_states_apart(ports: Ports) -> None:
    keys = [ports.key()]
    ports.open(VM, 7)
    keys.append(ports.key())
    ports.put(VM, frame(1, 7, b"x"))
    keys.append(ports.key())
    ports.put(VM, frame(1, 8, b"x"))
    keys.append(ports.key())
    assert all(keys.count(key) == 1 for key in keys)


def test_the_key_can_be_hashed(ports: Ports) -> None:
    ports.put(VM, frame(1, 7, b"x"))
    hash(ports.key())


def test_a_nudge_reaches_those_who_wait_with_messages_of_its_vm_alone(ports: Ports) -> None:
    class WaitsError(Exception):
        pass

    def block() -> None:
        raise WaitsError

    ports.open(VM, 1)
    ports.open(OTHER, 1)
    for vm, number in ((VM, 1), (VM, 9), (OTHER, 1)):  # 9 is not open
        for _ in range(QUEUE_MAX):
            ports.put(vm, frame(1, number, b"x"))
        with pytest.raises(WaitsError):
            ports.put(vm, frame(1, number, b"late"), block)
    waiting = [each.look for vm in (VM, OTHER) for each in ports._vms[vm].waiting]
    assert [look.is_set() for look in waiting] == [False] * 3
    ports.nudge(VM)
    assert [look.is_set() for look in waiting] == [True, True, False]
