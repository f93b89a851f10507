"""Programs of guests, hosts and events as short texts, which Hypothesis can draw and shrink.

A program is ``VMS;HOSTS;EVENTS``.  VMs are separated by ``-``, a VM's vCPUs by ``_``; a vCPU is a word
of letters, one action each; the last one (a capital) repeats endlessly:

    w  MSG_WAIT; a message is read and released        e d  enable, disable MAILBOX_READABLE
    p  MSG_POLL, likewise                              f    enable the interrupt that siblings inject
    i  WFI                                             j    inject it into the next vCPU of the VM
    g  INTERRUPT_GET                                   y    YIELD
    0 1 2  send to that VM, ignore BUSY                n    send to the next VM, and wait for WRITABLE
           (only vCPU 0 sends: the VM has one TX, and one vCPU is notified)
    x  end, which aborts the VM (the last action)
    W  waits for messages      I  sleeps in WFI      R  sleeps in WFI, and reads in a handler

HOSTS has two digits for each host program: the VM that it sends to, and the number of messages.
EVENTS are ``S``: the machine is suspended and resumed.

A guest may be faulty: it may sleep with all interrupts disabled while a message is unread.  So the
checks at the end, when no task is enabled, are those that hold for every guest:

- no vCPU waits for a message in a running VM whose mailbox is RECEIVED;
- no vCPU is blocked with an enabled interrupt pending;
- while a mailbox is RECEIVED, no vCPU is blocked with MAILBOX_READABLE enabled in a VM of which no vCPU
  has ever taken that interrupt: one should have been interrupted;
- no host, and no guest that requested a notification, waits for a mailbox that is EMPTY;
- each message is read once, in its sender's order, and was sent;
- the threads of an aborted VM have ended, and its senders got an error;
- no vCPU is in RUN while the machine is suspended.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hfsched.abi.ffa import FIRST_SECONDARY_ID, FfaError, FfaId, HfId, Intid
from hfsched.explore.registry import Variant, spec_of
from hfsched.explore.scenario import World
from hfsched.hypervisor.vm import VcpuState
from hfsched.mailbox.mailbox import RxState
from hfsched.programs.library import GuestMailbox, interrupt_enable, interrupt_get
from hfsched.scenarios.events import suspend
from hfsched.scenarios.guests import START, GuestLog
from hfsched.scenarios.machine import Guest, Host, ScenarioMachine
from hfsched.scenarios.variants import PARTS, VARIANTS
from hfsched.text import count as plural
from hfsched.vcpu.script import Cpu, Hvc, Program, Wfi
from hfsched.vcpu.script import Guest as Script

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["ACTIONS", "LASTS", "ProgramsScenario", "describe"]

ACTIONS = "wpigedfjy012n"
LASTS = "WIRx"
VMS_MAX, VCPUS_MAX, ACTIONS_MAX, HOSTS_MAX = 3, 3, 12, 4
_SHAPE = re.compile(
    rf"(?:[{ACTIONS}]*[{LASTS}][_-])*[{ACTIONS}]*[{LASTS}];(?:[0-{VMS_MAX - 1}][1-9])*;S?"
)
_READABLE = 1 << Intid.MAILBOX_READABLE
_BLOCKED = (VcpuState.BLOCKED_MAILBOX, VcpuState.BLOCKED_INTERRUPT)
_WORDS = {
    "w": "MSG_WAIT", "p": "MSG_POLL", "i": "WFI", "g": "INTERRUPT_GET", "e": "enable READABLE",
    "d": "disable READABLE", "f": "enable START", "j": "inject START into the next vCPU", "y": "YIELD",
    "0": "send to VM 0", "1": "send to VM 1", "2": "send to VM 2", "n": "send to the next VM, wait",
    "x": "end", "W": "repeat: wait for messages", "I": "repeat: WFI",
    "R": "repeat: WFI, read in a handler",
}  # fmt: skip


def describe(program: str) -> list[str]:
    """Return a description of a program, a line for each vCPU, host and event."""
    vms, hosts, events = program.split(";")
    lines = [
        f"vm g{vm}, vCPU {index}: " + ", ".join(_WORDS[action] for action in word)
        for vm, words in enumerate(vms.split("-"))
        for index, word in enumerate(words.split("_"))
    ]
    for number, (vm, messages) in enumerate(zip(hosts[::2], hosts[1::2], strict=True)):
        lines.append(f"host {number}: {plural(int(messages), 'message')} to g{vm}")
    return lines + ["the machine is suspended and resumed"] * len(events)


class _Vcpu:
    """The guest of one vCPU, from its word."""

    def __init__(self, word: str, vm: int, index: int, siblings: int, vms: int) -> None:
        self._word = word
        self._own = FIRST_SECONDARY_ID + vm
        self._next = FIRST_SECONDARY_ID + (vm + 1) % vms
        self._vms = vms
        self._index = index
        self._sibling = (index + 1) % siblings

    def key(self) -> Hashable:
        """Return its state: it has none but its word and its place."""
        return (self._word, self._own, self._next, self._vms, self._index, self._sibling)

    def __call__(self, log: GuestLog, cpu: Cpu) -> Script:
        mailbox = GuestMailbox(cpu)
        mailbox.id = self._own
        for action in self._word:
            yield from self._action(action, log, mailbox, cpu)

    def _action(self, action: str, log: GuestLog, mailbox: GuestMailbox, cpu: Cpu) -> Script:
        match action:
            case "w" | "p":
                call = FfaId.MSG_WAIT if action == "w" else FfaId.MSG_POLL
                yield from self._read(mailbox.message((yield Hvc(call))), log, mailbox)
            case "i":
                yield Wfi()
            case "g":
                yield from self._get(log)
            case "e" | "d":
                yield from interrupt_enable(Intid.MAILBOX_READABLE, on=action == "e")
            case "f":
                yield from interrupt_enable(START)
            case "j":
                yield Hvc(HfId.INTERRUPT_INJECT, self._own, self._sibling, START)
            case "y":
                yield Hvc(FfaId.YIELD)
            case "0" | "1" | "2":
                to = FIRST_SECONDARY_ID + int(action) % self._vms
                yield from self._send(to, log, mailbox, patient=False)
            case "n":
                yield from self._send(self._next, log, mailbox, patient=True)
            case "x":
                return
            case _:
                yield from self._final(action, log, mailbox, cpu)

    def _final(self, action: str, log: GuestLog, mailbox: GuestMailbox, cpu: Cpu) -> Script:
        if action == "R":
            yield from interrupt_enable(Intid.MAILBOX_READABLE)
            cpu.handler = partial(self._handle, log, mailbox)
            cpu.masked = False
        while True:
            if action == "W":
                yield from self._read(mailbox.message((yield Hvc(FfaId.MSG_WAIT))), log, mailbox)
                yield from self._get(log)
            else:
                yield Wfi()
                if action == "I":
                    yield from self._get(log)  # otherwise it would not sleep again

    def _handle(self, log: GuestLog, mailbox: GuestMailbox, _: Cpu) -> Script:
        yield from self._get(log)
        while (found := (yield from mailbox.poll())) is not None:
            yield from self._read(found, log, mailbox)

    def _get(self, log: GuestLog) -> Script:
        if (yield from interrupt_get()) == Intid.MAILBOX_READABLE:
            log.notified += 1

    def _read(
        self, found: tuple[int, bytes] | None, log: GuestLog, mailbox: GuestMailbox
    ) -> Script:
        if found is not None:
            log.read.append(found[1])
            yield from mailbox.release()

    def _send(self, to: int, log: GuestLog, mailbox: GuestMailbox, *, patient: bool) -> Script:
        """Send {own id, to, n}; do nothing if `to` is this VM."""
        if to == self._own or self._index:
            return
        message = bytes((self._own, to, log.sent))
        if patient:
            yield from interrupt_enable(Intid.MAILBOX_WRITABLE)
        while (error := (yield from mailbox.try_send(to, message, notify=patient))) is not None:
            if error is not FfaError.BUSY or not patient:
                log.waits = False
                return
            log.waits = True
            yield Wfi()
            yield from self._get(log)
        log.waits = False
        log.sent += 1


@dataclass(frozen=True)
class ProgramsScenario:
    """A `program` for guests and hosts; without one, Hypothesis draws them."""

    program: str = ""
    variant: str = ""

    variants: ClassVar[Mapping[str, Variant]] = {
        name: Variant(VARIANTS[name].text)
        for name in ("upstream", "uninitialised", "wake-vcpu0", "fixed-target", "waiter-livelock")
    }

    def __post_init__(self) -> None:
        if not self.program:
            return
        vms = self.program.partition(";")[0].split("-")
        if (
            not _SHAPE.fullmatch(self.program)
            or len(vms) > VMS_MAX
            or any(len(vm.split("_")) > VCPUS_MAX for vm in vms)
            or any(len(word) > ACTIONS_MAX for vm in vms for word in vm.split("_"))
            or any(int(vm) >= len(vms) for vm in self.program.split(";")[1][::2])
            or len(self.program.split(";")[1]) > 2 * HOSTS_MAX
        ):
            raise ValueError(f"program={self.program}: not a program such as weW_iI-R;0211;S")

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("programs", self)

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the machine, the hosts and the events."""
        texts, senders, events = (self.program or "W;01;").split(";")
        machine = ScenarioMachine(runtime, PARTS[self.variant])
        vms = texts.split("-")
        guests = [
            machine.vm(f"g{vm}", len(words.split("_")), partial(self._words, vm, words, len(vms)))
            for vm, words in enumerate(vms)
        ]
        machine.start(boot=True, kicks=True)
        hosts = []
        for number, (vm, count) in enumerate(zip(senders[::2], senders[1::2], strict=True)):
            host = Host(machine, number, guests[int(vm)], int(count))
            hosts.append(host)
            runtime.spawn(host.name, host.run)
        suspended: list[bool] = []
        if events:
            runtime.spawn("suspender", partial(suspend, machine, suspended))
        invariant = partial(_always, machine, guests, suspended)

        def check() -> None:
            ended = {task.name for task in runtime.tasks if task.done}
            for guest in guests:
                _check_guest(guest, guests, ended)
            for host in hosts:
                _check_host(host)
            _check_messages(guests, hosts)

        def final() -> Hashable:
            return tuple((guest.log.key(), guest.vm.mailbox.state) for guest in guests)

        return World(check, invariant=invariant, final=final, timers=False, watch=machine.state)

    def _words(self, vm: int, words: str, vms: int, log: GuestLog, _id: int) -> Sequence[Program]:
        each = words.split("_")
        return [
            partial(_Vcpu(word, vm, index, len(each), vms), log) for index, word in enumerate(each)
        ]


