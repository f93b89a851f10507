"""A VM's dialect is its state: a handler may change it, and the next call is read by the new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hv_bench import Bench, Machine, full, hf, ok

from hfsched.abi.dialect import Call, Op, Regs
from hfsched.abi.ffa import FfaId
from hfsched.abi.ffa_1_0 import FFA_1_0
from hfsched.hypervisor import calls
from hfsched.hypervisor.context import Context
from hfsched.hypervisor.reply import Reply
from hfsched.hypervisor.vm import Vcpu
from hfsched.vcpu.script import Hvc

NEWER_CALL = 0x8400_008A


class Newer(type(FFA_1_0)):  # type: ignore[misc]
    """A generation with one call more, that says version 1.1 and has no ID_GET."""

    name = "newer"
    calls: Mapping[int, Call] = {
        **{number: call for number, call in FFA_1_0.calls.items() if call.op is not Op.ID_GET},
        NEWER_CALL: Call("NEWER", Op.ID_GET, (), lambda _: (), smc=True),
    }

    def version(self, requested: int) -> Regs:
        return (0x1_0001, 0, 0, 0, 0, 0, 0, 0)


NEWER = Newer()


def negotiate(_: Context, vcpu: Vcpu, requested: int) -> Reply:
    """Take the newer one from a VM that asks for 1.1."""
    if requested == 0x1_0001:
        with vcpu.vm.lock:
            vcpu.vm.dialect = NEWER
    return vcpu.vm.dialect.version(requested)


@pytest.fixture
def vms(monkeypatch: pytest.MonkeyPatch) -> tuple[Machine, Machine]:
    handlers: dict[Op, Callable[..., Reply]] = {**calls.HANDLERS, Op.VERSION: negotiate}
    monkeypatch.setattr(calls, "HANDLERS", handlers)
    monkeypatch.setattr(calls, "_TABLES", {})
    bench = Bench()
    return bench.vm(vcpus=2), bench.vm()


def test_the_next_call_is_read_and_answered_by_the_new_dialect(
    vms: tuple[Machine, Machine],
) -> None:
    vm, other = vms
    assert vm.call(NEWER_CALL) == hf(-1)
    assert vm.call(FfaId.ID_GET) == ok(vm.id)
    assert vm.run(Hvc(*full(FfaId.VERSION, 0x1_0001)), Hvc(*full(NEWER_CALL))) is not None
    assert vm.seen[0][-2:] == [(0x1_0001, *(0,) * 7), ok(vm.id)]
    assert vm.call(FfaId.ID_GET) == hf(-1)
    assert vm.call(NEWER_CALL, vcpu=1) == ok(vm.id), "it is the VM's, not the vCPU's"
    assert other.call(NEWER_CALL) == hf(-1)
    assert other.call(FfaId.VERSION, 0x1_0000) == (0x1_0000, *(0,) * 7)


def test_it_is_part_of_the_vm_s_key(vms: tuple[Machine, Machine]) -> None:
    vm, _ = vms
    before = vm.record.key()
    vm.call(FfaId.VERSION, 0x1_0000)
    assert vm.record.key() == before
    vm.call(FfaId.VERSION, 0x1_0001)
    assert vm.record.key() != before
