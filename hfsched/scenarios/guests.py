"""Guests of the scenarios, for the engine `script`: receivers and senders.

Each takes a `GuestLog`, in which it records its actions, and its CPU.  Receivers, by name:

- ``echo``: waits for messages, never enables an interrupt;
- ``disabled``: the same on vCPU 0; the others sleep in WFI with everything disabled;
- ``trusty``: MAILBOX_READABLE enabled; reads in a handler, and leaves the interrupt pending after an
  MSG_WAIT that returned a message (a fast call);
- ``trusty-0``: vCPU 0 as ``trusty``, but it waits for its first message, a fast call, before it enables
  the interrupt; the others never wait for messages: they sleep in WFI with everything disabled;
- ``wfi-echo``: vCPU 0 sleeps in WFI with MAILBOX_READABLE disabled, vCPU 1 waits for messages;
- ``reader-1``: vCPU 0 sleeps in WFI with MAILBOX_READABLE disabled, vCPU 1 in WFI with it enabled;
- ``reader-off``: vCPU 0 enables MAILBOX_READABLE and turns itself off, vCPU 1 is as in ``reader-1``;
- ``ticking``: like ``echo``, with a time-out on the first wait.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

from hfsched.abi.ffa import FfaError, FfaId, Intid, PsciId
from hfsched.programs.library import GuestMailbox, interrupt_enable, interrupt_get
from hfsched.vcpu.script import Cpu, Guest, Hvc, Wfi

__all__ = ["RECEIVERS", "START", "GuestLog", "aborting", "sender"]

START = 9  # an interrupt that lets a waiting guest begin
TICK = 1000  # ns


class GuestLog:
    """The actions of one VM's guest; its vCPUs share it."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.waits = False  # for MAILBOX_WRITABLE
        self.sent = 0
        self.ticks = 0
        self.notified = 0  # interrupts MAILBOX_READABLE taken

    def key(self) -> Hashable:
        """Return the whole log, as a part of the guest's state."""
        return (self.by_sender(), self.waits, self.sent, self.ticks, self.notified)

    def by_sender(self) -> Hashable:
        """Return the messages read, by sender; the order among senders is irrelevant."""
        return tuple(sorted(self.read, key=lambda message: message[0]))


Program = Callable[[GuestLog, Cpu], Guest]


def _echo(log: GuestLog, cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    while True:
        log.read.append((yield from mailbox.wait())[1])
        yield from mailbox.release()


def _ticking(log: GuestLog, cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    yield from interrupt_enable(Intid.VIRTUAL_TIMER)
    cpu.arm(TICK)
    while True:
        found = mailbox.message((yield Hvc(FfaId.MSG_WAIT)))
        if found is not None:
            log.read.append(found[1])
            yield from mailbox.release()
        elif (yield from interrupt_get()) == Intid.VIRTUAL_TIMER:
            log.ticks += 1


def _sleeper(_: GuestLog, cpu: Cpu) -> Guest:  # noqa: ARG001
    while True:
        yield Wfi()


def _drain(log: GuestLog, mailbox: GuestMailbox) -> Guest:
    while (found := (yield from mailbox.poll())) is not None:
        log.read.append(found[1])
        yield from mailbox.release()


def _handler(log: GuestLog, mailbox: GuestMailbox) -> Callable[[Cpu], Guest]:
    def handle(_: Cpu) -> Guest:
        while (yield from interrupt_get()) == Intid.MAILBOX_READABLE:
            yield from _drain(log, mailbox)

    return handle


def _late_trusty(log: GuestLog, cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    log.read.append((yield from mailbox.wait())[1])
    yield from mailbox.release()
    yield from _trusty(log, cpu)


def _trusty(log: GuestLog, cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    yield from interrupt_enable(Intid.MAILBOX_READABLE)
    cpu.handler = _handler(log, mailbox)
    while True:
        found = mailbox.message((yield Hvc(FfaId.MSG_WAIT)))
        if found is not None:  # a fast call: interrupts stay masked, the pending one stays
            log.read.append(found[1])
            yield from mailbox.release()
        else:
            cpu.masked = False
            yield Hvc(FfaId.ID_GET)  # the window
            cpu.masked = True


def _reader(log: GuestLog, cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    yield from interrupt_enable(Intid.MAILBOX_READABLE)
    cpu.handler = _handler(log, mailbox)
    cpu.masked = False
    while True:
        yield Wfi()


def _off(_: GuestLog, cpu: Cpu) -> Guest:  # noqa: ARG001
    yield from interrupt_enable(Intid.MAILBOX_READABLE)
    yield Hvc(PsciId.CPU_OFF)


def sender(own: int, to: int, messages: int) -> Program:
    """Return a guest that sends {own id, n} to VM `to`, beginning at the interrupt `START`.

    After a BUSY it sleeps until its MAILBOX_WRITABLE.
    """
    return partial(_sending_guest, own, to, messages)


def _sending_guest(own: int, to: int, messages: int, log: GuestLog, cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    mailbox.id = own
    yield from interrupt_enable(Intid.MAILBOX_WRITABLE)
    yield from interrupt_enable(START)
    yield Wfi()
    yield from interrupt_get()
    while log.sent < messages:
        if (yield from mailbox.try_send(to, bytes((own, log.sent)), notify=True)) is FfaError.BUSY:
            log.waits = True
            yield Wfi()
            yield from interrupt_get()
        else:
            log.waits = False
            log.sent += 1
    while True:
        yield Wfi()


def aborting(_: GuestLog, cpu: Cpu) -> Guest:  # noqa: ARG001
    """Wait for the interrupt `START`, and end: the VM aborts."""
    yield from interrupt_enable(START)
    yield Wfi()


RECEIVERS: dict[str, tuple[Program, Program]] = {  # vCPU 0, and all others
    "echo": (_echo, _echo),
    "disabled": (_echo, _sleeper),
    "trusty": (_trusty, _trusty),
    "trusty-0": (_late_trusty, _sleeper),
    "wfi-echo": (_sleeper, _echo),
    "reader-1": (_sleeper, _reader),
    "reader-off": (_off, _reader),
    "ticking": (_ticking, _sleeper),
}
