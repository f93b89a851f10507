"""Setting up, and messages: RXTX_MAP, the states of RX, MSG_SEND, MSG_WAIT, MSG_POLL.

Not here, because this interface has no such call: MSG_WAIT and MSG_POLL by the primary, its RXTX_MAP.
"""

from __future__ import annotations

import pytest
from hv_bench import (
    BASE,
    PAGES,
    RX,
    TX,
    WAYS,
    Bench,
    Machine,
    Regs,
    Way,
    error,
    full,
    hf,
    ids,
    message,
    ok,
)

from hfsched.abi.ffa import CONVENTION_64, FfaError, FfaId, HfId
from hfsched.hypervisor.interface import Message, Preempted, SendResult, WaitForMessage
from hfsched.hypervisor.pages import Mode
from hfsched.mailbox.mailbox import RxState
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.script import Hvc, Load, Store

MAP = FfaId.RXTX_MAP | CONVENTION_64
END = BASE + PAGES * 4096


def two() -> tuple[Bench, Machine, Machine]:
    bench = Bench()
    return bench, bench.vm(), bench.vm()


# RXTX_MAP


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_map_succeeds_by_every_way_of_calling(way: Way) -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(FfaId.RXTX_MAP | way[1], TX, RX, 1, by=way[0]) == ok()


def test_map_a_second_time_is_denied_whatever_the_arguments() -> None:
    vm = Bench().vm()
    assert vm.call(MAP, TX, RX, 1) == error(FfaError.DENIED)
    assert vm.call(MAP, 1, 1, 99) == error(FfaError.DENIED)


@pytest.mark.parametrize(
    ("tx", "rx", "pages"),
    [
        (TX, RX, 0),
        (TX, RX, 2),
        (TX, RX, 0xFFFF_FFFF),
        (TX + 8, RX, 1),
        (TX, RX + 2048, 1),
        (TX, TX, 1),
        # These would be denied too: the arguments are looked at before the memory.
        (0x1000, 0x1000, 1),
        (0x1001, 0x2000, 1),
        (0x1000, 0x2000, 2),
    ],
)
def test_map_refuses_another_count_misaligned_pages_and_one_page_for_both(
    tx: int, rx: int, pages: int
) -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(MAP, tx, rx, pages) == error(FfaError.INVALID_PARAMETERS)
    vm.map()  # nothing was set up by the failure


@pytest.mark.parametrize(
    ("tx", "rx"),
    [
        (BASE - 4096, RX),
        (TX, END),
        (0, RX),
        (TX, 0),
        (1 << 64 | 0xFFFF_FFFF_FFFF_F000, RX),
        (TX | 1 << 40, RX),
        (TX, 0x0900_0000),
    ],
)
def test_map_of_pages_that_are_not_the_vms_own_memory_is_denied(tx: int, rx: int) -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(MAP, tx, rx, 1) == error(FfaError.DENIED)
    vm.map()


READ_ONLY = Mode(Permissions.READ)
NO_ACCESS = Mode(Permissions(0))
SHARED = Mode(Permissions.RWX, exclusive=False)
BORROWED = Mode(Permissions.RWX, owned=False)


@pytest.mark.parametrize(
    ("page", "mode", "expected"),
    [
        (TX, READ_ONLY, error(FfaError.DENIED)),
        (RX, READ_ONLY, ok()),
        (TX, Mode(Permissions.WRITE), error(FfaError.DENIED)),
        (RX, Mode(Permissions.WRITE), error(FfaError.DENIED)),
        (TX, NO_ACCESS, error(FfaError.DENIED)),
        (RX, NO_ACCESS, error(FfaError.DENIED)),
        (TX, SHARED, error(FfaError.DENIED)),
        (RX, SHARED, error(FfaError.DENIED)),
        (TX, BORROWED, error(FfaError.DENIED)),
        (RX, BORROWED, error(FfaError.DENIED)),
        (TX, Mode(Permissions.RW), ok()),
    ],
)
def test_map_wants_exclusively_owned_pages_tx_writable_and_rx_readable(
    page: int, mode: Mode, expected: Regs
) -> None:
    vm = Bench().vm(mapped=False)
    vm.record.pages.set(page, mode)  # as memory sharing would
    assert vm.call(MAP, TX, RX, 1) == expected


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_the_count_of_pages_is_32_bits_wide_and_the_addresses_64(way: Way) -> None:
    vm = Bench().vm(mapped=False)
    high = 0x5_0000_0000
    assert vm.call(FfaId.RXTX_MAP | way[1], TX + high, RX, 1) == error(FfaError.DENIED)
    assert vm.call(FfaId.RXTX_MAP | way[1], TX, RX, 1 + high) == ok()


