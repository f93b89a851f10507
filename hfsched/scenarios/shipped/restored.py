"""A machine that is saved at any point, and goes on as another one: every message arrives once, in order.

A host sends to the first VM and reads nothing; the answers lie in a port that can be opened again.  At any
point the machine is suspended, saved and stopped.  Another machine is made of the record and the memory; the
host goes back to what it had sent by the instant of the snapshot, sends the rest, and reads all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import msgspec

from hfsched.explore.opaque import opaque_call
from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.mailbox.ports import QUEUE_MAX, Ports
from hfsched.scenarios.recording import machine_state, opaque_parts
from hfsched.scenarios.shipped.guests import GUESTS, PORT
from hfsched.scenarios.shipped.world import MEMORY, MachineMemory, model_generations
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.script import ScriptEngine
from hfsched.vmm import saving
from hfsched.vmm.assembly import Parts
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import MachineSpec, VmSpec
from hfsched.vmm.parts import MachineParts
from hfsched.vmm.tracking import NoSource

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.scheduler.endpoint import Endpoint
    from hfsched.vmm.records import MachineRecord

__all__ = ["RestoredScenario"]

_HOST_PORT = 5
_GUESTS = ("echo", "writer", "burst", "smp")


@dataclass(frozen=True)
class RestoredScenario:
    """`guest` answers `messages` of a host; the machine is saved and restored `times` times, at any points.

    A port's queue has room for `queue` messages; a vCPU's thread keeps one more.  With `held` a user has it suspended
    when it is saved: then its guests run elsewhere once the user has it resumed there.
    """

    guest: str = "echo"
    vcpus: int = 1
    messages: int = 1
    queue: int = QUEUE_MAX
    times: int = 1
    held: bool = False
    variant: str = ""

    values: ClassVar[Mapping[str, Collection[str]]] = {"guest": _GUESTS}
    variants: ClassVar[Mapping[str, Variant]] = {}

    def __post_init__(self) -> None:
        if self.guest not in _GUESTS:
            raise ValueError(f"guest={self.guest}: known: {', '.join(_GUESTS)}")
        check_ranges(
            self,
            ("vcpus", GUESTS[self.guest].vcpus, 4),
            ("messages", 1, 8),
            ("queue", 1, QUEUE_MAX),
            ("times", 1, 4),
        )

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("restored", self)

    def small(self) -> RestoredScenario:
        """Return the size whose every interleaving a race pass runs."""
        return replace(self, messages=1, times=1)

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the first machine, its host, and the task that saves it."""
        return _World(self, runtime).world()

    def describe(self) -> MachineSpec:
        """Return the first machine's description."""
        kind = GUESTS[self.guest]
        vm = VmSpec(image=kind.image, name="g0", memory=MEMORY, vcpus=self.vcpus)
        return MachineSpec(vm=[vm], name="m", engine="script")


