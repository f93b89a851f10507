"""Script guests that do what the bundled guests of the same names do, as far as tests ask."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from talk import Target

from hfsched.abi.ffa import FfaError, FfaId, Intid
from hfsched.programs.bundled import echo
from hfsched.programs.library import Call, Mailbox, interrupt_enable, interrupt_get, swap_ports
from hfsched.vcpu.script import Cpu, Guest, Hvc, Step

__all__ = ["SCRIPT", "ScriptTarget", "echo", "hostile", "relay", "trusty"]

MS = 1_000_000  # ns


@dataclass(frozen=True)
class ScriptTarget(Target):
    """The engine script; its guests are those of this file."""

    def why_not(self) -> str | None:
        return None

    def image(self, guest: str) -> str:
        return f"standins:{guest}"


SCRIPT = ScriptTarget("script", "script")


def trusty(cpu: Cpu) -> Guest:
    """Port 1 of trusty: ``time``, ``sleep MS`` (one at a time), anything else."""
    box = Mailbox(cpu)
    yield from box.map()
    yield from interrupt_enable(Intid.VIRTUAL_TIMER)
    sleeper: tuple[int, bytes, bytes] | None = None
    while True:
        found = box.message((yield Hvc(FfaId.MSG_WAIT)))
        if found is not None:
            sender, data = found
            yield from box.release()
            command, _, argument = data[16:].partition(b" ")
            if command == b"sleep":
                sleeper = sender, data, b"slept %s ms" % argument
                cpu.arm(int(argument) * MS)
                continue
            text = (
                b"counter %d frequency 1000000000" % now(cpu) if command == b"time" else data[16:]
            )
            yield from box.send(sender, swap_ports(data[:16]) + text)
        elif sleeper is not None and (yield from interrupt_get()) == Intid.VIRTUAL_TIMER:
            cpu.arm(None)
            sender, data, text = sleeper
            yield from box.send(sender, swap_ports(data[:16]) + text)


def now(cpu: Cpu) -> int:
    """Return the guest's counter, in ns."""
    cpu_timer, masked = cpu.timer, cpu.timer_masked
    cpu.arm(0)
    assert cpu.timer is not None
    counter, cpu.timer, cpu.timer_masked = cpu.timer, cpu_timer, masked
    return counter


def relay(cpu: Cpu) -> Guest:
    """Pass on what comes from below to the next VM, and from above to the one before; in order.

    While a receiver is busy the mailbox is drained, or two relays would wait for each other.
    """
    box = Mailbox(cpu)
    yield from box.map()
    kept: deque[tuple[int, bytes]] = deque()
    while True:
        found = (yield from box.poll()) if kept else (yield from box.wait())
        if found is not None:
            sender, data = found
            yield from box.release()
            kept.append((box.id - 1 if sender > box.id else box.id + 1, data))
        if (yield from _sent(box, *kept[0])):
            kept.popleft()
        else:
            yield Hvc(FfaId.YIELD)


def _sent(box: Mailbox, to: int, data: bytes) -> Call[bool]:
    """Try to send; tell whether it was."""
    error = yield from box.try_send(to, data)
    assert error in (None, FfaError.BUSY)
    return error is None


def hostile(cpu: Cpu) -> Guest:
    """The command ``spin`` of hostile."""
    box = Mailbox(cpu)
    yield from box.map()
    yield from _spinning(box)
    while True:
        yield Step()


def _spinning(box: Mailbox) -> Call[None]:
    sender, data = yield from box.wait()
    yield from box.release()
    yield from box.send(sender, swap_ports(data[:16]) + b"spinning")