def test_after_map_tx_is_read_write_and_rx_read_only() -> None:
    vm = Bench().vm()
    vm.run(Store(TX, 0x1122), Load(TX), Load(RX), Store(RX, 1))
    assert vm.seen[0][-4:-1] == [(), (0x1122,), (0,)]
    assert vm.abort() == RX


def test_before_map_and_after_a_failed_one_the_pages_are_as_they_were() -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(MAP, TX, BASE - 4096, 1) == error(FfaError.DENIED)
    assert vm.run(Store(RX, 1), Store(TX, 1)) == Preempted()
    assert vm.seen[0][-2:] == [(), ()]


def test_the_first_and_the_last_page_can_be_mapped() -> None:
    vm = Bench().vm(mapped=False)
    assert vm.call(MAP, BASE, END - 4096, 1) == ok()


# RX's states


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_rx_goes_from_empty_to_received_to_read_to_empty(way: Way) -> None:
    bench = Bench()
    vm = bench.vm()
    states = [vm.record.mailbox.state]
    assert bench.hv.send(vm.id, b"one", notify=False) is SendResult.SENT
    states.append(vm.record.mailbox.state)
    assert vm.call(FfaId.MSG_POLL | way[1], by=way[0]) == message(1, vm.id, 3)
    states.append(vm.record.mailbox.state)
    assert vm.call(FfaId.RX_RELEASE | way[1], by=way[0]) == ok()
    states.append(vm.record.mailbox.state)
    assert states == [RxState.EMPTY, RxState.RECEIVED, RxState.READ, RxState.EMPTY]


def test_release_of_an_empty_an_unread_or_an_unmapped_rx_is_denied() -> None:
    bench = Bench()
    vm = bench.vm(mapped=False)
    assert vm.call(FfaId.RX_RELEASE) == error(FfaError.DENIED)
    vm.map()
    assert vm.call(FfaId.RX_RELEASE) == error(FfaError.DENIED)
    bench.hv.send(vm.id, b"unread", notify=False)
    assert vm.call(FfaId.RX_RELEASE) == error(FfaError.DENIED)
    assert vm.call(FfaId.MSG_POLL) == message(1, vm.id, 6)  # it is still there


def test_a_message_is_read_once() -> None:
    bench = Bench()
    vm = bench.vm()
    bench.hv.send(vm.id, b"one", notify=False)
    assert vm.call(FfaId.MSG_POLL) == message(1, vm.id, 3)
    assert vm.call(FfaId.MSG_POLL) == error(FfaError.RETRY)
    assert vm.wait() == WaitForMessage(None)


# What a send is refused for


@pytest.mark.parametrize("notify", [0, 1])
@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_the_secure_world_is_always_busy(way: Way, notify: int) -> None:
    vm = Bench().vm(mapped=False)
    call = (FfaId.MSG_SEND | way[1], vm.id << 16 | 0x8000, 0, 16, notify)
    assert vm.call(*call, by=way[0]) == error(FfaError.INVALID_PARAMETERS), "no TX"
    vm.map()
    assert vm.call(*call, by=way[0]) == error(FfaError.BUSY)
    assert vm.call(HfId.MAILBOX_WRITABLE_GET) == hf(-1)


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize(
    ("sender", "receiver", "size"),
    [
        (3, 1, 4),  # another's name
        (0, 3, 4),
        (1, 3, 4),
        (2, 2, 4),  # to oneself
        (2, 4, 4),  # unknown
        (2, 0, 4),  # the hypervisor is nobody to talk to
        (2, 0x8001, 4),
        (2, 0x4000, 4),
        (2, 3, 4097),
        (2, 3, 0xFFFF_FFFF),
    ],
)
def test_send_refuses_false_senders_wrong_receivers_and_too_much(
    way: Way, sender: int, receiver: int, size: int
) -> None:
    _, vm, other = two()
    call = (FfaId.MSG_SEND | way[1], sender << 16 | receiver, 0, size, 1)
    assert vm.call(*call, by=way[0]) == error(FfaError.INVALID_PARAMETERS)
    assert other.record.mailbox.state is RxState.EMPTY
    assert not other.record.mailbox.waiters


def test_send_without_tx_is_invalid() -> None:
    bench = Bench()
    vm, other = bench.vm(mapped=False), bench.vm()
    call = (FfaId.MSG_SEND, vm.id << 16 | other.id, 0, 1, 1)
    assert vm.call(*call) == error(FfaError.INVALID_PARAMETERS)
    assert not other.record.mailbox.waiters


def test_send_to_a_vm_without_rx_is_busy() -> None:
    bench = Bench()
    vm, other = bench.vm(), bench.vm(mapped=False)
    assert vm.call(FfaId.MSG_SEND, vm.id << 16 | other.id, 0, 1, 0) == error(FfaError.BUSY)


