"""A hypervisor, its guests and its scheduler as separate actors of a story.

One task of a scenario has three roles: a vCPU's thread of the scheduler, inside RUN the hypervisor, and
inside that the guest.  `recorded` wraps the interfaces between them and records the calls: RUN and its
result, hypercalls and their results, sends and injections.  `machine_state` has the watched values.

    primary = recorded(runtime, hypervisor, hypervisor.registry)
    ...
    World(check, watch=partial(machine_words, hypervisor.registry, driver))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hfsched.abi.dialect import describe, find
from hfsched.abi.ffa import PRIMARY_ID, Intid
from hfsched.explore.opaque import opaque_call
from hfsched.hypervisor.interface import (
    Aborted,
    Message,
    PrimaryInterface,
    RunResult,
    SendResult,
    WaitForInterrupt,
    WaitForMessage,
    WakeUp,
)
from hfsched.hypervisor.vm import VcpuState
from hfsched.mailbox.mirror import VcpuActivity
from hfsched.vcpu.engine import Hypercall

if TYPE_CHECKING:
    from hfsched.explore.explain.recorder import Recorder
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.hypervisor.hypervisor import Hypervisor
    from hfsched.hypervisor.interface import Injection, VmInfo
    from hfsched.hypervisor.registry import Registry
    from hfsched.hypervisor.vm import Vcpu
    from hfsched.scheduler.driver import Driver
    from hfsched.vcpu.engine import Exit
    from hfsched.vmm.assembly import Parts

__all__ = ["machine_state", "opaque_parts", "recorded"]

HYPERVISOR = "hypervisor"
_HIDDEN = (".kick", ".irq", ".direct", ".hv", ".mirror")


def recorded(
    runtime: ExploreRuntime, interface: PrimaryInterface, registry: Registry
) -> PrimaryInterface:
    """Return `interface`, wrapped to record its calls if a story is recorded."""
    if runtime.recorder is None:
        return interface
    return _RecordedInterface(runtime.recorder, interface, registry)


def opaque_parts(runtime: ExploreRuntime, parts: Parts) -> Parts:
    """Return parts whose calls are opaque (see `opaque_call`) and are recorded.

    Hypercalls, the primary's interface and the mirrors are separate parties to their callers.
    """

    def interface(hypervisor: Hypervisor) -> PrimaryInterface:
        seen = opaque_call(runtime, parts.interface(hypervisor))
        return recorded(runtime, seen, hypervisor.registry)

    return replace(
        parts,
        calls=lambda context: opaque_call(runtime, parts.calls(context)),
        interface=interface,
        mirror=lambda *args: opaque_call(runtime, parts.mirror(*args)),
    )


def machine_state(registry: Registry, driver: Driver) -> Mapping[str, str]:
    """Return a story's watched values of each VM: the hypervisor's state, then the scheduler's mirror."""
    state: dict[str, str] = {}
    for vm in registry.vms.values():
        state[f"{vm.name} mailbox"] = vm.mailbox.state.value
        for vcpu in vm.vcpus:
            state[f"vCPU {vm.name}.{vcpu.index}"] = _STATES.get(vcpu.state, vcpu.state.value)
        for vcpu in vm.vcpus:
            state[f"{vm.name}.{vcpu.index} pending"] = _interrupts(
                vcpu.interrupts.pending | vcpu.interrupts.high
            )
        if vm.mailbox.waiters:
            state[f"{vm.name} waiters"] = str(vm.mailbox.waiters)
    for driven in driver.vms:
        state[f"{driven.name} mirror"] = "a message unread" if driven.mirror.unread else "-"
        for index, (activity, kick) in enumerate(driven.mirror.peek()):
            kicked = ", kicked" if kick else ""
            state[f"{driven.name}.{index} mirror"] = (
                _ACTIVITIES.get(activity, activity.value) + kicked
            )
    return state


# Short names of waiting for a message and for an interrupt.
_STATES = {VcpuState.BLOCKED_MAILBOX: "WFM", VcpuState.BLOCKED_INTERRUPT: "WFI"}
_ACTIVITIES = {VcpuActivity.WFM: "WFM", VcpuActivity.WFI: "WFI"}