class _World:
    """One execution's world."""

    def __init__(self, scenario: RestoredScenario, runtime: ExploreRuntime) -> None:
        self._scenario = scenario
        self._runtime = runtime
        self._answers = GUESTS[scenario.guest].answers
        self._machine: Machine | None = None
        self._through = False

    def world(self) -> World:
        runtime = self._runtime
        spec = self._scenario.describe()
        spec.check("scenario restored")
        runtime.spawn("build", lambda: self._build(spec))
        runtime.settle()
        self._start()
        runtime.settle()
        runtime.declare_private("*.direct")
        runtime.spawn("saver", self._save_and_restore)
        return World(self._check, final=lambda: self._through, timers=False, watch=self._watched)

    def _build(self, spec: MachineSpec, saved: MachineRecord | None = None) -> None:
        runtime = self._runtime
        parts = MachineParts(
            assembly=opaque_parts(
                runtime, Parts(ports=partial(Ports, queue_max=self._scenario.queue))
            ),
            ram=lambda name, size: MachineMemory(runtime, name, size, lambda: None),
            engine=lambda _name, runtime: ScriptEngine(runtime, recording=True),
            source=lambda _rams, _swap: NoSource("a model's memory"),
            generations=model_generations,
        )
        self._machine = Machine(spec, runtime, lambda _vm, _line: None, parts=parts, saved=saved)

    @property
    def _now(self) -> Machine:
        assert self._machine is not None
        return self._machine

    def _start(self) -> None:
        machine = self._now
        machine.start()
        for vm in machine.assembly.vms:
            for vcpu in vm.record.vcpus:
                self._runtime.attach(f"{vm.name}.{vcpu.index}", vcpu.cpu.state_key)

    # The tasks.

    def _send(self, machine: Machine, first: int) -> Endpoint:
        """Send the messages from a number on, until all are sent or the machine stops; read nothing.

        Returns the endpoint, to read from.
        """
        endpoint = opaque_call(
            self._runtime, machine.endpoint(machine.vm_names()[0], PORT, _HOST_PORT)
        )
        for number in range(first, self._scenario.messages):
            self._runtime.retain_only(number)
            if endpoint.send(bytes([number])) is not Sent.SENT:
                break
        return endpoint

    def _save_and_restore(self) -> None:
        """Be the main task: machines one after the other, then the answers."""
        accepted = 0
        for time in range(self._scenario.times):
            machine = self._now
            before, sent = machine.assembly.vms[0].outbox.accepted, accepted
            host = self._runtime.spawn(f"host.{time}", partial(self._be_host, machine, sent))
            if self._scenario.held:
                machine.user_hold.suspend()
            with machine.suspension.held("snapshot", frozen=True):
                record = saving.save(machine)
                memory = {name: ram.read(0, ram.size) for name, ram in machine.rams.items()}
                accepted += machine.assembly.vms[0].outbox.accepted - before
                assert machine.stop() == [], "a suspended machine does not stop"
                host.join()  # it hears of the stop although the machine stays suspended
            machine.close()
            self._restore(_renamed(record, f"g{time + 1}"), list(memory.values()))
        machine = self._now
        self._read_all(machine, self._send(machine, accepted))
        assert machine.stop() == []
        machine.close()
        self._through = True

    def _restore(self, record: MachineRecord, memory: list[bytes]) -> None:
        self._build(saving.spec_of(record), record)
        machine = self._now
        for ram, contents in zip(machine.rams.values(), memory, strict=True):
            ram.write(0, contents)
        saving.restore(machine, record)
        self._start()
        if self._scenario.held:
            assert machine.user_hold.held(), "it is restored, and the user's hold is gone"
            for vcpu in machine.assembly.vms[0].record.vcpus:
                assert not vcpu.exits, "its guest has run before the user has it resumed"
            machine.user_hold.resume()

    def _be_host(self, machine: Machine, first: int) -> None:
        self._send(machine, first)

    def _read_all(self, machine: Machine, endpoint: Endpoint) -> None:
        for number in range(self._scenario.messages):
            for _ in range(self._answers):
                self._runtime.retain_only("read", number)
                got = endpoint.recv()
                assert got is not None, f"message {number} is not answered"
                assert got.payload == bytes([number]), f"message {number} is {got.payload!r}"
        assert machine.ports.waiting() == 0, "a message was answered twice"

    # Oracles.

    def _check(self) -> None:
        assert self._through, "the saved machine does not come to its end"

    def _watched(self) -> dict[str, str]:
        return dict(machine_state(self._now.hypervisor.registry, self._now.driver))


def _renamed(record: MachineRecord, name: str) -> MachineRecord:
    """Return a record of the VM under another name: no two things in a world have the same one."""
    (vm,) = record.vms
    spec = msgspec.structs.replace(vm.spec, name=name)
    state = msgspec.structs.replace(vm.state, name=name)
    return msgspec.structs.replace(
        record, vms=(msgspec.structs.replace(vm, spec=spec, state=state),)
    )
