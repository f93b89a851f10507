"""Messages between VMs: RX and TX, sending, waiting, releasing, lists of waiters.

Each function takes the calling vCPU and decoded arguments and returns an `Reply`.  The order of
the checks is Hafnium's (f0701679c0, api.c), for it decides which error a guest sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.abi.dialect import Error
from hfsched.abi.ffa import MAILBOX_SIZE, OTHER_WORLD_ID
from hfsched.hypervisor.interface import (
    DirectResponse,
    Message,
    NotifyWaiters,
    WaitForMessage,
)
from hfsched.hypervisor.pages import OWN, Mode
from hfsched.hypervisor.party import in_order
from hfsched.hypervisor.reply import Reply, Switch
from hfsched.hypervisor.vm import Vcpu, VcpuState, Vm
from hfsched.mailbox.mailbox import Header, RxState
from hfsched.memory.ram import PAGE_SIZE
from hfsched.vcpu.engine import Permissions

if TYPE_CHECKING:
    from hfsched.hypervisor.context import Context

__all__ = [
    "direct_request",
    "direct_response",
    "msg_poll",
    "msg_send",
    "msg_wait",
    "rx_release",
    "rxtx_map",
    "rxtx_unmap",
    "waiter_get",
    "writable_get",
]

# Finding an enumeration's member takes as long as a call.
_BLOCKED_MAILBOX = VcpuState.BLOCKED_MAILBOX
_INTERRUPTED = Error.INTERRUPTED
_TX = Mode(Permissions.RW, owned=False, exclusive=False)
_RX = Mode(Permissions.READ, owned=False, exclusive=False)


def rxtx_map(_: Context, vcpu: Vcpu, tx: int, rx: int, pages: int) -> Reply:
    """Take one page each for TX and RX: the VM keeps TX to read and write, RX to read."""
    vm = vcpu.vm
    abi = vm.dialect
    with vm.lock:
        mailbox = vm.mailbox
        if mailbox.rx is not None:
            return abi.error(Error.DENIED)
        if pages != MAILBOX_SIZE // PAGE_SIZE or tx % PAGE_SIZE or rx % PAGE_SIZE or tx == rx:
            return abi.error(Error.INVALID_PARAMETERS)
        if not vm.pages.exclusive(tx, Permissions.RW) or not vm.pages.exclusive(
            rx, Permissions.READ
        ):
            return abi.error(Error.DENIED)
        _set_mode(vm, tx, _TX)
        _set_mode(vm, rx, _RX)
        mailbox.tx = tx
        mailbox.rx = rx
        waiters = bool(mailbox.waiters)
    return _writable(vcpu, waiters=waiters)


def rxtx_unmap(_: Context, vcpu: Vcpu, w1: int) -> Reply:
    """Give the pages back; an unread message is lost with them, as DEN0077A 7.2.3 has it.

    `w1` must be 0, as later versions of Hafnium want it; f0701679c0 has no such call.
    """
    vm = vcpu.vm
    with vm.lock:
        mailbox = vm.mailbox
        if w1 or mailbox.rx is None or mailbox.tx is None:
            return vm.dialect.error(Error.INVALID_PARAMETERS)
        _set_mode(vm, mailbox.tx, OWN)
        _set_mode(vm, mailbox.rx, OWN)
        vm.unmapped += mailbox.state is RxState.RECEIVED
        mailbox.rx = mailbox.tx = mailbox.message = None
        mailbox.state = RxState.EMPTY
    return vm.dialect.success()


def _set_mode(vm: Vm, ipa: int, mode: Mode) -> None:
    vm.pages.set(ipa, mode)
    vm.space.protect(ipa, PAGE_SIZE, mode.permissions)


def rx_release(_: Context, vcpu: Vcpu) -> Reply:
    """Empty RX."""
    vm = vcpu.vm
    with vm.lock:
        if not vm.mailbox.release():
            return vm.dialect.error(Error.DENIED)
        waiters = bool(vm.mailbox.waiters)
    return _writable(vcpu, waiters=waiters)


def _writable(vcpu: Vcpu, *, waiters: bool) -> Reply:
    success = vcpu.vm.dialect.success()
    return Switch(success, NotifyWaiters()) if waiters else success


def msg_send(
    context: Context, vcpu: Vcpu, sender: int, receiver: int, size: int, notify: int
) -> Reply:
    """Copy `size` bytes of TX into the receiver's RX."""
    vm = vcpu.vm
    abi = vm.dialect
    if sender != vm.id or receiver == vm.id or size > MAILBOX_SIZE:
        return abi.error(Error.INVALID_PARAMETERS)
    if vcpu.direct_origin is not None:
        return abi.error(Error.DENIED)
    target = context.registry.find(receiver)
    if target is None:
        return _nobody(vcpu, receiver)
    first, second = in_order(vm, target)
    with first.lock, second.lock:  # the sender's too: its TX stays what it is while it is read
        tx = vm.mailbox.tx
        if tx is None:
            return abi.error(Error.INVALID_PARAMETERS)
        mailbox = target.mailbox
        if not mailbox.writable:
            if notify:
                mailbox.refuse(sender)
            return abi.error(Error.BUSY)
        target.store(vm.memory.read(tx, size))
        mailbox.write(Header(sender, size), target.arrival)
    return Switch(abi.success(), Message(sender, receiver, size if target.told_sizes else 0))