class _RecordedInterface:
    """See `PrimaryInterface`; records its calls."""

    def __init__(self, recorder: Recorder, interface: PrimaryInterface, registry: Registry) -> None:
        self._recorder = recorder
        self._interface = interface
        self._registry = registry
        hidden = recorder.hidden
        recorder.hidden = lambda name: name.endswith(_HIDDEN) or hidden(name)
        recorder.ranks[HYPERVISOR] = 2

    def run(self, vm: int, vcpu: int) -> RunResult:
        return self._entered(vm, vcpu, "RUN", lambda: self._interface.run(vm, vcpu))

    def direct_request(self, vm: int, vcpu: int, words: tuple[int, ...]) -> RunResult:
        return self._entered(
            vm, vcpu, "direct request", lambda: self._interface.direct_request(vm, vcpu, words)
        )

    def _entered(self, vm: int, vcpu: int, what: str, call: Any) -> RunResult:
        recorder = self._recorder
        name = f"{self._name(vm)}.{vcpu}"
        thread = recorder.lane
        self._wrap_cpu(vm, vcpu, thread)
        recorder.announce(f"{what} {name}", to=HYPERVISOR)
        with recorder.acting_as(HYPERVISOR):
            result: RunResult = call()
        recorder.note(self._result(result), lane=HYPERVISOR, to=thread)
        return result

    def _wrap_cpu(self, vm: int, vcpu: int, thread: str) -> None:
        """Wrap a vCPU's engine at its first RUN."""
        record = self._registry.vms.get(vm)
        if record is None or not 0 <= vcpu < len(record.vcpus):
            return
        found = record.vcpus[vcpu]
        if not isinstance(found.cpu, _Cpu):
            self._recorder.names[thread] = f"thread {record.name}.{vcpu}"
            self._recorder.ranks[f"thread {record.name}.{vcpu}"] = 1
            self._recorder.ranks[f"guest {record.name}.{vcpu}"] = 3
            found.cpu = _Cpu(self._recorder, found, self._name)

    def send(self, to: int, message: bytes, *, notify: bool) -> SendResult:
        with self._recorder.acting_as(HYPERVISOR):
            result = self._interface.send(to, message, notify=notify)
        self._note_call(f"send {len(message)} bytes to {self._name(to)}: {result.value}")
        return result

    def rx_take(self) -> tuple[int, bytes] | None:
        with self._recorder.acting_as(HYPERVISOR):
            taken = self._interface.rx_take()
        if taken is not None:
            self._note_call(f"take {len(taken[1])} bytes of {self._name(taken[0])} from RX")
        return taken

    def rx_release(self) -> bool:
        with self._recorder.acting_as(HYPERVISOR):
            waited = self._interface.rx_release()
        self._note_call("RX_RELEASE" + (": VMs are waiting" if waited else ""))
        return waited

    def waiter(self, vm: int) -> int | None:
        with self._recorder.acting_as(HYPERVISOR):
            waiter = self._interface.waiter(vm)
        if waiter is not None:
            self._note_call(f"next waiter of {self._name(vm)}: {self._name(waiter)}")
        return waiter

    def writable(self) -> int | None:
        with self._recorder.acting_as(HYPERVISOR):
            vm = self._interface.writable()
        if vm is not None:
            self._note_call(f"next writable mailbox: {self._name(vm)}")
        return vm

    def inject(self, vm: int, vcpu: int, intid: int) -> Injection:
        with self._recorder.acting_as(HYPERVISOR):
            result = self._interface.inject(vm, vcpu, intid)
        what = _interrupt(intid)
        self._note_call(f"inject {what} into {self._name(vm)}.{vcpu}: {_INJECTION[result.value]}")
        return result

    def preempt(self, vm: int, vcpu: int) -> None:
        with self._recorder.acting_as(HYPERVISOR):
            self._interface.preempt(vm, vcpu)
        self._note_call(f"preempt {self._name(vm)}.{vcpu}")

    def keep_out(self, vm: int, vcpu: int) -> bool:
        with self._recorder.acting_as(HYPERVISOR):
            kept_out = self._interface.keep_out(vm, vcpu)
        what = "keep out" if kept_out else "preempt"
        self._note_call(f"{what} {self._name(vm)}.{vcpu}")
        return kept_out

    def let_in(self, vm: int, vcpu: int) -> None:
        with self._recorder.acting_as(HYPERVISOR):
            self._interface.let_in(vm, vcpu)
        self._note_call(f"let {self._name(vm)}.{vcpu} in")

    def info(self, vm: int) -> VmInfo | None:
        return self._interface.info(vm)

    def _note_call(self, text: str) -> None:
        self._recorder.note(text, to=HYPERVISOR)

    def _name(self, number: int) -> str:
        found = self._registry.find(number)
        if number == PRIMARY_ID:
            return "host"
        return f"VM {number}" if found is None else found.name

    def _result(self, result: RunResult) -> str:
        match result:
            case WaitForMessage():
                return "waits for a message"
            case WaitForInterrupt():
                return "waits for an interrupt"
            case Message(_, receiver, _):
                return f"sent a message to {self._name(receiver)}"
            case WakeUp(vm, vcpu):
                return f"wake {self._name(vm)}.{vcpu}"
            case Aborted(reason):
                return f"aborted: {reason}"
        return _RESULTS.get(type(result).__name__, type(result).__name__)


