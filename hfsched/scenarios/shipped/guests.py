"""What the VMs of the scenario `machine` boot, named in its description as MODULE:FUNCTION.

- ``echo``: answers each message; while the host's mailbox is full it tries again;
- ``writer``: the same, but sleeps until its MAILBOX_WRITABLE meanwhile;
- ``burst``: answers each message twice;
- ``talker``: sends two messages to host port `TALKED`, unasked, and then is ``echo``;
- ``mortal``: answers one message, and ends: the VM aborts;
- ``server``: answers messages, and direct requests with their own words;
- ``smp``: vCPU 0 turns vCPU 1 on for each message, which answers it, and turns itself off;
- ``stir``: answers each message, and then gives RX back and maps it again, while vCPU 1, which it interrupts,
  prints and accesses RX too; a message that comes between is lost, so the machine has to be stopped;
- ``doomed``: as ``server``, but vCPU 1, turned on at the first message, ends: the VM aborts.
"""

from __future__ import annotations

from contextlib import suppress

from msgspec import Struct

from hfsched.abi.ffa import PRIMARY_ID, FfaError, FfaId, HfId, Intid, PsciId
from hfsched.mailbox.ports import frame
from hfsched.programs.bundled import echo
from hfsched.programs.library import (
    Call,
    GuestMailbox,
    interrupt_enable,
    interrupt_get,
    swap_ports,
)
from hfsched.vcpu.script import Abort, Cpu, Guest, Hvc, Program, Store, Wfi

__all__ = ["GUESTS", "PORT", "TALKED", "GuestKind"]

PORT = 1  # of every guest
TALKED = 7  # the host's port that ``talker`` sends to
_TALK = 2  # messages
_STIR = 9  # the interrupt between the vCPUs of ``stir``
_NOTE = 0x800  # in the first page: a message's length, and the message, for another vCPU


def writer(cpu: Cpu) -> Guest:
    """Answer every message; wait for the interrupt MAILBOX_WRITABLE where the host's mailbox is full."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from interrupt_enable(Intid.MAILBOX_WRITABLE)
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        answer = swap_ports(data)
        while (yield from mailbox.try_send(sender, answer, notify=True)) is FfaError.BUSY:
            yield Wfi()
            yield from interrupt_get()


def burst(cpu: Cpu) -> Guest:
    """Answer every message twice."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        for _ in range(2):
            yield from mailbox.send(sender, swap_ports(data))


def talker(cpu: Cpu) -> Guest:
    """Send messages to a host port that may not be open yet; then answer every message."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    for number in range(_TALK):
        yield from mailbox.send(PRIMARY_ID, frame(PORT, TALKED, bytes([number])))
    yield from _echo(mailbox)


def _echo(mailbox: GuestMailbox) -> Call[None]:
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data))


def mortal(cpu: Cpu) -> Guest:
    """Answer one message, and end."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    sender, data = yield from mailbox.wait()
    yield from mailbox.release()
    yield from mailbox.send(sender, swap_ports(data))


def server(cpu: Cpu) -> Guest:
    """Answer every message, and every direct request with its own words."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from _serve(mailbox)


def _serve(mailbox: GuestMailbox, beside: int = 0) -> Call[None]:
    """Serve; at the first message turn vCPU 1 on, at `beside`, unless that is 0."""
    regs = yield Hvc(FfaId.MSG_WAIT)
    while True:
        found = mailbox.message(regs)
        if regs[0] == FfaId.MSG_SEND_DIRECT_REQ:
            parties = mailbox.id << 16 | regs[1] >> 16 & 0xFFFF
            regs = yield Hvc(FfaId.MSG_SEND_DIRECT_RESP, parties, 0, *regs[3:8])
            continue
        if found is not None:
            yield from mailbox.release()
            yield from mailbox.send(found[0], swap_ports(found[1]))
            if beside:
                yield Hvc(PsciId.CPU_ON, 1, beside)
        regs = yield Hvc(FfaId.MSG_WAIT)


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
    """Answer every message, and change beside vCPU 1 what both use."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield Hvc(PsciId.CPU_ON, 1, cpu.address_of(_stirred))
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield Hvc(HfId.INTERRUPT_INJECT, mailbox.id, 1, _STIR)
        yield Hvc(HfId.DEBUG_LOG, ord("a"))
        yield from mailbox.send(sender, swap_ports(data))
        yield Hvc(FfaId.RXTX_UNMAP)
        yield from mailbox.map()


def _stirred(cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    while True:
        yield from interrupt_enable(_STIR)
        yield Hvc(PsciId.CPU_SUSPEND)
        yield from interrupt_get()
        yield from interrupt_enable(_STIR, on=False)
        yield Hvc(HfId.DEBUG_LOG, ord("\n"))
        with suppress(Abort):
            yield Store(mailbox.rx, 0, 1)


def doomed(cpu: Cpu) -> Guest:
    """Be ``server``; from the first message on vCPU 1 may end at any time."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from _serve(mailbox, cpu.address_of(_doom))


def _doom(cpu: Cpu) -> Guest:  # noqa: ARG001
    yield Hvc(FfaId.YIELD)


class GuestKind(Struct, frozen=True):
    """A guest: its program, how often it answers a message, and how many messages it sends unasked.

    It needs `vcpus`; one that `dies` aborts after its first message, and one that `loses` messages may
    leave a host waiting until the machine is stopped.
    """

    program: Program
    answers: int = 1
    unasked: int = 0
    vcpus: int = 1
    dies: bool = False
    loses: bool = False

    @property
    def image(self) -> str:
        """Its name in a description."""
        return f"{self.program.__module__}:{self.program.__name__}"


GUESTS = {
    "echo": GuestKind(echo),
    "writer": GuestKind(writer),
    "burst": GuestKind(burst, answers=2),
    "talker": GuestKind(talker, unasked=_TALK),
    "mortal": GuestKind(mortal, dies=True),
    "server": GuestKind(server),
    "smp": GuestKind(smp, vcpus=2),
    "stir": GuestKind(stir, vcpus=2, loses=True),
    "doomed": GuestKind(doomed, vcpus=2, dies=True),
}
