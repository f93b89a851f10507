"""Script guests: small, and each for one thing."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias

from hfsched.abi.ffa import CONVENTION_64, FfaError, FfaId, HfId, Intid, PsciId
from hfsched.abi.ffa import PRIMARY_ID as HOST
from hfsched.vcpu.script import Action, Cpu, Hvc, Program, Step, Wfi

Regs: TypeAlias = tuple[int, ...]
Run: TypeAlias = Generator[Action, Regs, None]
Calls: TypeAlias = Generator[Action, Regs, Regs]

RX = 0x1000
TX = 0x2000
BELL = 7
NOTES = 0x3000  # a page that the vCPUs of a guest share
_BUSY = FfaError.BUSY & 0xFFFF_FFFF_FFFF_FFFF


def map_buffers(cpu: Cpu) -> Calls:
    return (yield Hvc(FfaId.RXTX_MAP | CONVENTION_64, cpu.base + TX, cpu.base + RX, 1))


def enable(intid: int) -> Calls:
    return (yield Hvc(HfId.INTERRUPT_ENABLE, intid, 1))


def cpu_on(cpu: Cpu, index: int, program: Program) -> Calls:
    return (yield Hvc(PsciId.CPU_ON | CONVENTION_64, index, cpu.address_of(program), 7))


def send(cpu: Cpu, own: int, to: int, data: bytes, *, notify: bool = False) -> Calls:
    cpu.write(cpu.base + TX, data)
    return (yield Hvc(FfaId.MSG_SEND, own << 16 | to, 0, len(data), int(notify)))


def send_until_sent(cpu: Cpu, own: int, to: int, data: bytes) -> Run:
    """Send; when the mailbox is busy, sleep until told that it is writable."""
    while True:
        regs = yield from send(cpu, own, to, data, notify=True)
        if regs[0] == FfaId.SUCCESS:
            return
        assert regs[2] == _BUSY, regs
        while (yield Hvc(HfId.MAILBOX_WRITABLE_GET))[0] != to:
            yield Wfi()
            yield Hvc(HfId.INTERRUPT_GET)


def take(cpu: Cpu, regs: Regs) -> bytes:
    return cpu.read(cpu.base + RX, regs[3])


def reply_to(data: bytes) -> bytes:
    return data[8:16] + data[:8] + data[16:]


def note(cpu: Cpu, data: bytes) -> None:
    """Write down what was read, {length u8, bytes}, for the test to look at."""
    used = int.from_bytes(cpu.read(cpu.base + NOTES, 2), "little")
    cpu.write(cpu.base + NOTES + 2 + used, bytes([len(data)]) + data)
    cpu.write(cpu.base + NOTES, (used + 1 + len(data)).to_bytes(2, "little"))


def sink(cpu: Cpu) -> Run:
    """Read messages and answer nothing; enables no interrupt."""
    yield from map_buffers(cpu)
    while True:
        regs = yield Hvc(FfaId.MSG_WAIT)
        if regs[0] == FfaId.MSG_SEND:
            note(cpu, take(cpu, regs))
            yield Hvc(FfaId.RX_RELEASE)


def ticking_sink(delay: int) -> Program:
    """Like `sink`, with the timer armed before the first wait."""

    def guest(cpu: Cpu) -> Run:
        yield from map_buffers(cpu)
        yield from enable(Intid.VIRTUAL_TIMER)
        cpu.arm(delay)
        while True:
            regs = yield Hvc(FfaId.MSG_WAIT)
            if regs[0] == FfaId.MSG_SEND:
                note(cpu, take(cpu, regs))
                yield Hvc(FfaId.RX_RELEASE)
            elif (yield Hvc(HfId.INTERRUPT_GET))[0] == Intid.VIRTUAL_TIMER:
                note(cpu, b"tick")

    return guest


def echo(cpu: Cpu) -> Run:
    """Answer every message to the host; enables no interrupt, and asks again when busy."""
    yield from map_buffers(cpu)
    while True:
        regs = yield Hvc(FfaId.MSG_WAIT)
        if regs[0] != FfaId.MSG_SEND:
            continue
        data = take(cpu, regs)
        yield Hvc(FfaId.RX_RELEASE)
        own, sender = regs[1] & 0xFFFF, regs[1] >> 16
        while (yield from send(cpu, own, sender, reply_to(data)))[0] != FfaId.SUCCESS:
            yield Hvc(FfaId.YIELD)


def reader(cpu: Cpu) -> Run:
    """Answer every message, told by MAILBOX_READABLE, waiting in WFI: Trusty's way."""
    yield from map_buffers(cpu)
    yield from enable(Intid.MAILBOX_READABLE)
    yield from enable(Intid.MAILBOX_WRITABLE)
    while True:
        regs = yield Hvc(FfaId.MSG_POLL)
        if regs[0] != FfaId.MSG_SEND:
            yield Wfi()
            yield Hvc(HfId.INTERRUPT_GET)
            continue
        data = take(cpu, regs)
        yield Hvc(FfaId.RX_RELEASE)
        yield from send_until_sent(cpu, regs[1] & 0xFFFF, regs[1] >> 16, reply_to(data))