def _nobody(vcpu: Vcpu, receiver: int) -> Reply:
    """Refuse a message to an id that no VM has: the secure world exists, and never has an RX."""
    vm = vcpu.vm
    if receiver == OTHER_WORLD_ID:
        with vm.lock:
            ready = vm.mailbox.tx is not None
        if ready:
            return vm.dialect.error(Error.BUSY)
    return vm.dialect.error(Error.INVALID_PARAMETERS)


def msg_wait(_: Context, vcpu: Vcpu) -> Reply:
    """Return the unread message, or block until there is one or an interrupt."""
    vm = vcpu.vm
    abi = vm.dialect
    if vcpu.direct_origin is not None:
        return abi.error(Error.DENIED)
    with vm.lock:
        header = vm.mailbox.read()
        if header is not None:
            return abi.message(header.sender, vm.id, header.size)
        interrupted = abi.error(_INTERRUPTED)
        if vcpu.interrupts.up:
            return interrupted
    return Switch(interrupted, WaitForMessage(None), _BLOCKED_MAILBOX)


def msg_poll(_: Context, vcpu: Vcpu) -> Reply:
    """Return the unread message, or RETRY."""
    vm = vcpu.vm
    abi = vm.dialect
    if vcpu.direct_origin is not None:
        return abi.error(Error.DENIED)
    with vm.lock:
        header = vm.mailbox.read()
    if header is None:
        return abi.error(Error.RETRY)
    return abi.message(header.sender, vm.id, header.size)


def writable_get(_: Context, vcpu: Vcpu) -> Reply:
    """Return the next VM whose mailbox became writable for the caller, or -1."""
    vm = vcpu.vm
    with vm.lock:
        ready = vm.mailbox.take_ready()
    return vm.dialect.value(-1 if ready is None else ready)


def waiter_get(_: Context, vcpu: Vcpu, vm: int) -> Reply:  # noqa: ARG001
    """Refuse: only the primary may ask, and it has its own interface."""
    return vcpu.vm.dialect.value(-1)


def direct_request(_: Context, vcpu: Vcpu, sender: int, receiver: int) -> Reply:  # noqa: ARG001
    """Refuse: only the primary may ask, and it has its own interface."""
    return vcpu.vm.dialect.error(Error.NOT_SUPPORTED)


def direct_response(_: Context, vcpu: Vcpu, sender: int, receiver: int, *words: int) -> Reply:
    """Reply the direct request being served, and wait for a message."""
    vm = vcpu.vm
    abi = vm.dialect
    if sender != vm.id or receiver == vm.id:
        return abi.error(Error.INVALID_PARAMETERS)
    if vcpu.direct_origin is None or vcpu.direct_origin != receiver:
        return abi.error(Error.DENIED)
    with vm.lock:
        vcpu.direct_origin = None
    return Switch(abi.interrupted_response(), DirectResponse(words), VcpuState.BLOCKED_MAILBOX)