def _always(machine: ScenarioMachine, guests: list[Guest], suspended: list[bool]) -> None:
    machine.check_waiters()
    if suspended:
        for guest in guests:
            running = [vcpu.index for vcpu in guest.vm.vcpus if vcpu.claimed]
            assert not running, f"{guest.vm.name}.{running[0]} is in RUN while suspended"


def _check_guest(guest: Guest, guests: list[Guest], ended: set[str]) -> None:
    vm = guest.vm
    if vm.aborting:
        for vcpu in vm.vcpus:
            thread = f"{vm.name}.{vcpu.index}"
            assert thread in ended, (
                f"{vm.name} has aborted, but the thread of {thread} has not ended"
            )
        return
    for vcpu in vm.vcpus:
        name = f"{vm.name}.{vcpu.index}"
        if vcpu.state is VcpuState.BLOCKED_MAILBOX:
            assert vm.mailbox.state is not RxState.RECEIVED, (
                f"{name} waits for a message while one is unread"
            )
        if vcpu.state in _BLOCKED:
            assert not vcpu.interrupts.up, f"{name} sleeps with an interrupt pending"
            if vm.mailbox.state is RxState.RECEIVED and vcpu.interrupts.enabled & _READABLE:
                assert guest.log.notified, f"{name} sleeps, and got no interrupt for a message"
        assert vcpu.state is not VcpuState.READY, f"{name} is ready, but no thread runs it"
    target = guests[(guests.index(guest) + 1) % len(guests)].vm
    if guest.log.waits and not target.aborting:
        state = target.mailbox.state
        assert state is not RxState.EMPTY, (
            f"{vm.name} waits for {target.name}, whose mailbox is empty"
        )


def _check_host(host: Host) -> None:
    if host.ended:
        return
    vm = host.to.vm
    assert not vm.aborting, f"{host.name} waits for {vm.name}, which has aborted"
    assert vm.mailbox.state is not RxState.EMPTY, (
        f"{host.name} waits for {vm.name}, whose mailbox is empty"
    )


def _check_messages(guests: list[Guest], hosts: list[Host]) -> None:
    for guest in guests:
        read = guest.log.read
        assert len(set(read)) == len(read), f"{guest.vm.name} has read a message twice: {read}"
        for sender in {message[0] for message in read}:
            mine = [message for message in read if message[0] == sender]
            assert mine == sorted(mine), f"{guest.vm.name} has read {mine}: not in order"
        for host in hosts:
            mine = [message for message in read if message[0] == host.number and len(message) == 2]
            tried = [bytes((host.number, n)) for n in range(len(host.sent) + 1)]
            if host.to is guest:
                assert mine == tried[: len(mine)], f"{guest.vm.name} has read {mine} of {tried}"
            else:
                assert not mine or host.number >= FIRST_SECONDARY_ID, (
                    "a message was delivered to the wrong VM"
                )
