"""Script guests for these tests."""

from __future__ import annotations

import struct
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from hfsched.mailbox.ports import HEADER
from hfsched.programs.library import GuestMailbox, swap_ports

if TYPE_CHECKING:
    from hfsched.vcpu.script import Cpu, Guest

FLOOD = 400
LAST_MESSAGES = 14  # at most as many as a port's queue holds

# By VM name: a guest that is `gated` takes no message before its gate is open.
GATES: defaultdict[str, threading.Event] = defaultdict(threading.Event)


def gated(cpu: Cpu) -> Guest:
    """Echo, once its gate is open."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    GATES[cpu._space.name].wait()
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data))


def sink(cpu: Cpu) -> Guest:
    """Take everything, once its gate is open, and answer nothing."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    GATES[cpu._space.name].wait()
    while True:
        yield from mailbox.wait()
        yield from mailbox.release()


def flood(cpu: Cpu) -> Guest:
    """Answer each message with `FLOOD` numbered ones."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        header = swap_ports(data)[: HEADER.size]
        for number in range(FLOOD):
            yield from mailbox.send(sender, header + struct.pack("<I", number) * 200)


def drowning(cpu: Cpu) -> Guest:
    """Answer one message with `LAST_MESSAGES` long ones, more than a socket holds, and end."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    sender, data = yield from mailbox.wait()
    header = swap_ports(data)[: HEADER.size]
    for number in range(LAST_MESSAGES):
        yield from mailbox.send(sender, header + bytes([number]) * 4080)


def dying(cpu: Cpu) -> Guest:
    """Answer one message with three, and end."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    sender, data = yield from mailbox.wait()
    for _ in range(3):
        yield from mailbox.send(sender, swap_ports(data))
