"""A dialect whose calls use more than eight registers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hfsched.abi.dialect import Call, Dialect, Op, Regs
from hfsched.abi.ffa import FfaId
from hfsched.abi.ffa_1_0 import FFA_1_0
from hfsched.errors import ConfigError
from hfsched.hypervisor.hypervisor import Hypervisor
from hfsched.hypervisor.interface import Yield
from hfsched.memory.guestmemory import GuestMemory
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.script import Cpu, Guest, Hvc, ScriptEngine
from hfsched.vmm.assembly import assemble

BASE = 0x8000_0000
WIDE_CALL = 0x84000100
SEEN: list[Regs] = []


def decode(regs: Regs) -> tuple[int, ...]:
    SEEN.append(regs)
    return (regs[17],)


class Wide(type(FFA_1_0)):  # type: ignore[misc]
    """`ffa-1.0` with a call whose argument is in x17, and whose answer has 18 registers."""

    name = "wide"
    registers = 18
    calls: Mapping[int, Call] = {
        **FFA_1_0.calls,
        WIDE_CALL: Call("WIDE", Op.VERSION, ("requested",), decode, smc=True, registers=18),
    }

    def version(self, requested: int) -> Regs:
        return tuple(range(requested, requested + 18))


def machine(dialect: Dialect) -> tuple[Hypervisor, ScriptEngine, Ram]:
    runtime = ThreadRuntime()
    return assemble(runtime).hypervisor, ScriptEngine(runtime), Ram("vm", 4096 * 4)


def test_such_a_call_is_read_and_answered_whole() -> None:
    dialect = Wide()
    hypervisor, engine, ram = machine(dialect)
    space = engine.space("vm", 1)
    space.map(BASE, ram, 0, ram.size, Permissions.RWX)
    got: list[tuple[int, ...]] = []

    def guest(_: Cpu) -> Guest:
        got.append((yield Hvc(WIDE_CALL, *range(2, 18), 500)))
        yield Hvc(FfaId.YIELD)

    vm = hypervisor.registry.add(3, "vm", dialect, space, GuestMemory.whole(ram, BASE), 1)
    hypervisor.start(vm.id, space.address_of(guest), 0)
    SEEN.clear()
    assert isinstance(hypervisor.primary.run(vm.id, 0), Yield)
    assert [(WIDE_CALL, *range(2, 18), 500)] == SEEN
    assert got == [tuple(range(500, 518))]


def test_an_engine_with_eight_registers_refuses_it() -> None:
    dialect = Wide()
    hypervisor, engine, ram = machine(dialect)
    space = engine.space("vm", 1)
    space.argument_registers = 8
    with pytest.raises(ConfigError) as caught:
        hypervisor.registry.add(3, "vm", dialect, space, GuestMemory.whole(ram, BASE), 1)
    assert str(caught.value) == (
        "vm vm: dialect wide passes x0 to x17, and this engine has 8 argument registers:"
        " use an aarch64 image"
    )
    assert not hypervisor.registry.vms
    hypervisor.registry.add(3, "vm", FFA_1_0, space, GuestMemory.whole(ram, BASE), 1)
