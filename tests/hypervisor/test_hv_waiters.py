"""Waiters: who asked to be told that a mailbox is writable, and how they are told.

`WAITER_GET` of the facts is `PrimaryInterface.waiter`; the primary's own RX_RELEASE is `rx_release`.
"""

from __future__ import annotations

import pytest
from hv_bench import RX, TX, WAYS, Bench, Machine, Way, error, full, hf, ids, ok

from hfsched.abi.ffa import CONVENTION_64, FfaError, FfaId
from hfsched.hypervisor.interface import Message, NotifyWaiters, Preempted, SendResult
from hfsched.vcpu.script import Hvc, Smc

WRITABLE_GET = 0xFF01
WAITER_GET = 0xFF02
NOTIFY = 1


def full_box() -> tuple[Bench, Machine, Machine]:
    """Return a bench with a VM whose mailbox holds a message it has read, and a second VM."""
    bench = Bench()
    vm, other = bench.vm(), bench.vm()
    bench.hv.send(vm.id, b"full", notify=False)
    vm.call(FfaId.MSG_POLL)
    return bench, vm, other


def refuse(sender: Machine, to: int, attributes: int = NOTIFY) -> None:
    call = (FfaId.MSG_SEND, sender.id << 16 | to, 0, 1, attributes)
    assert sender.call(*call) == error(FfaError.BUSY)


def drain(bench: Bench, vm: int) -> list[int]:
    out: list[int] = []
    while (waiter := bench.hv.waiter(vm)) is not None:
        out.append(waiter)
    return out


def test_a_busy_send_with_notify_registers_the_sender_once() -> None:
    bench, vm, other = full_box()
    refuse(other, vm.id)
    refuse(other, vm.id)
    info = bench.hv.info(vm.id)
    assert info is not None
    assert info.waiters == 1
    vm.run(Hvc(*full(FfaId.RX_RELEASE)))
    assert drain(bench, vm.id) == [other.id]


@pytest.mark.parametrize("attributes", [0, 2, 0xFFFF_FFFE, 1 << 32])
def test_a_busy_send_without_bit_0_registers_nobody(attributes: int) -> None:
    bench, vm, other = full_box()
    refuse(other, vm.id, attributes)
    assert vm.call(FfaId.RX_RELEASE) == ok()
    assert drain(bench, vm.id) == []


def test_other_bits_beside_notify_do_not_matter() -> None:
    _, vm, other = full_box()
    refuse(other, vm.id, 0xFFFF_FFFF)
    assert vm.record.mailbox.waiters == [other.id]


def test_the_primary_registers_likewise() -> None:
    bench, vm, _ = full_box()
    assert bench.hv.send(vm.id, b"x", notify=False) is SendResult.BUSY
    assert vm.record.mailbox.waiters == []
    for _ in range(2):
        assert bench.hv.send(vm.id, b"x", notify=True) is SendResult.BUSY
    assert vm.record.mailbox.waiters == [1]
    assert vm.switch(FfaId.RX_RELEASE) == NotifyWaiters()
    assert bench.hv.writable() is None
    assert drain(bench, vm.id) == [1]
    assert bench.hv.writable() == vm.id
    assert bench.hv.writable() is None


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_a_release_with_waiters_returns_to_the_scheduler_and_succeeds_later(way: Way) -> None:
    _, vm, other = full_box()
    refuse(other, vm.id)
    assert vm.switch(FfaId.RX_RELEASE | way[1], by=way[0]) == NotifyWaiters()
    assert vm.resume() == ok()


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_a_map_with_waiters_returns_to_the_scheduler_and_succeeds_later(way: Way) -> None:
    bench = Bench()
    vm, other = bench.vm(mapped=False), bench.vm()
    refuse(other, vm.id)
    assert vm.switch(FfaId.RXTX_MAP | way[1], TX, RX, 1, by=way[0]) == NotifyWaiters()
    assert vm.resume() == ok()
    assert drain(bench, vm.id) == [other.id]


def test_a_failed_map_or_release_tells_nobody() -> None:
    bench, vm, other = full_box()
    refuse(other, vm.id)
    assert vm.call(FfaId.RXTX_MAP | CONVENTION_64, TX, RX, 1) == error(FfaError.DENIED)
    assert vm.switch(FfaId.RX_RELEASE) == NotifyWaiters()
    assert vm.resume() == ok()
    assert vm.call(FfaId.RX_RELEASE) == error(FfaError.DENIED)
    assert drain(bench, vm.id) == [other.id]


def test_each_release_tells_of_the_waiters_until_they_are_taken() -> None:
    bench, vm, other = full_box()
    refuse(other, vm.id)
    for _ in range(2):
        assert vm.switch(FfaId.RX_RELEASE) == NotifyWaiters()
        bench.hv.send(vm.id, b"again", notify=False)
        assert vm.call(FfaId.MSG_POLL)
    assert drain(bench, vm.id) == []  # not while it is full
    assert vm.switch(FfaId.RX_RELEASE) == NotifyWaiters()
    assert drain(bench, vm.id) == [other.id]


