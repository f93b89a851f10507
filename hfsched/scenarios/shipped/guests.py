"""What the VMs of the scenario `machine` boot, named in its description as MODULE:FUNCTION.

- ``echo``: answers each message; while the host's mailbox is full it tries again;
- ``writer``: the same, but sleeps until its MAILBOX_WRITABLE meanwhile;
- ``burst``: as ``writer``, but answers each message twice;
- ``talker``: sends two messages to host port `TALKED`, unasked, and then is ``echo``;
- ``mortal``: answers one message, and ends: the VM aborts;
- ``server``: answers messages, and direct requests with their own words but the last, which counts them;
- ``doomed``: as ``server``, but vCPU 1, turned on at the first message or request, ends: the VM aborts;
- ``lists``: answers each message, and reads which partitions there are;
- ``bell``: answers each message, and each ring of the device at `BELL_WINDOW`;
- ``bells``: the same, with another device on the next page, which has the same interrupt.

Those of several vCPUs that do something beside each other are in `siblings`, those that offer utility services
in `utilities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import iter_unpack

from msgspec import Struct

from hfsched.abi.ffa import PRIMARY_ID, FfaError, FfaId, Intid, PsciId
from hfsched.mailbox.ports import frame
from hfsched.memory.ram import PAGE_SIZE
from hfsched.programs.bundled import echo
from hfsched.programs.library import (
    Call,
    GuestMailbox,
    error_of,
    interrupt_enable,
    interrupt_get,
    swap_ports,
)
from hfsched.scenarios.shipped.siblings import (
    chimes,
    counts,
    fatal,
    pokes,
    polls,
    rivals,
    smp,
    stir,
    twice,
)
from hfsched.scenarios.shipped.utilities import files, hibernator, twins, utility
from hfsched.vcpu.script import Cpu, Guest, Hvc, Program, Store, Wfi

__all__ = ["BELL", "BELL_WINDOW", "GUESTS", "PORT", "TALKED", "GuestKind"]

PORT = 1  # of every guest
TALKED = 7  # the host's port that ``talker`` sends to
_TALK = 2  # messages
_PARTITION = 8  # bytes of a partition's descriptor
BELL = 40  # the interrupt of the device that ``bell`` has
BELL_WINDOW = 0x0A00_0000  # its address


def writer(cpu: Cpu) -> Guest:
    """Answer every message; wait for the interrupt MAILBOX_WRITABLE where the host's mailbox is full."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from interrupt_enable(Intid.MAILBOX_WRITABLE)
    yield from _write(mailbox, 1)


def burst(cpu: Cpu) -> Guest:
    """Answer every message twice, likewise."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from interrupt_enable(Intid.MAILBOX_WRITABLE)
    yield from _write(mailbox, 2)


def _write(mailbox: GuestMailbox, answers: int) -> Call[None]:
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        answer = swap_ports(data)
        for _ in range(answers):
            while (yield from mailbox.try_send(sender, answer, notify=True)) is FfaError.BUSY:
                yield Wfi()
                yield from interrupt_get()


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
    """Serve; at the first message or request turn vCPU 1 on, at `beside`, unless that is 0.

    The last word of a response is how many requests there were so far.
    """
    served = 0
    regs = yield Hvc(FfaId.MSG_WAIT)
    while True:
        found = mailbox.message(regs)
        if regs[0] == FfaId.MSG_SEND_DIRECT_REQ:
            if beside:
                yield Hvc(PsciId.CPU_ON, 1, beside)
            parties = mailbox.id << 16 | regs[1] >> 16 & 0xFFFF
            served += 1
            regs = yield Hvc(FfaId.MSG_SEND_DIRECT_RESP, parties, 0, *regs[3:7], served)
            continue
        if found is not None:
            yield from mailbox.release()
            yield from mailbox.send(found[0], swap_ports(found[1]))
            if beside:
                yield Hvc(PsciId.CPU_ON, 1, beside)
        regs = yield Hvc(FfaId.MSG_WAIT)


def doomed(cpu: Cpu) -> Guest:
    """Be ``server``; from the first message or request on vCPU 1 may end at any time."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from _serve(mailbox, cpu.address_of(_doom))


def _doom(cpu: Cpu) -> Guest:  # noqa: ARG001
    yield Hvc(FfaId.YIELD)


def lists(cpu: Cpu) -> Guest:
    """Answer every message, and read the list of partitions from RX between them."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data))
        answer = yield Hvc(FfaId.PARTITION_INFO_GET)
        if error_of(answer) is None:
            size = _PARTITION * answer[2]
            found = [each[0] for each in iter_unpack("<HHI", cpu.read(mailbox.rx, size))]
            assert {PRIMARY_ID, mailbox.id} <= {*found}, f"the partitions are {found}"
            yield from mailbox.release()


def bell(cpu: Cpu) -> Guest:
    """Answer every message, and every ring."""
    yield from _hear(cpu, (BELL_WINDOW,))


def bells(cpu: Cpu) -> Guest:
    """Answer every message, and every ring of two devices."""
    yield from _hear(cpu, (BELL_WINDOW, BELL_WINDOW + PAGE_SIZE))


def _hear(cpu: Cpu, windows: Sequence[int]) -> Guest:
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from interrupt_enable(BELL)
    while True:
        found = mailbox.message((yield Hvc(FfaId.MSG_WAIT)))
        if found is not None:
            yield from mailbox.release()
            yield from mailbox.send(found[0], swap_ports(found[1]))
        elif (yield from interrupt_get()) == BELL:
            for window in windows:
                yield Store(window, 1, 4)


class GuestKind(Struct, frozen=True):
    """A guest: its program, how often it answers a message, and how many messages it sends unasked.

    It needs `vcpus`, and answers so many `bells`; one that `dies` aborts after its first message, and a `single` one takes one message
    in all.  One that `serves` answers requests to its utility services, and no messages.
    """

    program: Program
    answers: int = 1
    unasked: int = 0
    vcpus: int = 1
    dies: bool = False
    single: bool = False
    serves: bool = False
    bells: int = 1

    @property
    def hosts_max(self) -> int:
        """How many hosts may send to it."""
        return 0 if self.serves else 1 if self.single else 8

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
    "stir": GuestKind(stir, vcpus=2, single=True),
    "pokes": GuestKind(pokes, vcpus=2, single=True),
    "chimes": GuestKind(chimes, vcpus=2),
    "doomed": GuestKind(doomed, vcpus=2, dies=True),
    "polls": GuestKind(polls, vcpus=2),
    "fatal": GuestKind(fatal, vcpus=2, dies=True),
    "counts": GuestKind(counts, vcpus=2),
    "twice": GuestKind(twice, vcpus=2, dies=True),
    "rivals": GuestKind(rivals, vcpus=3),
    "lists": GuestKind(lists),
    "bell": GuestKind(bell),
    "bells": GuestKind(bells, bells=2),
    "utility": GuestKind(utility, serves=True),
    "hibernator": GuestKind(hibernator, serves=True),
    "twins": GuestKind(twins, vcpus=2, serves=True),
    "files": GuestKind(files, serves=True),
}