def sleeper(cpu: Cpu) -> Run:
    """Wait for interrupts, and do nothing about them; enables none."""
    while True:
        yield Wfi()
        yield Hvc(HfId.INTERRUPT_GET)


def spinner(cpu: Cpu) -> Run:
    while True:
        yield Step()


def yielder(cpu: Cpu) -> Run:
    while True:
        yield Hvc(FfaId.YIELD)


def waiter(cpu: Cpu) -> Run:
    """Wait for messages on a further vCPU, reading what comes."""
    while True:
        regs = yield Hvc(FfaId.MSG_WAIT)
        if regs[0] == FfaId.MSG_SEND:
            note(cpu, take(cpu, regs))
            yield Hvc(FfaId.RX_RELEASE)


def with_second(first: Program, second: Program) -> Program:
    """Turn vCPU 1 on into `second`, then be `first`."""

    def guest(cpu: Cpu) -> Run:
        yield from cpu_on(cpu, 1, second)
        yield from first(cpu)

    return guest


def talker(own: int, to: int, *texts: bytes) -> Program:
    """Send each text to another VM, waiting for room; then sleep."""

    def guest(cpu: Cpu) -> Run:
        yield from map_buffers(cpu)
        yield from enable(Intid.MAILBOX_WRITABLE)
        for text in texts:
            yield from send_until_sent(cpu, own, to, text)
        yield from sleeper(cpu)

    return guest


def servant(cpu: Cpu) -> Run:
    """Answer direct requests with their words plus one, messages not at all.

    A first word of 99 makes it sleep until interrupt `BELL` before it answers, of 98 take
    some steps, of 97 return from its function: the CPU cannot go on.
    """
    yield from map_buffers(cpu)
    yield from enable(BELL)
    regs = yield Hvc(FfaId.MSG_WAIT)
    while True:
        if regs[0] == FfaId.MSG_SEND:
            note(cpu, take(cpu, regs))
            yield Hvc(FfaId.RX_RELEASE)
            regs = yield Hvc(FfaId.MSG_WAIT)
        elif regs[0] == FfaId.MSG_SEND_DIRECT_REQ:
            words = regs[3:8]
            if words[0] == 99:
                while (yield Hvc(HfId.INTERRUPT_GET))[0] != BELL:
                    yield Wfi()
            elif words[0] == 98:
                yield Step()
                yield Step()
            elif words[0] == 97:
                return
            back = (regs[1] & 0xFFFF) << 16 | HOST
            regs = yield Hvc(FfaId.MSG_SEND_DIRECT_RESP, back, 0, *[word + 1 for word in words])
        else:
            regs = yield Hvc(FfaId.MSG_WAIT)


def notes(data: bytes) -> list[bytes]:
    """Return what `note` wrote, from the bytes of the page."""
    used = int.from_bytes(data[:2], "little")
    rest, out = data[2 : 2 + used], []
    while rest:
        out.append(rest[1 : 1 + rest[0]])
        rest = rest[1 + rest[0] :]
    return out


def held_flood(own: int, messages: list[bytes]) -> Program:
    """Send messages to the host as fast as it takes them, then wait for messages."""

    def guest(cpu: Cpu) -> Run:
        yield from talker(own, HOST, *messages)(cpu)

    return guest