def test_the_primarys_own_release_says_whether_others_wait() -> None:
    bench = Bench()
    vm = bench.vm()
    assert vm.send(1, 1) == Message(vm.id, 1, 1)
    refuse(vm, 1)
    assert bench.hv.waiter(1) is None  # not while it is full
    assert bench.hv.rx_release() is True
    assert bench.hv.rx_release() is False  # it was not READ: denied
    assert drain(bench, 1) == [vm.id]
    assert vm.call(WRITABLE_GET) == hf(1)
    assert vm.send(1, 1) == Message(vm.id, 1, 1)
    assert bench.hv.rx_release() is False


def test_a_waiter_is_given_out_only_while_the_mailbox_is_mapped_and_empty() -> None:
    bench = Bench()
    vm, other = bench.vm(mapped=False), bench.vm()
    refuse(other, vm.id)
    assert bench.hv.waiter(vm.id) is None  # not mapped
    vm.run(Hvc(*full(FfaId.RXTX_MAP | CONVENTION_64, TX, RX, 1)))
    bench.hv.send(vm.id, b"x", notify=False)
    assert bench.hv.waiter(vm.id) is None  # unread
    assert vm.resume() == ok()
    vm.call(FfaId.MSG_POLL)
    assert bench.hv.waiter(vm.id) is None  # not released
    assert vm.switch(FfaId.RX_RELEASE) == NotifyWaiters()
    assert bench.hv.waiter(vm.id) == other.id
    assert bench.hv.waiter(vm.id) is None


@pytest.mark.parametrize("vm", [0, 4, -1, 0x8000])
def test_an_unknown_vm_has_no_waiters(vm: int) -> None:
    bench, _, _ = full_box()
    assert bench.hv.waiter(vm) is None


def test_waiters_are_given_out_in_the_order_in_which_they_came() -> None:
    bench = Bench()
    vms = [bench.vm() for _ in range(4)]
    bench.hv.send(2, b"full", notify=False)
    vms[0].call(FfaId.MSG_POLL)
    for sender in (vms[2], vms[1], vms[3], vms[1]):
        refuse(sender, 2)
    vms[0].run(Hvc(*full(FfaId.RX_RELEASE)))
    assert drain(bench, 2) == [4, 3, 5]


def test_the_waiter_learns_which_mailbox_became_writable_once_each_in_order() -> None:
    bench = Bench()
    vms = [bench.vm() for _ in range(3)]
    sender = vms[0]
    for target in (4, 3):
        bench.hv.send(target, b"full", notify=False)
        refuse(sender, target)
    for vm in (vms[2], vms[1]):
        vm.call(FfaId.MSG_POLL)
        assert vm.switch(FfaId.RX_RELEASE) == NotifyWaiters()
        assert sender.call(WRITABLE_GET, 1, 2, 3) == hf(-1, 1, 2, 3)
    assert bench.hv.waiter(4) == bench.hv.waiter(3) == sender.id
    assert sender.call(WRITABLE_GET) == hf(4)
    assert sender.call(WRITABLE_GET) == hf(3)
    assert sender.call(WRITABLE_GET) == hf(-1)


def test_a_mailbox_is_once_on_the_ready_list_however_often_it_became_writable() -> None:
    bench, vm, other = full_box()
    for _ in range(2):
        refuse(other, vm.id)
        assert vm.switch(FfaId.RX_RELEASE) == NotifyWaiters()
        assert drain(bench, vm.id) == [other.id]
        bench.hv.send(vm.id, b"again", notify=False)
        vm.call(FfaId.MSG_POLL)
    assert other.call(WRITABLE_GET) == hf(vm.id)
    assert other.call(WRITABLE_GET) == hf(-1)


def test_writable_get_writes_x0_alone_and_is_refused_by_smc() -> None:
    vm = Bench().vm()
    assert vm.call(WRITABLE_GET) == hf(-1)
    assert vm.call(WRITABLE_GET, by=Smc) == hf(-1)
    vm.record.mailbox.became_writable(7)
    assert vm.call(WRITABLE_GET, by=Smc) == hf(-1)
    assert vm.call(WRITABLE_GET) == hf(7)


def test_waiter_get_by_a_secondary_gives_nothing_away() -> None:
    bench, vm, other = full_box()
    refuse(other, vm.id)
    assert vm.switch(FfaId.RX_RELEASE) == NotifyWaiters()
    assert vm.call(WAITER_GET, vm.id) == hf(-1, vm.id)
    assert vm.call(WAITER_GET, vm.id, by=Smc) == hf(-1, vm.id)
    assert drain(bench, vm.id) == [other.id]


def test_the_whole_way_of_a_refused_sender() -> None:
    bench, vm, sender = full_box()
    refuse(sender, vm.id)
    assert vm.switch(FfaId.RX_RELEASE) == NotifyWaiters()
    assert drain(bench, vm.id) == [sender.id]
    assert sender.call(WRITABLE_GET) == hf(vm.id)
    sender.put(b"at last")
    assert sender.send(vm.id, 7) == Message(sender.id, vm.id, 0)
    assert vm.run() == Preempted()
    vm.call(FfaId.MSG_POLL)
    assert vm.get(7) == b"at last"