@pytest.mark.parametrize("read", [False, True])
def test_send_to_a_full_mailbox_is_busy_and_leaves_what_lies_there(*, read: bool) -> None:
    bench, vm, other = two()
    bench.hv.send(other.id, b"first", notify=False)
    if read:
        assert other.call(FfaId.MSG_POLL) == message(1, other.id, 5)
    vm.put(b"SECOND")
    assert vm.call(FfaId.MSG_SEND, vm.id << 16 | other.id, 0, 6, 0) == error(FfaError.BUSY)
    assert other.get(6) == b"first\0"


# How a message arrives


@pytest.mark.parametrize("size", [0, 1, 7, 4095, 4096])
def test_only_the_bytes_of_the_message_are_copied(size: int) -> None:
    _, vm, other = two()
    other.ram.write(RX - BASE - 4, b"\xee" * 4104)
    vm.put(bytes(range(1, 129)) * 32)
    assert vm.send(other.id, size) == Message(vm.id, other.id, 0)
    expected = (bytes(range(1, 129)) * 32)[:size].ljust(4096, b"\xee")
    assert other.ram.read(RX - BASE - 4, 4104) == b"\xee" * 4 + expected + b"\xee" * 4


def test_from_secondary_to_secondary_run_names_both_and_no_size() -> None:
    _, vm, other = two()
    vm.put(b"hello")
    assert vm.send(other.id, 5) == Message(vm.id, other.id, 0)
    assert other.record.mailbox.state is RxState.RECEIVED
    assert vm.resume() == ok()
    assert other.call(FfaId.MSG_POLL) == message(vm.id, other.id, 5)
    assert other.get(5) == b"hello"


def test_to_the_primary_a_message_is_read_at_once_and_run_tells_its_size() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.put(b"hello")
    assert vm.send(1, 5) == Message(vm.id, 1, 5)
    assert bench.registry.primary.mailbox.state is RxState.READ
    assert bench.hv.rx_take() == (vm.id, b"hello")
    assert vm.resume() == ok()


def test_the_primary_takes_and_releases_its_rx() -> None:
    bench = Bench()
    vm = bench.vm()
    assert bench.hv.rx_take() is None
    assert bench.hv.rx_release() is False
    vm.put(b"hello")
    vm.send(1, 5)
    assert vm.call(FfaId.MSG_SEND, vm.id << 16 | 1, 0, 5, 0) == error(FfaError.BUSY)
    assert bench.hv.rx_take() == (vm.id, b"hello")
    bench.hv.rx_release()
    assert bench.hv.rx_take() is None
    assert vm.send(1, 3) == Message(vm.id, 1, 3)


def test_what_the_guest_writes_afterwards_does_not_change_a_message_sent() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.put(b"before")
    vm.send(1, 6)
    vm.put(b"after!")
    assert bench.hv.rx_take() == (vm.id, b"before")


def test_from_the_primary_nothing_switches_and_the_message_waits() -> None:
    bench = Bench()
    vm = bench.vm()
    entries = vm.record.entries
    assert bench.hv.send(vm.id, b"", notify=False) is SendResult.SENT
    assert vm.record.entries == entries
    assert vm.call(FfaId.MSG_POLL) == message(1, vm.id, 0)


@pytest.mark.parametrize(("to", "size"), [(0, 1), (1, 1), (3, 1), (-1, 1), (2, 4097)])
def test_the_primary_cannot_send_to_nobody_to_itself_or_too_much(to: int, size: int) -> None:
    bench = Bench()
    vm = bench.vm()
    assert bench.hv.send(to, b"x" * size, notify=True) is SendResult.INVALID
    assert vm.record.mailbox.state is RxState.EMPTY


@pytest.mark.parametrize("mapped", [False, True])
def test_the_primary_finds_an_absent_or_a_full_mailbox_busy(*, mapped: bool) -> None:
    bench = Bench()
    vm = bench.vm(mapped=mapped)
    if mapped:
        bench.hv.send(vm.id, b"x" * 4096, notify=False)
    assert bench.hv.send(vm.id, b"y", notify=False) is SendResult.BUSY
    assert not vm.record.mailbox.waiters


