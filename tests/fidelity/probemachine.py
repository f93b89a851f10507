"""hfsched runs a scenario: on an engine of images with `guests/probe`, or with a Python guest.

The test is the scheduler: it calls the primary's interface in the order of the primary's rows, on one
thread, so that all is as deterministic as under Hafnium.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from probeguest import ScriptedGuest
from probeprimary import ScriptedPrimary
from probescript import (
    FIRST,
    PENDING,
    PRIMARY,
    SCRIPT,
    SIZE,
    Answer,
    Scenario,
    answers,
    base_of,
    table,
    table_size,
)
from progress import QUIET

from hfsched.memory.guestmemory import GuestMemory
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.script import ScriptEngine
from hfsched.vmm.assembly import Assembly, VmParts, assemble
from hfsched.vmm.build import Builder
from hfsched.vmm.manifest import MachineSpec, VmSpec

if TYPE_CHECKING:
    from talk import Target


def run_images(target: Target, scenario: Scenario) -> list[Answer]:
    """Run it on an engine; return the answer to each row."""
    vms = [*range(FIRST, FIRST + len(scenario.vcpus))]
    runtime = ThreadRuntime()
    with ExitStack() as stack:
        stack.callback(runtime.close)
        spec = MachineSpec(
            vm=[
                VmSpec(
                    name=f"vm{vm}",
                    image=target.image("probe"),
                    memory=SIZE,
                    base=base_of(vm),
                    vcpus=vcpus,
                )
                for vm, vcpus in zip(vms, scenario.vcpus, strict=True)
            ],
            engine=target.engine,
            name="fidelity",
        )
        spec.check("fidelity")
        builder = Builder(runtime, stack, lambda _notice: None)
        parts = builder.build(spec)
        for vm in vms:
            builder.rams[f"vm{vm}"].write(SCRIPT, table(scenario, vm))
        came = _follow(assemble(runtime, vms=parts), scenario)
        tables = {vm: builder.rams[f"vm{vm}"].read(SCRIPT, table_size(scenario, vm)) for vm in vms}
        for index, answer in enumerate(answers(scenario, tables)):
            if scenario.rows[index].who[0] != PRIMARY:
                came[index] = answer
        return came


def run_script(scenario: Scenario) -> list[Answer]:
    """Run it on the engine `script`; return the answer to each row."""
    runtime = ThreadRuntime()
    assembly = assemble(runtime)
    came = [PENDING] * len(scenario.rows)
    try:
        for vm, vcpus in enumerate(scenario.vcpus, FIRST):
            ram = Ram(f"vm{vm}", SIZE)
            space = ScriptEngine(runtime).space(f"vm{vm}", vcpus)
            space.map(base_of(vm), ram, 0, SIZE, Permissions.RWX)
            guest = ScriptedGuest(vm, scenario, came)
            assembly.add(
                VmParts(
                    f"vm{vm}",
                    space,
                    GuestMemory.whole(ram, base_of(vm)),
                    vcpus,
                    space.address_of(guest.program),
                    SIZE,
                )
            )
        for index, answer in enumerate(_follow(assembly, scenario)):
            if answer is not PENDING:
                came[index] = answer
        return came
    finally:
        runtime.close()


def _follow(assembly: Assembly, scenario: Scenario) -> list[Answer]:
    """Do the primary's rows, in their order; a guest that never comes back is kicked, so its row differs."""
    interface = assembly.hypervisor.primary
    primary = ScriptedPrimary(interface)
    came = [PENDING] * len(scenario.rows)
    done = 0
    over = threading.Event()

    def watch() -> None:
        seen = -1
        while not over.wait(QUIET):
            if seen == done:
                for vm, vcpus in enumerate(scenario.vcpus, FIRST):
                    for vcpu in range(vcpus):
                        interface.preempt(vm, vcpu)
            seen = done

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for done, row in enumerate(scenario.rows):
            if row.who[0] == PRIMARY:
                came[done] = primary.do(row)
    finally:
        over.set()
        watcher.join()
    return came
