"""The script guests that come with the project."""

from __future__ import annotations

from hfsched.abi.ffa import PRIMARY_ID, Intid
from hfsched.programs.library import (
    Call,
    GuestMailbox,
    interrupt_enable,
    interrupt_get,
    log,
    swap_ports,
)
from hfsched.vcpu.script import Cpu, Guest, Program, Wfi

__all__ = ["PROGRAMS", "echo", "reader", "relay"]


def echo(cpu: Cpu) -> Guest:
    """Answer every message with itself; no interrupt is ever enabled."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data))


def relay(cpu: Cpu) -> Guest:
    """Pass a message on: from below to the next VM, from above (or where none is) back."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        if sender > mailbox.id:
            yield from mailbox.send(max(PRIMARY_ID, mailbox.id - 1), data)
        elif (yield from mailbox.try_send(mailbox.id + 1, data)) is not None:
            yield from mailbox.send(sender, swap_ports(data))


def reader(cpu: Cpu) -> Guest:
    """Sleep in WFI with MAILBOX_READABLE enabled; read in its handler, and answer."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from interrupt_enable(Intid.MAILBOX_READABLE)
    yield from log("reader: up")

    def handle(_: Cpu) -> Guest:
        while (yield from interrupt_get()) == Intid.MAILBOX_READABLE:
            yield from _drain(mailbox)

    cpu.handler = handle
    cpu.masked = False
    while True:
        yield Wfi()


def _drain(mailbox: GuestMailbox) -> Call[None]:
    while (found := (yield from mailbox.poll())) is not None:
        sender, data = found
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data))


PROGRAMS: dict[str, Program] = {"echo": echo, "reader": reader, "relay": relay}