# MSG_WAIT and MSG_POLL


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_poll_with_nothing_says_retry(way: Way) -> None:
    vm = Bench().vm()
    assert vm.call(FfaId.MSG_POLL | way[1], by=way[0]) == error(FfaError.RETRY)


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("function", [FfaId.MSG_WAIT, FfaId.MSG_POLL])
def test_a_pending_message_comes_back_at_once(function: FfaId, way: Way) -> None:
    bench = Bench()
    vm = bench.vm()
    bench.hv.send(vm.id, b"12345", notify=False)
    assert vm.call(function | way[1], by=way[0]) == message(1, vm.id, 5)


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_wait_with_an_enabled_pending_interrupt_is_interrupted_without_a_switch(way: Way) -> None:
    bench = Bench()
    vm = bench.vm()  # its CPU has interrupts masked throughout
    vm.enable(9)
    bench.hv.inject(vm.id, 0, 9)
    assert vm.call(FfaId.MSG_WAIT | way[1], by=way[0]) == error(FfaError.INTERRUPTED)


def test_wait_prefers_the_message_to_the_interrupt_and_poll_does_not_see_the_interrupt() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(9)
    bench.hv.inject(vm.id, 0, 9)
    assert vm.call(FfaId.MSG_POLL) == error(FfaError.RETRY)
    bench.hv.send(vm.id, b"x", notify=False)
    assert vm.call(FfaId.MSG_WAIT) == message(1, vm.id, 1)


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_wait_with_nothing_blocks_and_returns_the_message(way: Way) -> None:
    bench = Bench()
    vm = bench.vm()
    assert vm.switch(FfaId.MSG_WAIT | way[1], by=way[0]) == WaitForMessage(None)
    bench.hv.send(vm.id, b"wake up", notify=False)
    assert vm.resume() == message(1, vm.id, 7)
    assert vm.get(7) == b"wake up"


def test_wait_blocks_in_spite_of_an_interrupt_that_is_pending_and_not_enabled() -> None:
    bench = Bench()
    vm = bench.vm()
    bench.hv.inject(vm.id, 0, 9)
    assert vm.wait() == WaitForMessage(None)
    assert vm.run() == WaitForMessage(None)


def test_a_wait_resumed_by_an_interrupt_returns_interrupted() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(9)
    assert vm.wait() == WaitForMessage(None)
    bench.hv.inject(vm.id, 0, 9)
    assert vm.resume() == error(FfaError.INTERRUPTED)


def test_one_message_wakes_one_of_two_waiting_vcpus() -> None:
    bench = Bench()
    vm = bench.vm(vcpus=2)
    assert vm.wait(0) == vm.wait(1) == WaitForMessage(None)
    bench.hv.send(vm.id, b"x", notify=False)
    assert vm.resume(1) == message(1, vm.id, 1)
    assert vm.run(vcpu=0) == WaitForMessage(None)


# RXTX_UNMAP: not in Hafnium at this commit; DEN0077A has it, and so has this hypervisor.


@pytest.mark.parametrize("upper", [0, 1 << 32])
@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_unmap_gives_the_pages_back(way: Way, upper: int) -> None:
    vm = Bench().vm()
    call = (FfaId.RXTX_UNMAP | way[1], upper)
    assert vm.call(*call, by=way[0]) == ok()
    assert vm.run(Store(RX, 7), Store(TX, 7)) == Preempted()
    assert vm.seen[0][-2:] == [(), ()]
    assert vm.call(*call, by=way[0]) == error(FfaError.INVALID_PARAMETERS)
    vm.map()


@pytest.mark.parametrize("w1", [1, 2 << 16, 3 << 16, 0xFFFF, 1 << 31])
def test_unmap_names_nobody(w1: int) -> None:
    _, vm, other = two()
    assert (vm.id, other.id) == (2, 3)
    assert vm.call(FfaId.RXTX_UNMAP, w1) == error(FfaError.INVALID_PARAMETERS)
    assert vm.record.mailbox.rx is not None
    assert other.record.mailbox.rx is not None


def test_unmap_loses_the_message_and_makes_the_mailbox_busy() -> None:
    bench = Bench()
    vm = bench.vm()
    bench.hv.send(vm.id, b"lost", notify=False)
    assert vm.call(FfaId.RXTX_UNMAP, 0) == ok()
    assert bench.hv.send(vm.id, b"x", notify=False) is SendResult.BUSY
    assert vm.record.unmapped == 1
    vm.map()
    assert vm.call(FfaId.MSG_POLL) == error(FfaError.RETRY)
    assert bench.hv.send(vm.id, b"new", notify=False) is SendResult.SENT
    assert vm.call(FfaId.MSG_POLL) == message(1, vm.id, 3)
    assert vm.call(FfaId.RXTX_UNMAP, 0) == ok()
    assert vm.record.unmapped == 1  # that one was read


def test_the_answer_of_a_call_that_switched_waits_for_the_next_run() -> None:
    _, vm, other = two()
    vm.run(Hvc(*full(FfaId.MSG_SEND, vm.id << 16 | other.id, 0, 1, 0)))
    vm.ram.write(0, b"unrelated")
    assert vm.resume() == ok()
