"""Script guests for these tests."""

from __future__ import annotations

import struct
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from hfsched.mailbox.ports import HEADER
from hfsched.programs.library import Mailbox, swap_ports

if TYPE_CHECKING:
    from hfsched.vcpu.script import Cpu, Guest

FLOOD = 400
LAST_WORDS = 14  # at most as many as a port's queue holds

# By VM name: a guest that is `gated` takes no message before its gate is open.
GATES: defaultdict[str, threading.Event] = defaultdict(threading.Event)


def gated(cpu: Cpu) -> Guest:
    """Echo, once its gate is open."""
    box = Mailbox(cpu)
    yield from box.map()
    GATES[cpu._space.name].wait()
    while True:
        sender, data = yield from box.wait()
        yield from box.release()
        yield from box.send(sender, swap_ports(data))


def sink(cpu: Cpu) -> Guest:
    """Take everything, once its gate is open, and answer nothing."""
    box = Mailbox(cpu)
    yield from box.map()
    GATES[cpu._space.name].wait()
    while True:
        yield from box.wait()
        yield from box.release()


def flood(cpu: Cpu) -> Guest:
    """Answer each message with `FLOOD` numbered ones."""
    box = Mailbox(cpu)
    yield from box.map()
    while True:
        sender, data = yield from box.wait()
        yield from box.release()
        header = swap_ports(data)[: HEADER.size]
        for number in range(FLOOD):
            yield from box.send(sender, header + struct.pack("<I", number) * 200)


def drowning(cpu: Cpu) -> Guest:
    """Answer one message with `LAST_WORDS` long ones, more than a socket holds, and end."""
    box = Mailbox(cpu)
    yield from box.map()
    sender, data = yield from box.wait()
    header = swap_ports(data)[: HEADER.size]
    for number in range(LAST_WORDS):
        yield from box.send(sender, header + bytes([number]) * 4080)


def dying(cpu: Cpu) -> Guest:
    """Answer one message with three, and end."""
    box = Mailbox(cpu)
    yield from box.map()
    sender, data = yield from box.wait()
    for _ in range(3):
        yield from box.send(sender, swap_ports(data))
