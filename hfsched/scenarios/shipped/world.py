"""A machine made as `hfsched run` makes it, on heap memory, and the task that starts and ends it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from hfsched.errors import SnapshotError
from hfsched.scenarios.memory import ComparedRam, HeapRam
from hfsched.scenarios.recording import machine_state, opaque_parts
from hfsched.vcpu.script import Cpu, ScriptEngine
from hfsched.vmm.attempt import OpenFiles
from hfsched.vmm.generation import Generations
from hfsched.vmm.machine import Machine, VmSummary
from hfsched.vmm.manifest import MachineSpec
from hfsched.vmm.parts import MachineParts
from hfsched.vmm.snapshots import Snapshots
from hfsched.vmm.tracking import NoSource

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.memory.dirty import DirtyPages
    from hfsched.scenarios.shipped.swap import SwapModel
    from hfsched.scenarios.swapmain import FailingRuntime
    from hfsched.vcpu.engine import Vcpu
    from hfsched.vmm.assembly import AssembledVm, Parts
    from hfsched.vmm.attempt import Base, Watch, Wish

__all__ = ["MEMORY", "MachineMemory", "ShippedMachine", "executing", "model_generations"]

MEMORY = 0x3000  # bytes of each VM: a page of code, RX, TX


def _script(cpu: Vcpu) -> Cpu:
    assert isinstance(cpu, Cpu)
    return cpu


def executing(vm: AssembledVm) -> list[str]:
    """Return the names of the vCPUs that may execute: in RUN, and not only waiting for their turn there."""
    return [
        f"{vm.name}.{vcpu.index}"
        for vcpu in vm.record.vcpus
        if vcpu.claimed and _script(vcpu.cpu).executes
    ]


class MachineMemory(ComparedRam):
    """A VM's memory, which is not accessed once it is freed."""

    def __init__(
        self, runtime: ExploreRuntime, name: str, size: int, touch: Callable[[], object]
    ) -> None:
        super().__init__(runtime, name, size)
        self._touch = touch
        self._freed = False

    def key(self) -> Hashable:
        """See `Thing.key`."""
        return (self._freed, self.contents())

    def _inside(self, offset: int, size: int) -> None:
        assert not self._freed, f"the memory of {self.name} is accessed after it was freed"
        self._touch()
        assert not self._freed, f"the memory of {self.name} is freed while it is accessed"
        super()._inside(offset, size)

    def close(self) -> None:
        """See `Ram.close`."""
        self._freed = True


def model_generations(vms: int) -> Generations:
    """Return what stands for the generation ids: always the same ones."""
    return Generations(vms, draw=bytes, ram=HeapRam)


class _NoFiles(OpenFiles):
    """What stands for a snapshot's files."""

    def problem(self, fd: int) -> str | None:
        del fd
        return None

    def close(self, files: Sequence[int]) -> None:
        pass


class _Writing:
    """What stands for the writing of a snapshot: nothing runs, and no memory changes, until its pages are copied."""

    def __init__(
        self,
        machine: Machine,
        files: tuple[int, int],
        wish: Wish,
        expected: int | None,
        watch: Watch,
    ) -> None:
        del files, expected
        self._machine, self._wish = machine, wish
        self._watch = watch
        self._copied: list[bytes] = []

    def prepare(self, deadline: int | None) -> tuple[str, ...]:
        del deadline
        return ()

    def copy(self, deadline: int | None, base: Base | None, dirty: DirtyPages | None) -> None:
        del deadline, base, dirty
        self._copied = _at_rest(self._machine)
        self._watch.progress(1)
        self._look()

    def _look(self) -> None:
        assert self._copied == _at_rest(self._machine), "memory has changed in the suspension"

    def finish(self) -> tuple[bytes, tuple[str, ...]]:
        if self._watch.cancelled():
            raise SnapshotError(f"{self._wish.name}: cancelled")
        if self._wish.held:
            self._look()
        return bytes(32), ()

    def close(self) -> None:
        pass


def _at_rest(machine: Machine) -> list[bytes]:
    for vm in machine.assembly.vms:
        running = executing(vm)
        assert not running, f"vCPU {running[0]} runs while a snapshot is written"
    return [ram.read(0, ram.size) for ram in machine.rams.values()]


class ShippedMachine:
    """A machine, built; `run` is its main task, from the start to the end of everything.

    It runs over `failing`; with `by_turns` one vCPU at a time executes.  With `late` the time for its stop may be too short: then what still uses memory leaves it as it is.
    """

    def __init__(
        self,
        runtime: ExploreRuntime,
        spec: MachineSpec,
        parts: Parts,
        *,
        swap: SwapModel,
        failing: FailingRuntime,
        late: bool = False,
        by_turns: bool = False,
    ) -> None:
        self.runtime = runtime
        self._late = late
        spec.check("scenario machine")
        self.notices: list[str] = []
        touch = swap.touch if spec.swap else lambda: None
        self._parts = MachineParts(
            assembly=opaque_parts(runtime, parts),
            ram=lambda name, size: MachineMemory(runtime, name, size, touch),
            engine=lambda _name, runtime: ScriptEngine(runtime, by_turns=by_turns),
            swap=swap.make,
            snapshots=partial(Snapshots, write=_Writing, files=_NoFiles()),
            source=lambda _rams, _swap: NoSource("a model's memory"),
            generations=model_generations,
        )
        self._spec = spec
        self.failing = failing
        self.aborted = runtime.event("aborted")  # set when a VM has
        self._ends: list[str] = []  # the VMs that have
        runtime.declare_records(self._ends, reason="what the oracles compare")
        self.on_abort: Callable[[str, str], None] = lambda _vm, _why: None
        self.on_activity: Callable[[], None] = lambda: None
        self.machine = self._built()
        self.summary: list[VmSummary] = []  # once it has stopped, unless that was late
        self.closed = False

    def _built(self) -> Machine:
        """Build the machine, on a task, for swap waits there until a monitor serves."""
        made: list[Machine] = []

        def build() -> None:
            made.append(
                Machine(
                    self._spec,
                    self.failing,
                    lambda _vm, _line: None,
                    self.notices.append,
                    self._note_abort,
                    self.note_activity,
                    parts=self._parts,
                )
            )

        self.runtime.spawn("build", build)
        self.runtime.settle()
        return made[0]

    def _note_abort(self, vm: str, why: str) -> None:
        assert vm not in self._ends, f"the end of {vm} is told twice"
        self._ends.append(vm)
        self.on_abort(vm, why)
        self.aborted.set()

    def note_activity(self) -> None:
        """Note that a task of the machine or of its servers may have begun to wait."""
        self.on_activity()

    def start(self) -> None:
        """Start every vCPU's thread."""
        self.machine.start()
        for vm in self.machine.assembly.vms:
            for vcpu in vm.record.vcpus:
                self.runtime.attach(f"{vm.name}.{vcpu.index}", vcpu.cpu.state_key)

    def run(
        self,
        until: Callable[[], object],
        before: Callable[[], list[str]] = list,
        after: Callable[[], list[str]] = list,
    ) -> None:
        """Be the main task, once the machine is started: stop it after `until`, and close it.

        `before` and `after` end what serves others, before the stop and after it; like that, they
        return the names of what did not end.
        """
        with self.machine as machine:
            until()
            stuck = [*before(), *machine.stop(), *after()]
            assert self._late or not stuck, f"these tasks do not end: {stuck}"
            self.summary = [] if stuck else machine.summary()
        self.closed = True

    def state(self) -> dict[str, str]:
        """Return the watched values of a story."""
        return dict(machine_state(self.machine.hypervisor.registry, self.machine.driver))
