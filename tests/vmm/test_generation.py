"""Generation ids: what a guest finds of its own, and that a restore changes it."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from former import copy_former
from life import Life
from memory.fdt_writer import cells
from talk import TARGETS, UNICORN, Talk, Target
from talks import every_engine, talk
from test_devicetree import nodes

from hfsched.abi.vmgenid import GENERATION_BASE, GENERATION_INTID
from hfsched.errors import ConfigError, SnapshotError
from hfsched.hypervisor.vm import Vm
from hfsched.runtime.threads import ThreadRuntime
from hfsched.snapshot.chain import Chain
from hfsched.snapshot.directory import open_chain
from hfsched.snapshot.index import Component
from hfsched.vcpu.script import ScriptSpace
from hfsched.vmm.generation import Generations, signal_change
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import MachineSpec, VmSpec
from hfsched.vmm.parts import MachineParts
from hfsched.vmm.records import MACHINE_RECORD
from hfsched.vmm.saving import spec_of
from hfsched.vmm.snapshotting import MACHINE, record_of, restore

HEX = re.compile(r"[0-9a-f]{32}")


def image_talk(target: Target, *guests: str) -> Talk:
    """Return a machine whose guests have a device tree; `utility` of the engine script needs none."""
    if target.engine == "script":
        return Talk(target, *guests)
    return talk(target, *guests, fdt="auto")


class Utilities(Target):
    """The engine script, with the guest `utility` that is shipped."""

    def why_not(self) -> str | None:
        return None

    def image(self, guest: str) -> str:
        return guest


every_utility = pytest.mark.parametrize(
    "target", [Utilities("script", "script"), *TARGETS], ids=str
)


@every_utility
def test_each_vm_has_its_own_and_can_take_the_interrupt(target: Target) -> None:
    with image_talk(target, "utility", "utility") as host:
        ids = [host.ask("generation", vm) for vm in (0, 1)]
        assert all(map(HEX.fullmatch, ids))
        assert ids[0] != ids[1]
        assert [host.ask("generation", vm) for vm in (0, 1)] == ids
        host.until_quiet()
        host.lines()
        host.inject(GENERATION_INTID)
        assert host.line() == f"utility: generation {ids[0]}"
    with image_talk(target, "utility") as host:
        assert host.ask("generation") not in ids


@every_engine
def test_a_guest_finds_it_in_its_device_tree(target: Target) -> None:
    with talk(target, "trusty", fdt="auto") as host:
        (region,) = host.vm().memory.regions
        tree = nodes(host.vm().memory.read(region.end - 4096, 4096))
    assert tree["rng@90f0000"].properties == {
        "compatible": b"microsoft,vmgenid\0",
        "reg": cells(0, GENERATION_BASE, 0, 16),
        "interrupts": cells(GENERATION_INTID),
    }
    assert "hf-interrupts" in tree


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_its_page_can_be_read_and_no_more(target: Target) -> None:
    with talk(target, "hostile") as host:  # as under Hafnium
        assert host.fault(f"read {GENERATION_BASE:#x}") is not None
    with talk(target, "hostile", fdt="auto") as host:
        assert host.fault(f"read {GENERATION_BASE:#x}") is None
        for wrong in ("write 0x90f0000", "read 0x90f1000", "read 0x90efffc"):
            assert host.fault(wrong) is not None, wrong
        if target.engine == "unicorn":  # KVM executes all that can be read
            assert host.fault("exec 0x90f0000") is not None
        assert host.vm().memory.find(GENERATION_BASE) is None  # it is no mailbox, and not shared


def test_the_engine_script_has_it_beside_its_memory() -> None:
    with Talk(Utilities("script", "script"), "utility") as host:
        space = cast("ScriptSpace", host.vm().space)
        cpu = space.vcpu(0)
        assert cpu.read(GENERATION_BASE, 16).hex() == host.ask("generation")


def test_memory_cannot_be_there() -> None:
    vm = VmSpec(image="echo", name="a", base=GENERATION_BASE - 4096, memory=8192)
    spec = MachineSpec(vm=[vm], engine="script")
    with pytest.raises(ConfigError, match=r"overlaps generation id \[0x90f0000, 0x90f1000\)$"):
        Machine(spec, ThreadRuntime(), lambda _vm, _line: None)


def test_ids_that_cannot_be_kept_are_a_line() -> None:
    def none(_vms: int) -> Generations:
        raise OSError(12, "Cannot allocate memory")

    spec = MachineSpec(vm=[VmSpec(image="echo", name="a")], engine="script")
    with pytest.raises(ConfigError, match=r"^memory for generation ids: Cannot allocate memory$"):
        Machine(
            spec,
            ThreadRuntime(),
            lambda _vm, _line: None,
            parts=MachineParts(generations=none),
        )


def test_the_interrupt_waits_for_who_enables_it_later() -> None:
    with Life("script") as life:
        vm = life.machine.assembly.vms[0].record
        assert isinstance(vm, Vm)
        interrupts = vm.vcpus[0].interrupts
        interrupts.enable(GENERATION_INTID, on=False)
        signal_change(life.machine.assembly.vms)
        assert not interrupts.up
        interrupts.enable(GENERATION_INTID, on=True)
        assert interrupts.take() == GENERATION_INTID


def test_every_vcpu_of_every_vm_gets_the_interrupt() -> None:
    vms = [VmSpec(image="echo", name=name, memory=1 << 20, vcpus=2) for name in "ab"]
    machine = Machine(
        MachineSpec(vm=vms, engine="script"), ThreadRuntime(), lambda _vm, _line: None
    )
    with closing(machine):
        signal_change(machine.assembly.vms)
        taken = []
        for vm in machine.assembly.vms:
            assert isinstance(vm.record, Vm)
            for vcpu in vm.record.vcpus:
                vcpu.interrupts.enable(GENERATION_INTID, on=True)
                taken.append(vcpu.interrupts.take())
    assert taken == [GENERATION_INTID] * 4


# What was written by former versions.


def former(version: int, tmp_path: Path) -> Chain:
    """Return a version's snapshot, from a copy."""
    copy_former(version, tmp_path / "former")
    return open_chain(tmp_path / "former")


