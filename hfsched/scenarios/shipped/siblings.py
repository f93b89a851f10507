"""Guests of the scenario `machine` whose vCPUs do something beside each other.

- ``smp``: vCPU 0 turns vCPU 1 on for each message, which answers it, and turns itself off;
- ``stir``: answers one message, while it gives RX and TX back and maps them again, and vCPU 1, which it
  interrupts, does so too, and prints;
- ``pokes``: answers one message, and gives RX and TX back and maps them again, while vCPU 1 reads
  and writes the last word of RX: the latter it may only while RX is given back;
- ``chimes``: has vCPU 1 print a line for each message, by an interrupt, and answers when that interrupts it;
- ``polls``: answers each message; from the first on neither of its vCPUs waits: they run until they are kicked;
- ``fatal``: the same, but vCPU 0 ends when it has answered the first: the VM aborts;
- ``twice``: answers one message, and then both vCPUs end: the VM aborts, once;
- ``counts``: is ``echo`` when both vCPUs have executed for a while, and made no hypercall;
- ``rivals``: at the first message vCPU 0 and vCPU 1 turn vCPU 2 on, and who does answers; then ``echo``.
"""

from __future__ import annotations

from contextlib import suppress

from hfsched.abi.ffa import PRIMARY_ID, FfaId, HfId, PsciId
from hfsched.memory.ram import PAGE_SIZE
from hfsched.programs.library import (
    Call,
    GuestMailbox,
    interrupt_enable,
    interrupt_get,
    log,
    swap_ports,
)
from hfsched.vcpu.script import Abort, Cpu, Guest, Hvc, Load, Program, Step, Store, Wfi

__all__ = ["chimes", "counts", "fatal", "pokes", "polls", "rivals", "smp", "stir", "twice"]

_STIR = 9  # the interrupt between the vCPUs of ``stir``
_ECHO = 10  # the one back, of ``chimes``
_WORD = 4  # bytes
_POKES = 2  # of ``pokes``: each reads and writes
_COUNTS = 1  # of ``counts``: so often each vCPU executes
_NOTE = 0x800  # in the first page: a message's length, and the message, for another vCPU


def smp(cpu: Cpu) -> Guest:
    """Have vCPU 1, which is off between messages, answer each of them."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    entry = cpu.address_of(_worker)
    while True:
        _, data = yield from mailbox.wait()
        yield from mailbox.release()
        while not (yield Hvc(PsciId.AFFINITY_INFO, 1, 0))[0]:
            yield Hvc(FfaId.YIELD)
        cpu.write(cpu.base + _NOTE, bytes([len(data)]) + data)
        answer = yield Hvc(PsciId.CPU_ON, 1, entry, mailbox.id)
        assert not answer[0], "a vCPU that is off is not turned on"


def _worker(cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    mailbox.id = cpu.arg
    size = cpu.read(cpu.base + _NOTE, 1)[0]
    data = cpu.read(cpu.base + _NOTE + 1, size)
    yield from mailbox.send(PRIMARY_ID, swap_ports(data))
    yield Hvc(PsciId.CPU_OFF)


def stir(cpu: Cpu) -> Guest:
    """Answer a message, and change beside vCPU 1 what both use."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield Hvc(PsciId.CPU_ON, 1, cpu.address_of(_stirred))
    sender, data = yield from mailbox.wait()  # it goes with RX
    yield Hvc(HfId.INTERRUPT_INJECT, mailbox.id, 1, _STIR)
    yield Hvc(HfId.DEBUG_LOG, ord("a"))
    yield from _remap(mailbox)
    while (yield from mailbox.try_send(sender, swap_ports(data))) is not None:
        yield Hvc(FfaId.YIELD)  # TX is not mapped
    yield from mailbox.wait()


