"""What is done for many VMs grows with their number: counted in bytecode instructions, not in time.

A cost a + b n + c n^2 at n, 2 n and 3 n VMs has the second difference 2 c n^2: what grows faster than
the number of VMs, and nothing else.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

import hfsched
from hfsched.cli.addressing import address
from hfsched.mailbox.mirror import Quiet
from hfsched.mailbox.ports import Ports
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vmm.assembly import AssembledVm
from hfsched.vmm.layout import Layout
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import MachineSpec, VmSpec
from hfsched.vmm.report import QuietWatch

FEW = 20
FASTER_MAX = 0.05  # of the cost of 2 n; binary searches and the like
PACKAGE = str(Path(hfsched.__file__).parent)
MEMORY = 16 << 10


def steps(act: Callable[[], object]) -> int:
    """Return how many bytecode instructions of hfsched an act takes on this thread."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        if event == "call":
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            count += 1
        return trace

    gc.collect()
    gc.disable()  # what it frees is not the act's
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


def faster(costs: list[int]) -> float:
    """Return the part of a cost, of n, 2 n and 3 n, that grows faster than their number."""
    one, two, three = costs
    return (three - 2 * two + one) / two


def assert_linear(act_for: Callable[[int], Callable[[], object]], few: int = FEW) -> None:
    """`act_for(n)` prepares, and returns what is done for n VMs."""
    costs = [steps(act_for(number * few)) for number in (1, 2, 3)]
    assert costs[0] > few, "nothing was counted"
    assert faster(costs) <= FASTER_MAX, costs


def described(vms: int, image: str = "echo", engine: str = "script") -> MachineSpec:
    spec = MachineSpec(vm=[VmSpec(image=image, memory=MEMORY) for _ in range(vms)])
    spec.engine = cast("Any", engine)
    return spec


def machine(vms: int) -> Machine:
    spec = described(vms)
    spec.check("many")
    return Machine(spec, ThreadRuntime(), lambda _vm, _line: None)


def test_a_square_is_seen() -> None:
    def act_for(vms: int) -> Callable[[], object]:
        names = machine(vms).assembly.vms
        return lambda: [address(b"@echo x", "", {vm.name: 0 for vm in names}) for _ in names]

    with pytest.raises(AssertionError):
        assert_linear(act_for)


def test_names_are_given() -> None:
    assert_linear(lambda vms: lambda: described(vms).check("many"))


@pytest.mark.parametrize("shape", ["one size", "sizes", "alignments", "low is full", "fixed"])
def test_places_are_found(shape: str) -> None:
    def act_for(vms: int) -> Callable[[], object]:
        layout = Layout()
        if shape == "low is full":
            layout.reserve("big", 1 << 30, 1 << 30)
        if shape == "fixed":
            for number in range(vms):
                layout.reserve(f"f{number}", (1 << 31) - (number + 1) * 8192, 4096)

        def act() -> None:
            for number in range(vms):
                size = 4096 * (number + 1 if shape == "sizes" else 3)
                layout.place(f"v{number}", size, 2 << 20 if shape == "alignments" else 4096)

        return act

    assert_linear(act_for, 100)


@pytest.mark.parametrize("image", ["echo", "aarch64/echo.bin"])
def test_machines_are_made(image: str) -> None:
    def act_for(vms: int) -> Callable[[], object]:
        spec = described(vms, image, "script" if image == "echo" else "unicorn")
        spec.check("many")
        for vm in spec.vm:
            vm.memory = 128 << 10

        def act() -> None:
            with Machine(spec, ThreadRuntime(), lambda _vm, _line: None):
                pass

        act()  # an engine has its first things to do
        return act

    if image != "echo":
        pytest.importorskip("unicorn")
    assert_linear(act_for, FEW if image == "echo" else 4)


def nudged(made: Machine) -> None:
    for vm in made.assembly.vms:
        made.ports.nudge(vm.id)


def suspended(made: Machine) -> None:
    for vm in made.assembly.vms:
        vm.driven.mirror.leave(0)  # no thread runs it, which would have to stop
    with made.suspension.held("test"):
        pass


ACTS: dict[str, Callable[[Machine], object]] = {
    "connected": lambda made: [made.endpoint(name, 1) for name in made.vm_names()],
    "known": lambda made: [made.hypervisor.registry.find(vm.id) for vm in made.assembly.vms],
    "nudged": nudged,
    "looked at": lambda made: (made.quiet(), made.stalls.look(1), made.busy(), made.vm_states()),
    "summed": Machine.summary,
    "suspended": suspended,
    "of a UUID": lambda made: [
        made.hypervisor.registry.partitions(vm.record.uuid) for vm in made.assembly.vms
    ],
    "stopped": Machine.stop,
}


@pytest.mark.parametrize("what", ACTS)
def test_vms_are(what: str) -> None:
    def act_for(vms: int) -> Callable[[], object]:
        made = machine(vms)
        for name in made.vm_names():
            made.endpoint(name, 1)
        return lambda: ACTS[what](made)

    assert_linear(act_for)


class Resting:
    """As much of a VM and of its machine as a look whether all is quiet needs."""

    abort_reason = "it rests for ever"

    def __init__(self) -> None:
        self.resting = False
        self.id = 1
        self.driven = self.mirror = self

    def quiet(self) -> Quiet:
        return Quiet(self.resting, 0)


class Looked:
    def __init__(self, vms: int) -> None:
        self.vms = [Resting() for _ in range(vms)]
        self.ports = Ports(ThreadRuntime())
        self.interface = self

    def info(self, _vm: int) -> Resting:
        return self.vms[0]


@pytest.mark.parametrize("backwards", [False, True])
def test_a_look_at_each_rest_does_not_see_all_of_them(backwards: bool) -> None:
    def act_for(vms: int) -> Callable[[], object]:
        world = Looked(vms)
        watch = QuietWatch(cast("Any", world))

        def act() -> None:
            for vm in reversed(world.vms) if backwards else world.vms:
                assert not watch.look()
                vm.resting = True
            assert watch.look()

        return act

    assert_linear(act_for)


def test_lines_find_their_vms() -> None:
    def act_for(vms: int) -> Callable[[], object]:
        names: dict[str, AssembledVm] = {vm.name: vm for vm in machine(vms).assembly.vms}
        return lambda: [address(f"@{name} x".encode(), "", names.keys()) for name in names]

    assert_linear(act_for)
