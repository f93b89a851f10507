"""The script guests that come with the project."""

from __future__ import annotations

from hfsched.abi.ffa import PRIMARY_ID, Intid
from hfsched.programs.library import (
    Call,
    Mailbox,
    interrupt_enable,
    interrupt_get,
    log,
    swap_ports,
)
from hfsched.vcpu.script import Cpu, Guest, Program, Wfi

__all__ = ["PROGRAMS", "echo", "reader", "relay"]


def echo(cpu: Cpu) -> Guest:
    """Answer every message with itself; no interrupt is ever enabled."""
    box = Mailbox(cpu)
    yield from box.map()
    while True:
        sender, data = yield from box.wait()
        yield from box.release()
        yield from box.send(sender, swap_ports(data))


def relay(cpu: Cpu) -> Guest:
    """Pass a message on: from below to the next VM, from above (or where none is) back."""
    box = Mailbox(cpu)
    yield from box.map()
    while True:
        sender, data = yield from box.wait()
        yield from box.release()
        if sender > box.id:
            yield from box.send(max(PRIMARY_ID, box.id - 1), data)
        elif (yield from box.try_send(box.id + 1, data)) is not None:
            yield from box.send(sender, swap_ports(data))


def reader(cpu: Cpu) -> Guest:
    """Sleep in WFI with MAILBOX_READABLE enabled; read in its handler, and answer."""
    box = Mailbox(cpu)
    yield from box.map()
    yield from interrupt_enable(Intid.MAILBOX_READABLE)
    yield from log("reader: up")

    def handle(_: Cpu) -> Guest:
        while (yield from interrupt_get()) == Intid.MAILBOX_READABLE:
            yield from _drain(box)

    cpu.handler = handle
    cpu.masked = False
    while True:
        yield Wfi()


def _drain(box: Mailbox) -> Call[None]:
    while (found := (yield from box.poll())) is not None:
        sender, data = found
        yield from box.release()
        yield from box.send(sender, swap_ports(data))


PROGRAMS: dict[str, Program] = {"echo": echo, "reader": reader, "relay": relay}