@pytest.mark.parametrize(("version", "generation"), [(1, False), (2, True)])
def test_a_machine_of_before_runs(version: int, generation: bool, tmp_path: Path) -> None:
    """On Unicorn: an `echo` that waits for a message.  In version 1 it has no generation id."""
    chain = former(version, tmp_path)
    record = record_of(chain)
    assert chain.state[MACHINE].version == version
    assert [vm.generation for vm in record.vms] == [generation]
    assert [vm.devices for vm in record.vms] == [()]
    if why_not := UNICORN.why_not():
        pytest.skip(f"{UNICORN}: {why_not}")
    runtime = ThreadRuntime()
    with closing(chain):
        machine = restore(
            chain,
            record,
            lambda saved, lazy: Machine(
                spec_of(saved), runtime, lambda _vm, _line: None, saved=saved, lazy=lazy
            ),
        )
    with machine:
        vm = machine.assembly.vms[0].record
        assert vm.vcpus[0].interrupts.pending == generation << GENERATION_INTID
        machine.start()
        end = machine.endpoint("echo", 1)
        by = runtime.now() + 60_000_000_000
        end.send(b"hello", by)
        answer = end.recv(by)
        assert answer is not None
        assert answer.payload == b"hello"


def test_a_version_of_later_is_refused(tmp_path: Path) -> None:
    chain = former(1, tmp_path)
    state = chain.state[MACHINE]
    for version in (0, MACHINE_RECORD + 1):
        chain.state[MACHINE] = Component(version, state.data)
        with pytest.raises(SnapshotError, match=f"version {version}: up to {MACHINE_RECORD} is"):
            record_of(chain)
    chain.close()
