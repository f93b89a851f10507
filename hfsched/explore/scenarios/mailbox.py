"""Messages to a guest: the production hypervisor, driver and mirror, under every interleaving.

A host sends numbered messages; the guest must read each of them once, in order, and come to rest
with an empty mailbox.  Receivers:

- ``echo``: waits for messages, never enables an interrupt;
- ``disabled``: the same, on a VM whose other vCPUs sleep in WFI with everything disabled;
- ``trusty``: MAILBOX_READABLE enabled; reads in a handler, and right after an MSG_WAIT that gave a
  message it leaves the interrupt pending (a fast call);
- ``wfi-echo``: vCPU 0 sleeps in WFI with MAILBOX_READABLE disabled, vCPU 1 waits for messages;
- ``reader-1``: vCPU 0 sleeps in WFI with MAILBOX_READABLE disabled, vCPU 1 in WFI with it enabled.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hfsched.abi.ffa import FfaId, Intid
from hfsched.abi.ffa_1_0 import FFA_1_0
from hfsched.explore.door import door
from hfsched.explore.explain.machine import machine_words, told
from hfsched.explore.memory import HeapRam
from hfsched.explore.registry import Variant, spec_of
from hfsched.explore.scenario import World
from hfsched.explore.scenarios.variants import PARTS, VARIANTS
from hfsched.hypervisor.vm import Vm
from hfsched.mailbox.box import RxState
from hfsched.mailbox.ports import Ports
from hfsched.programs.library import Mailbox, interrupt_enable, interrupt_get
from hfsched.scheduler.sending import Outbox, Sent
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.script import Cpu, Guest, Hvc, Program, ScriptSpace, Wfi

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["RECEIVERS", "MailboxScenario"]

BASE = 0x1000_0000
SIZE = 0x4000


class Notes:
    """What the guest has read."""

    def __init__(self) -> None:
        self.read: list[bytes] = []

    def key(self) -> Hashable:
        """Return what has been read, for the state of the guest."""
        return tuple(self.read)


def _echo(notes: Notes, cpu: Cpu) -> Guest:
    box = Mailbox(cpu)
    while True:
        _, data = yield from box.wait()
        notes.read.append(data)
        yield from box.release()


def _sleeper(_: Notes, cpu: Cpu) -> Guest:  # noqa: ARG001
    while True:
        yield Wfi()


def _drain(notes: Notes, box: Mailbox) -> Guest:
    while (found := (yield from box.poll())) is not None:
        notes.read.append(found[1])
        yield from box.release()


def _trusty(notes: Notes, cpu: Cpu) -> Guest:
    box = Mailbox(cpu)
    yield from interrupt_enable(Intid.MAILBOX_READABLE)

    def handle(_: Cpu) -> Guest:
        while (yield from interrupt_get()) == Intid.MAILBOX_READABLE:
            yield from _drain(notes, box)

    cpu.handler = handle
    while True:
        found = box.message((yield Hvc(FfaId.MSG_WAIT)))
        if found is not None:  # a fast call: interrupts stay masked, the pending one stays
            notes.read.append(found[1])
            yield from box.release()
        else:
            cpu.masked = False
            yield Hvc(FfaId.ID_GET)  # the window
            cpu.masked = True


def _reader(notes: Notes, cpu: Cpu) -> Guest:
    box = Mailbox(cpu)
    yield from interrupt_enable(Intid.MAILBOX_READABLE)

    def handle(_: Cpu) -> Guest:
        while (yield from interrupt_get()) == Intid.MAILBOX_READABLE:
            yield from _drain(notes, box)

    cpu.handler = handle
    cpu.masked = False
    while True:
        yield Wfi()


RECEIVERS: dict[str, list[Callable[[Notes, Cpu], Guest]]] = {
    "echo": [_echo, _echo],
    "disabled": [_echo, _sleeper],
    "trusty": [_trusty, _trusty],
    "wfi-echo": [_sleeper, _echo],
    "reader-1": [_sleeper, _reader],
}


def _guest_state(vm: Vm, index: int) -> Hashable:
    """Return what its vCPU's task alone touches; a livelock must not hide in a loop of states."""
    return (vm.vcpus[index].cpu.state_key(), vm.spurious)


@dataclass(frozen=True)
class MailboxScenario:
    """`hosts` host tasks send `messages` each to a `receiver` with `vcpus` vCPUs.

    With `boot` the guests' start-up is explored too; else they rest when the first message comes.
    """

    receiver: str = "echo"
    vcpus: int = 1
    messages: int = 2
    hosts: int = 1
    boot: bool = False
    variant: str = ""

    variants: ClassVar[Mapping[str, Variant]] = VARIANTS

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("mailbox", self)

    def build(self, runtime: ExploreRuntime) -> World:
        """Make the machine; the guest's start-up is not explored."""
        notes = Notes()
        parts = PARTS[self.variant]
        hypervisor = parts.hypervisor(runtime, lambda _vm, _line: None)
        hypervisor._calls = door(runtime, hypervisor._calls)
        primary = told(runtime, door(runtime, hypervisor), hypervisor.registry)
        ports = Ports(runtime)
        driver = parts.driver(runtime, primary, ports)
        space = ScriptSpace(runtime, "g", self.vcpus)
        ram = HeapRam("g", SIZE)
        space.map(BASE, ram, 0, SIZE, Permissions.RWX)
        vm = hypervisor.registry.add("g", FFA_1_0, space, ram, BASE, self.vcpus)
        vm.box = parts.box()
        vm.box.rx, vm.box.tx = 0x1000, 0x2000
        programs: list[Program] = [partial(one, notes) for one in RECEIVERS[self.receiver]]
        for index in range(self.vcpus):
            vcpu = vm.vcpus[index]
            vcpu.start = (space.address_of(programs[index]), SIZE)
            vcpu.state = type(vcpu.state).READY
        driven = driver.add(vm.id, raw=True)
        driven.mirror = door(runtime, driven.mirror)
        outbox = Outbox(runtime, primary, driver, driven)
        driver.start()
        for index in range(self.vcpus):
            runtime.attach(f"g.{index}", partial(_guest_state, vm, index))
        runtime.keep_private("g.*.kick", "g.*.direct")  # nobody preempts, and nobody requests
        if not self.boot:
            runtime.settle()
        sent: list[bytes] = []

        def host(number: int) -> None:
            for index in range(self.messages):
                runtime.forget(index)
                message = bytes((number, index))
                assert outbox.send(message) is Sent.SENT
                sent.append(message)

        for number in range(self.hosts):
            runtime.spawn(f"host.{number}", partial(host, number))

        def check() -> None:
            expected = self.hosts * self.messages
            assert len(sent) == expected, f"{len(sent)} of {expected} messages were accepted"
            assert vm.box.state is RxState.EMPTY, (
                f"all sleep beside a mailbox that is {vm.box.state.value}"
            )
            assert sorted(notes.read) == sorted(sent), f"read {notes.read}, sent {sent}"
            for number in range(self.hosts):
                mine = [data for data in notes.read if data[0] == number]
                assert mine == sorted(mine), f"sender {number}: read in the order {mine}"
            limit = 2 * expected + driven.mirror.wake_ups
            assert vm.spurious <= limit, f"{vm.spurious} spurious RUNs for {expected} messages"

        def final() -> Hashable:
            return (tuple(notes.read), vm.box.state.value)

        watch = partial(machine_words, hypervisor.registry, driver)
        return World(check, final=final, timers=False, watch=watch)
