"""Script guests that do what the bundled guests of the same names do, as far as tests ask."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from talk import Target

from hfsched.abi.ffa import CONVENTION_64, FfaError, FfaId, Intid, PsciId
from hfsched.programs.bundled import echo
from hfsched.programs.library import Call, GuestMailbox, interrupt_enable, interrupt_get, swap_ports
from hfsched.vcpu.script import Cpu, Guest, Hvc, Load, Program, Smc, Step, Store

__all__ = ["SCRIPT", "ScriptTarget", "cpus", "echo", "hostile", "relay", "trusty"]

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
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from interrupt_enable(Intid.VIRTUAL_TIMER)
    sleeper: tuple[int, bytes, bytes] | None = None
    while True:
        found = mailbox.message((yield Hvc(FfaId.MSG_WAIT)))
        if found is not None:
            sender, data = found
            yield from mailbox.release()
            command, _, argument = data[16:].partition(b" ")
            if command == b"sleep":
                sleeper = sender, data, b"slept %s ms" % argument
                cpu.arm(int(argument) * MS)
                continue
            text = (
                b"counter %d frequency 1000000000" % now(cpu) if command == b"time" else data[16:]
            )
            yield from mailbox.send(sender, swap_ports(data[:16]) + text)
        elif sleeper is not None and (yield from interrupt_get()) == Intid.VIRTUAL_TIMER:
            cpu.arm(None)
            sender, data, text = sleeper
            yield from mailbox.send(sender, swap_ports(data[:16]) + text)


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
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    kept: deque[tuple[int, bytes]] = deque()
    while True:
        found = (yield from mailbox.poll()) if kept else (yield from mailbox.wait())
        if found is not None:
            sender, data = found
            yield from mailbox.release()
            kept.append((mailbox.id - 1 if sender > mailbox.id else mailbox.id + 1, data))
        if (yield from _sent(mailbox, *kept[0])):
            kept.popleft()
        else:
            yield Hvc(FfaId.YIELD)


def _sent(mailbox: GuestMailbox, to: int, data: bytes) -> Call[bool]:
    """Try to send; tell whether it was."""
    error = yield from mailbox.try_send(to, data)
    assert error in (None, FfaError.BUSY)
    return error is None


def hostile(cpu: Cpu) -> Guest:
    """The command ``spin`` of hostile."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from _spinning(mailbox)
    while True:
        yield Step()


def _spinning(mailbox: GuestMailbox) -> Call[None]:
    sender, data = yield from mailbox.wait()
    yield from mailbox.release()
    yield from mailbox.send(sender, swap_ports(data[:16]) + b"spinning")


ROUNDS, STARTS, ENDED, WRONG, HOPS = range(5)  # words of a vCPU
OTHERS, COUNTING, RING_OPEN = range(3)  # words of all


class Cpus:
    """What the vCPUs of `cpus` share: words in the fifth page, and the commands."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu

    def get(self, word: int, index: int | None = None) -> int:
        return int.from_bytes(self._cpu.read(self._place(word, index), 8), "little")

    def set(self, word: int, value: int, index: int | None = None) -> None:
        self._cpu.write(self._place(word, index), value.to_bytes(8, "little"))

    def add(self, word: int, index: int, value: int = 1) -> None:
        self.set(word, self.get(word, index) + value, index)

    def _place(self, word: int, index: int | None) -> int:
        return self._cpu.base + 0x4000 + 0x40 * (0 if index is None else index + 1) + 8 * word

    def sum(self, word: int) -> int:
        return sum(self.get(word, index) for index in range(self.get(OTHERS) + 1))

    def is_on(self, index: int) -> Call[bool]:
        return (yield Smc(PsciId.AFFINITY_INFO | CONVENTION_64, index, 0))[0] == 0

    def start(self, index: int, program: Program) -> Call[None]:
        entry = self._cpu.address_of(program)
        regs = yield Smc(PsciId.CPU_ON | CONVENTION_64, index, entry, 0)
        self.add(WRONG, index, regs[0] != 0)

    def hand(self, to: int, hops: int) -> Call[None]:
        while (yield from self.is_on(to)):
            yield Hvc(FfaId.YIELD)
        self.set(HOPS, hops, to)
        yield from self.start(to, hop)

    def a_round_each(self) -> Call[None]:
        for index in range(1, self.get(OTHERS) + 1):
            before = self.get(ROUNDS, index)
            while self.get(ROUNDS, index) == before:
                yield Hvc(FfaId.YIELD)

    def all_off(self) -> Call[None]:
        for index in range(1, self.get(OTHERS) + 1):
            while (yield from self.is_on(index)):
                yield Hvc(FfaId.YIELD)

    def run(self, mailbox: GuestMailbox, command: str, *numbers: int) -> Call[str]:
        """Do what the guest of this name does."""
        others = range(1, self.get(OTHERS) + 1)
        if command == "count":
            self.set(COUNTING, 1)
            for index in others:
                yield from self.start(index, count)
            yield from self.a_round_each()
        elif command == "halt":
            self.set(COUNTING, 0)
            yield from self.all_off()
        elif command == "map":
            for _ in range(numbers[0]):
                regs = yield Hvc(FfaId.RXTX_UNMAP)
                self.add(WRONG, 0, regs[0] != FfaId.SUCCESS)
                yield from mailbox.map()
                if self.get(COUNTING):
                    yield from self.a_round_each()
        elif command == "ring":
            tokens, hops = numbers
            ended = self.sum(ENDED) + tokens
            self.set(RING_OPEN, 0)
            for index in range(1, tokens + 1):
                yield from self.hand(index, hops)
            self.set(RING_OPEN, 1)
            while self.sum(ENDED) < ended:
                yield Hvc(FfaId.YIELD)
            yield from self.all_off()
        words = {"rounds": ROUNDS, "starts": STARTS, "ended": ENDED, "wrong": WRONG}
        said = " ".join(f"{name} {self.sum(word)}" for name, word in words.items())
        return f"others {len(others)} {said}"


def cpus(cpu: Cpu) -> Guest:
    """The guest `cpus`."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    shared = Cpus(cpu)
    others = 0
    while (yield Smc(PsciId.AFFINITY_INFO | CONVENTION_64, others + 1, 0))[0] in (0, 1):
        others += 1
    shared.set(OTHERS, others)
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        command, *numbers = data[16:].decode().split()
        answer = yield from shared.run(mailbox, command, *map(int, numbers))
        yield from mailbox.send(sender, swap_ports(data[:16]) + answer.encode())


def count(cpu: Cpu) -> Guest:
    """Count rounds, write TX and read RX in each."""
    shared = Cpus(cpu)
    mailbox = GuestMailbox(cpu)
    sent = mailbox.tx + 4096 - 8 * (cpu.index + 1)
    while shared.get(COUNTING):
        number = shared.get(ROUNDS, cpu.index) + 1
        yield Store(sent, number)
        yield Load(mailbox.rx)
        shared.add(WRONG, cpu.index, (yield Load(sent)) != (number,))
        shared.set(ROUNDS, number, cpu.index)
    yield Smc(PsciId.CPU_OFF)


def hop(cpu: Cpu) -> Guest:
    """Hand a token on."""
    shared = Cpus(cpu)
    hops = shared.get(HOPS, cpu.index)
    shared.add(STARTS, cpu.index)
    while not shared.get(RING_OPEN):
        yield Hvc(FfaId.YIELD)
    if hops > 1:
        yield from shared.hand(cpu.index % shared.get(OTHERS) + 1, hops - 1)
    else:
        shared.add(ENDED, cpu.index)
    yield Smc(PsciId.CPU_OFF)
