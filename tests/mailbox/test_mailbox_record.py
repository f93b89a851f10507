"""The hypervisor's half of a mailbox: every operation in every state."""

from __future__ import annotations

import pytest

from hfsched.mailbox.mailbox import Header, Mailbox, RxState

MESSAGE = Header(sender=3, size=17)


def mailbox(state: RxState = RxState.EMPTY, *, mapped: bool = True) -> Mailbox:
    made = Mailbox()
    if mapped:
        made.rx, made.tx = 0x2000, 0x1000
    if state is not RxState.EMPTY:
        made.write(MESSAGE, state)
    return made


def test_a_new_mailbox_is_unmapped_and_empty() -> None:
    made = Mailbox()
    assert (made.rx, made.tx, made.state, made.message) == (None, None, RxState.EMPTY, None)
    assert not made.writable
    assert (made.take_ready(), made.take_waiter(), made.read()) == (None, None, None)


@pytest.mark.parametrize("state", RxState)
@pytest.mark.parametrize("mapped", [False, True])
def test_it_is_writable_while_it_is_mapped_and_empty(state: RxState, *, mapped: bool) -> None:
    assert mailbox(state, mapped=mapped).writable is (mapped and state is RxState.EMPTY)


def test_rx_at_offset_0_is_a_mapped_one() -> None:
    made = Mailbox()
    made.rx = 0
    assert made.writable


def test_a_message_is_written_read_once_and_released_once() -> None:
    made = mailbox()
    made.write(MESSAGE)
    assert made.key() == mailbox(RxState.RECEIVED).key()
    assert not made.release()
    assert made.read() == MESSAGE
    assert made.key() == mailbox(RxState.READ).key()
    assert made.read() is None
    assert made.release()
    assert (made.state, made.message) == (RxState.EMPTY, None)
    assert not made.release()
    assert made.writable


def test_a_message_written_as_read_needs_no_reading() -> None:
    made = mailbox()
    made.write(MESSAGE, RxState.READ)
    assert made.read() is None
    assert made.message == MESSAGE
    assert made.release()


def test_a_waiter_is_noted_once_and_taken_in_order() -> None:
    made = mailbox(RxState.READ)
    for sender in (5, 1, 5, 7, 1):
        made.refuse(sender)
    assert made.waiters == [5, 1, 7]
    made.release()
    assert [made.take_waiter() for _ in range(4)] == [5, 1, 7, None]


@pytest.mark.parametrize("state", [RxState.RECEIVED, RxState.READ])
def test_no_waiter_is_given_out_while_the_mailbox_is_full(state: RxState) -> None:
    made = mailbox(state)
    made.refuse(5)
    assert made.take_waiter() is None
    assert made.waiters == [5]


def test_no_waiter_is_given_out_while_the_mailbox_is_unmapped() -> None:
    made = mailbox(mapped=False)
    made.refuse(5)
    assert made.take_waiter() is None
    made.rx = 0
    assert made.take_waiter() == 5


def test_one_that_was_taken_may_wait_again() -> None:
    made = mailbox()
    made.refuse(5)
    assert made.take_waiter() == 5
    made.refuse(5)
    assert made.take_waiter() == 5


def test_a_mailbox_that_became_writable_is_noted_once_and_taken_in_order() -> None:
    made = mailbox()
    for vm in (4, 2, 4):
        made.became_writable(vm)
    assert [made.take_ready() for _ in range(3)] == [4, 2, None]


def test_the_key_tells_all_states_apart() -> None:
    boxes = [mailbox(state, mapped=mapped) for state in RxState for mapped in (False, True)]
    waiting, ready = mailbox(), mailbox()
    waiting.refuse(5)
    ready.became_writable(5)
    other = mailbox()
    other.write(Header(3, 18))
    boxes += [waiting, ready, other]
    assert len({made.key() for made in boxes}) == len(boxes)
    assert mailbox(RxState.READ).key() == mailbox(RxState.READ).key()