def _stirred(cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    yield from interrupt_enable(_STIR)
    yield Hvc(PsciId.CPU_SUSPEND)
    yield from _remap(mailbox)
    yield Hvc(HfId.DEBUG_LOG, ord("\n"))
    yield Hvc(PsciId.CPU_OFF)


def _remap(mailbox: GuestMailbox) -> Call[None]:
    """Give RX and TX back, and map them again; the other vCPU may have done either already."""
    yield Hvc(FfaId.RXTX_UNMAP)
    yield from mailbox.map()


def pokes(cpu: Cpu) -> Guest:
    """Answer one message, and map RX anew while vCPU 1 writes to it."""
    mailbox = yield from _answer_beside(cpu, _poke)
    yield from _remap(mailbox)
    yield from mailbox.wait()


def _poke(cpu: Cpu) -> Guest:
    """Access RX: the hypervisor looks, at any point, whether that was allowed."""
    word = GuestMailbox(cpu).rx + PAGE_SIZE - _WORD
    for _ in range(_POKES):
        with suppress(Abort):
            yield Store(word, (yield Load(word, _WORD))[0], _WORD)
    yield Hvc(PsciId.CPU_OFF)


def chimes(cpu: Cpu) -> Guest:
    """Answer every message when vCPU 1, which is interrupted, has interrupted this one."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from interrupt_enable(_ECHO)
    yield Hvc(PsciId.CPU_ON, 1, cpu.address_of(_chimed), mailbox.id)
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield Hvc(HfId.INTERRUPT_INJECT, mailbox.id, 1, _STIR)
        yield from log("a")
        while (yield from interrupt_get()) != _ECHO:
            yield Hvc(PsciId.CPU_SUSPEND)
        yield from mailbox.send(sender, swap_ports(data))


def _chimed(cpu: Cpu) -> Guest:
    vm = cpu.arg

    def handle(_: Cpu) -> Guest:
        while (yield from interrupt_get()) == _STIR:
            yield Hvc(HfId.INTERRUPT_INJECT, vm, 0, _ECHO)
            yield from log("b")

    cpu.handler = handle
    cpu.masked = False
    while True:
        yield from interrupt_enable(_STIR, on=False)
        yield from interrupt_enable(_STIR)
        yield Wfi()


def polls(cpu: Cpu) -> Guest:
    """Answer every message, and never wait beside vCPU 1 once there was one."""
    yield from _poll((yield from _answer_beside(cpu, _poller)))


def fatal(cpu: Cpu) -> Guest:
    """Answer one message, and end beside vCPU 1, which never waits."""
    yield from _answer_beside(cpu, _poller)


def twice(cpu: Cpu) -> Guest:
    """Answer one message, and end beside vCPU 1, which ends too."""
    yield from _answer_beside(cpu, _end)


def _end(cpu: Cpu) -> Guest:  # noqa: ARG001
    yield Hvc(FfaId.ID_GET)


def counts(cpu: Cpu) -> Guest:
    """Execute beside vCPU 1, and then answer every message."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield Hvc(PsciId.CPU_ON, 1, cpu.address_of(_counter))
    yield from _count()
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data))


def _counter(cpu: Cpu) -> Guest:  # noqa: ARG001
    yield from _count()
    yield Hvc(PsciId.CPU_OFF)


def _count() -> Call[None]:
    for _ in range(_COUNTS):
        yield Step()


def _answer_beside(cpu: Cpu, other: Program) -> Call[GuestMailbox]:
    """Answer one message; then turn vCPU 1 on."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    sender, data = yield from mailbox.wait()
    yield from mailbox.release()
    yield from mailbox.send(sender, swap_ports(data))
    yield Hvc(PsciId.CPU_ON, 1, cpu.address_of(other), mailbox.id)
    return mailbox


def _poller(cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    mailbox.id = cpu.arg
    yield from _poll(mailbox)


def _poll(mailbox: GuestMailbox) -> Call[None]:
    while True:
        found = yield from mailbox.poll()
        if found is not None:
            yield from mailbox.release()
            yield from mailbox.send(found[0], swap_ports(found[1]))


def rivals(cpu: Cpu) -> Guest:
    """Answer the first message on the vCPU that has turned vCPU 2 on, every other one on vCPU 0."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    entry, _ = cpu.address_of(_rival), cpu.address_of(_sleep)
    _, data = yield from mailbox.wait()
    yield from mailbox.release()
    cpu.write(cpu.base + _NOTE, bytes([len(data)]) + data)
    yield Hvc(PsciId.CPU_ON, 1, entry, mailbox.id)
    yield from _rival_answers(cpu, mailbox)
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data))


def _rival(cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    mailbox.id = cpu.arg
    yield from _rival_answers(cpu, mailbox)
    yield from _sleep(cpu)


def _rival_answers(cpu: Cpu, mailbox: GuestMailbox) -> Call[None]:
    """Answer the noted message if vCPU 2 is turned on by that."""
    if not (yield Hvc(PsciId.CPU_ON, 2, cpu.address_of(_sleep)))[0]:
        size = cpu.read(cpu.base + _NOTE, 1)[0]
        data = cpu.read(cpu.base + _NOTE + 1, size)
        yield from mailbox.send(PRIMARY_ID, swap_ports(data))


def _sleep(cpu: Cpu) -> Guest:  # noqa: ARG001
    while True:
        yield Wfi()