_RESULTS = {
    "Preempted": "preempted",
    "Yield": "yields",
    "DirectResponse": "answered the direct request",
    "NotifyWaiters": "its mailbox is writable: notify waiters",
    "Busy": "busy",
    "Invalid": "invalid",
}
_VMS = ("vm", "sender", "receiver")  # arguments that are a VM's id
_DECIMAL_MAX = 1 << 16
_INJECTION = {
    "wake": "wake it",
    "pending": "one was pending",
    "disabled": "not enabled",
    "invalid": "invalid",
}


class _Cpu:
    """A wrapper of a vCPU's engine; records the guest's exits and the hypervisor's replies."""

    def __init__(self, recorder: Recorder, vcpu: Vcpu, name: Any) -> None:
        self._recorder = recorder
        self._cpu: Any = vcpu.cpu
        self._vm = vcpu.vm
        self._lane = f"guest {vcpu.vm.name}.{vcpu.index}"
        self._name = name
        self._reply = "runs"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cpu, name)

    def enter(self) -> Exit:
        recorder = self._recorder
        recorder.note(self._reply, lane=HYPERVISOR, to=self._lane)
        self._reply = "continues"
        with recorder.acting_as(self._lane):
            event: Exit = self._cpu.enter()
        what = self._call(event) if isinstance(event, Hypercall) else _exit(event)
        recorder.note(what, lane=self._lane, to=HYPERVISOR)
        return event

    def reply(self, values: Any) -> None:
        self._reply = self._vm.dialect.answer(tuple(values), self._value_text)
        self._cpu.reply(values)

    def _call(self, event: Hypercall) -> str:
        number = find(self._vm.dialect.calls, event.args[0])
        if number is None:
            return f"{event.conduit.name} {event.args[0]:#x}"
        call = self._vm.dialect.calls[number]
        regs = event.args
        if call.registers > len(regs):
            regs = self._cpu.arguments(call.registers)
        return describe(call, regs, self._value_text)

    def _value_text(self, argument: str, value: int) -> str:
        """Return a value as text: VMs and interrupts by name, large numbers in hexadecimal."""
        if argument in _VMS:
            return str(self._name(value))
        if argument == "intid" and value in Intid._value2member_map_:
            return Intid(value).name
        return str(value) if value < _DECIMAL_MAX else f"{value:#x}"


def _exit(event: Exit) -> str:
    name = type(event).__name__
    return {"Wfi": "WFI", "Kicked": "preempted", "Timer": "its timer fired"}.get(name, name)


def _interrupt(intid: int) -> str:
    return Intid(intid).name if intid in Intid._value2member_map_ else f"interrupt {intid}"


def _interrupts(bits: int) -> str:
    return ", ".join(_interrupt(i) for i in range(bits.bit_length()) if bits >> i & 1) or "-"
