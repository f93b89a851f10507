"""Typed records: what is saved is put back, and what no machine can have is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hv_bench import BASE, PAGES, RX, TX, Bench, Machine
from hypothesis import given
from hypothesis import strategies as st

from hfsched.abi.ffa import FfaId, HfId, Intid
from hfsched.errors import InternalError, UserError
from hfsched.hypervisor.interface import Preempted, WaitForMessage
from hfsched.hypervisor.records import PagesRecord, VmRecord
from hfsched.memory.ram import PAGE_SIZE
from hfsched.vcpu.engine import Permissions


def carried(record: VmRecord) -> VmRecord:
    """Return what comes out of an encoded record."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=VmRecord)


def busy() -> tuple[Bench, Machine]:
    """Return a VM with state in every record: a waiter, a pending interrupt, an unread message."""
    bench = Bench()
    vm, other = bench.vm(vcpus=2), bench.vm()
    vm.enable(Intid.MAILBOX_READABLE, 9, vcpu=1)
    bench.hv.inject(vm.id, 1, 9)
    with vm.record.lock:
        vm.record.vcpus[1].interrupts.set_level("disk", 12, True)
    assert isinstance(vm.wait(), WaitForMessage)
    bench.hv.send(vm.id, b"unread", notify=False)
    other.put(b"refused")
    assert other.send(vm.id, 7, notify=1) == Preempted()
    for character in b"half a li":
        vm.call(HfId.DEBUG_LOG, character, vcpu=1)
    return bench, vm


def state(vm: Machine) -> object:
    return vm.record.key(), bytes(vm.record.log), [each.line for each in vm.record.vcpus]


def test_a_record_puts_back_all_that_the_lock_guards() -> None:
    bench, vm = busy()
    before = state(vm)
    record = carried(vm.record.save())
    bench.hv.run(vm.id, 0)
    vm.switch(FfaId.RX_RELEASE, vcpu=1)
    vm.resume(vcpu=1)
    vm.call(HfId.INTERRUPT_GET, vcpu=1)
    vm.call(FfaId.RXTX_UNMAP, vcpu=1)
    with vm.record.lock:
        vm.record.vcpus[1].interrupts.set_level("disk", 12, False)
    vm.call(HfId.DEBUG_LOG, ord("n"), vcpu=1)
    assert state(vm) != before
    with vm.record.lock:
        vm.record.restore(record, vm.record.pages.save())
    assert state(vm) == before
    assert vm.record.save() == record


def test_the_tables_of_a_new_vm_get_the_modes_of_the_record() -> None:
    _, vm = busy()
    record = vm.record.save()
    fresh = Bench().vm(vcpus=2, mapped=False)
    assert fresh.space.first_fault(RX, 1, Permissions.WRITE) is None
    with fresh.record.lock:
        fresh.record.restore(record)
    assert fresh.space.first_fault(RX, 1, Permissions.WRITE) == RX
    assert fresh.space.first_fault(TX, 1, Permissions.EXECUTE) == TX
    with fresh.record.lock:
        fresh.record.restore(msgspec.structs.replace(record, pages=PagesRecord()), record.pages)
    assert fresh.space.first_fault(RX, 1, Permissions.WRITE) is None


def test_a_vcpu_that_runs_cannot_be_saved() -> None:
    _, vm = busy()
    vm.record.vcpus[0].claimed = True
    with pytest.raises(InternalError, match="is saved while it runs"):
        vm.record.save()


def test_the_primarys_message_is_part_of_its_record() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.put(b"for the host")
    vm.send(1, 12)
    record = bench.registry.primary.save()
    assert bench.hv.rx_take() == (vm.id, b"for the host")
    bench.hv.rx_release()
    bench.registry.primary.restore(record)
    assert bench.hv.rx_take() == (vm.id, b"for the host")


def vcpu(record: VmRecord, **changes: Any) -> VmRecord:
    first, *rest = record.vcpus
    return msgspec.structs.replace(record, vcpus=(msgspec.structs.replace(first, **changes), *rest))


def mailbox(record: VmRecord, **changes: Any) -> VmRecord:
    return msgspec.structs.replace(
        record, mailbox=msgspec.structs.replace(record.mailbox, **changes)
    )


def pages(record: VmRecord, *overrides: tuple[int, int, bool, bool]) -> VmRecord:
    return msgspec.structs.replace(record, pages=PagesRecord(overrides))


HOSTILE: dict[str, Callable[[VmRecord], VmRecord]] = {
    "another VM": lambda r: msgspec.structs.replace(r, name="other"),
    "another dialect": lambda r: msgspec.structs.replace(r, dialect="ffa-9"),
    "a vCPU less": lambda r: msgspec.structs.replace(r, vcpus=r.vcpus[:1]),
    "a running vCPU": lambda r: vcpu(r, state="running"),
    "no vCPU state": lambda r: vcpu(r, state="asleep"),
    "too many interrupts": lambda r: vcpu(
        r, interrupts=msgspec.structs.replace(r.vcpus[0].interrupts, pending=1 << 64)
    ),
    "negative interrupts": lambda r: vcpu(
        r, interrupts=msgspec.structs.replace(r.vcpus[0].interrupts, enabled=-1)
    ),
    "a line of no interrupt": lambda r: vcpu(
        r, interrupts=msgspec.structs.replace(r.vcpus[0].interrupts, sources=((64, "disk"),))
    ),
    "RX outside": lambda r: mailbox(r, rx=BASE + PAGES * PAGE_SIZE),
    "RX within a page": lambda r: mailbox(r, rx=RX + 8),
    "RX alone": lambda r: mailbox(r, tx=None),
    "no RX state": lambda r: mailbox(r, state="lost"),
    "a message that is too long": lambda r: mailbox(r, message=(1, 4097)),
    "a waiter that cannot be": lambda r: mailbox(r, waiters=(1 << 16,)),
    "received without a message": lambda r: mailbox(r, message=None),
    "a message in no buffer": lambda r: mailbox(r, rx=None, tx=None),
    "a page outside": lambda r: pages(r, (BASE // PAGE_SIZE + PAGES, 1, True, True)),
    "no permissions": lambda r: pages(r, (BASE // PAGE_SIZE, 64, True, True)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_machine_can_have_is_refused(name: str) -> None:
    _, vm = busy()
    record = HOSTILE[name](vm.record.save())
    with pytest.raises(UserError, match=r"^snapshot: "), vm.record.lock:
        vm.record.restore(record)


@given(st.binary(max_size=200))
def test_bytes_are_a_record_or_an_error_of_msgspec(data: bytes) -> None:
    try:
        record = msgspec.msgpack.decode(data, type=VmRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    vm = Bench().vm()
    with pytest.raises(UserError), vm.record.lock:
        vm.record.restore(record)
