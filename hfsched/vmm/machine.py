"""A running machine, from a description: started once, stopped once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hfsched.errors import UserError
from hfsched.memory.dirty import DirtyTracker
from hfsched.memory.ram import PAGE_SIZE
from hfsched.scheduler.owners import OwnerGoneError
from hfsched.scheduler.suspension import Step
from hfsched.scheduler.userhold import UserHold
from hfsched.swap.client.memberset import MemberSet
from hfsched.text import meant, there_are
from hfsched.vmm.assembly import AssembledVm, Callbacks, assemble
from hfsched.vmm.build import Builder
from hfsched.vmm.devices import MachineDevices, refuse_swap
from hfsched.vmm.parts import MachineParts
from hfsched.vmm.report import (
    QuietWatch,
    SwapFault,
    VmState,
    VmSummary,
    active_vcpus,
    busy_vcpus,
    runs_ended,
    state_of,
    summary_of,
)
from hfsched.vmm.stalls import StallWatch
from hfsched.vmm.utilities import MachineServices

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram
    from hfsched.runtime.base import Runtime
    from hfsched.scheduler.endpoint import Endpoint
    from hfsched.vmm.lazy import LazyMemory
    from hfsched.vmm.manifest import MachineSpec
    from hfsched.vmm.records import MachineRecord
    from hfsched.vmm.swapidle import SwapIdle
    from hfsched.vmm.swapping import MachineSwap

__all__ = ["Machine", "VmSummary"]

_STOP_WITHIN = 5_000_000_000  # ns, after the last vCPU that stopped; the others are named then
_STOP_LOOKS = 5  # in that time
_SENDERS_WITHIN = 5_000_000_000  # ns; a clock: a host sender may wait for memory that does not come
_ASK_WITHIN = 200_000_000  # ns; a clock, since a report is worth no longer wait


class Machine:
    """Made from a description, started once, closed once; use it in a ``with``.

    `log(vm, line)` gets each line that a guest prints, `notice(text)` what the user may want to
    know, `on_abort(vm, reason)` a VM's end; `on_activity` is called whenever `quiet` may have
    changed, `on_hold(holder, held)` when a holder of the suspension has suspended the machine (True)
    or is about to resume it (False); none of them may block.
    `stalls` finds what lasts too long, for a task that looks; `user_hold` suspends by command, and
    `snapshots` takes snapshots.
    `swap` moves guest memory out and back where the description has a directory for it; `monitor`
    starts the process that serves page faults without one too, so that `swap` stages memory, and
    gives it to other processes, but moves none out; else `swap` is None.  `dirty` tracks written pages,
    once it is started.  `services` are what guests offer.  `parts` is what it is made of.
    With `saved` its VMs are those of the record, empty until `hfsched.vmm.saving.restore`, on the description's engine;
    with `lazy` memory comes out of the snapshot as it is accessed, and it is closed with the machine.
    Raises UserError (ConfigError, ImageError) for what cannot be built.
    """

    def __init__(
        self,
        spec: MachineSpec,
        runtime: Runtime,
        log: Callable[[str, bytes], None],
        notice: Callable[[str], None] = lambda _text: None,
        on_abort: Callable[[str, str], None] = lambda _vm, _reason: None,
        on_activity: Callable[[], None] = lambda: None,
        on_hold: Callable[[str, bool], None] = lambda _holder, _held: None,
        *,
        monitor: bool = False,
        parts: MachineParts | None = None,
        saved: MachineRecord | None = None,
        lazy: LazyMemory | None = None,
    ) -> None:
        self._parts = MachineParts() if parts is None else parts
        self.name = spec.name or f"m{os.getpid()}"
        self._runtime = runtime
        self._stack = ExitStack()
        self._stuck: list[str] | None = None  # once stopped: the vCPUs whose threads did not end
        self._on_abort = on_abort
        self._on_activity = on_activity
        self.aborts: dict[str, str] = {}
        self._suspended_at = 0
        self.members = MemberSet(runtime)  # processes beside this one that map guest memory
        self.swap: MachineSwap | None = None
        self._swap_idle: SwapIdle | None = None
        on_idle = on_activity if spec.swap_idle is None else self._note_idle
        try:
            if monitor:
                refuse_swap(spec)
            builder = Builder(runtime, self._stack, notice, self._parts)
            vms = builder.build(spec) if saved is None else builder.rebuild(saved, spec.engine)
            self.assembly = assemble(
                runtime,
                self._parts.assembly,
                vms=vms,
                callbacks=Callbacks(
                    log, self._aborted, on_idle, lambda vm, text: notice(f"vm {vm}: {text}")
                ),
            )
            self.assembly.suspension.on_hold = on_hold
            self.services = MachineServices(runtime, self.assembly, self.name, notice)
            self.assembly.suspension.add(self.services.step)
            self.devices = MachineDevices(runtime, self._parts.peers, notice)
            self._stack.callback(self._close_devices)
            self.devices.add(self.assembly.vms, {vm.name: vm.device for vm in spec.vm})
            self.assembly.suspension.add(self.devices.step)
            self.assembly.suspension.add(
                Step("processes with guest memory", self.members.suspend, self.members.resume)
            )
            self.assembly.suspension.add(
                Step("the time of it", self._note_suspended, lambda: None)  # after the clocks
            )
            self._stack.callback(self._wait_for_senders)
            if spec.swap is not None or monitor or lazy is not None:
                directory = None if spec.swap is None else Path(spec.swap)
                self._open_swap(directory, spec.swap_idle, builder, lazy)
            self.dirty = self._tracker(builder.rams)
        except BaseException:
            self._stack.close()
            raise
        self.hypervisor = self.assembly.hypervisor
        self.driver = self.assembly.driver
        self.ports = self.assembly.ports
        self.suspension = self.assembly.suspension
        self._restored = saved is not None
        self._was_held = saved is not None and saved.held
        self.made, self.rams = builder.made, builder.rams
        self.spec = spec
        self.user_hold = UserHold(runtime, self.suspension, on_activity)
        self.snapshots = self._parts.snapshots(runtime, self, on_activity)
        self._quiet = QuietWatch(self.assembly)
        self.stalls = StallWatch(
            self.assembly.vms,
            lambda vcpu: self.program_counter(vcpu, runtime.now() + _ASK_WITHIN),
            self.driver.owners.processor_time,
        )
        self._by_name = {vm.name: vm for vm in self.assembly.vms}
        self._ports = {vm.name: {"text": vm.text_port, **vm.ports} for vm in spec.vm}

    def _tracker(self, rams: Mapping[str, Ram]) -> DirtyTracker:
        source = self._parts.source(rams, self.swap)
        pages = {name: ram.size // PAGE_SIZE for name, ram in rams.items()}
        dirty = DirtyTracker(self._runtime, pages, source)
        self._stack.callback(dirty.close)
        if self.swap is not None:
            self.swap.dirty = dirty
        return dirty

    def _open_swap(
        self,
        directory: Path | None,
        idle_ns: int | None,
        builder: Builder,
        lazy: LazyMemory | None,
    ) -> None:
        from hfsched.vmm.swapidle import SwapIdle  # noqa: PLC0415 - only where it is wanted

        self.swap = self._parts.swap(
            self._runtime,
            directory,
            builder.rams,
            self.assembly.suspension,
            self.members,
            kernel=builder.in_kernel,
            lazy=lazy,
            on_damage=self._condemn,
        )
        self._stack.callback(self.swap.close)
        if idle_ns is not None:
            self._swap_idle = SwapIdle(self._runtime, self.swap, self._runs_ended, idle_ns)
            self._stack.callback(self._swap_idle.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Running.

    def start(self) -> None:
        """Start every vCPU's thread; a machine that was saved while the user held it is suspended, and none has run."""
        if self._was_held:
            self.driver.hold()
        self.devices.start()
        self.services.start()
        self.driver.start()
        if self._restored:
            for vm in self.assembly.vms:
                self.driver.recover(vm.id)
        if self._was_held:
            self.user_hold.suspend()
        if self.swap is not None:
            self.swap.start()
        if self._swap_idle is not None:
            self._swap_idle.start()

    def stop(self) -> list[str]:
        """Stop every vCPU; return the names of those whose threads did not end (a bug of ours)."""
        if self._stuck is None:
            if self._swap_idle is not None:
                self._swap_idle.end()
            self._stuck = self._stop_vcpus()
            self.services.close(_SENDERS_WITHIN)
        return self._stuck or []

    def _stop_vcpus(self) -> list[str]:
        """Stop every vCPU, for as long as some do; return the names of the others."""
        left, idle_looks = None, 0
        while left != [] and idle_looks < _STOP_LOOKS:
            before = left
            left = self.driver.stop(self._runtime.now() + _STOP_WITHIN // _STOP_LOOKS)
            idle_looks = idle_looks + 1 if before in (None, left) else 0
        return left or []

    def close(self) -> None:
        """Stop, and free everything, unless a thread that did not stop still uses it."""
        if not self.stop():
            self._stack.close()

    def _wait_for_senders(self) -> None:
        """Free nothing more while a host sender is half-way through a message.

        It may have waited for memory that was out, and run on now that swap has released it.
        """
        out = self._stuck is None  # the machine was not completed: there is no endpoint
        try:
            out = out or self.assembly.driver.wait_quiesced(self._runtime.now() + _SENDERS_WITHIN)
        finally:
            if not out:  # a thread that touches freed memory would end the process
                self._stack.pop_all()

    def _close_devices(self) -> None:
        """Free nothing more while a device's task may use guest memory."""
        if not self.devices.close():
            self._stack.pop_all()

    def _note_suspended(self, _deadline: int | None) -> bool:
        self._suspended_at = self._runtime.now()
        return True

    def take_out(self, began: int, ended: int) -> None:
        """Take a time that has passed (ns) out of the guests' clocks; the caller holds the suspension.

        Nothing is taken if another had suspended the machine before it began.
        """
        if self._suspended_at > began:
            self.assembly.set_back(ended - began)

    def _condemn(self, name: str, why: str) -> None:
        """Have every vCPU of a VM fail, since its memory is not what it should be."""
        for vcpu in self._vm(name).record.vcpus:
            vcpu.cpu.condemn(why)

    def _note_idle(self) -> None:
        """Note, on a vCPU's thread, that it begins to wait or ends."""
        if self._swap_idle is not None:
            self._swap_idle.note_rest()
        self._on_activity()

    def _aborted(self, name: str, reason: str) -> None:
        self.aborts[name] = reason
        self.services.end_vm(name)
        self._on_abort(name, reason)
        self._on_activity()

    # For host programs.

    def vm_names(self) -> list[str]:
        """Return the names of the VMs, in order."""
        return [vm.name for vm in self.assembly.vms]

    def endpoint(self, vm: str, port: int, local: int | None = None) -> Endpoint:
        """Connect to a VM's port; raises UserError for an unknown VM or a host port in use."""
        return self.assembly.endpoint(self._vm(vm), port, local)

    def text_port(self, vm: str) -> int:
        """Return the port of a VM that takes text."""
        return self._ports[vm]["text"]

    def port_number(self, vm: str, port: int | str) -> int:
        """Return the number of a VM's port, which may be a name; raises UserError for an unknown one."""
        if isinstance(port, int):
            return port
        known = self._ports[vm]
        if port in known:
            return known[port]
        named = [f"{name} = {number}" for name, number in known.items()]
        raise UserError(
            f"vm {vm} has no port {port!r}: {there_are(named)} (`ports` in the manifest)"
            + meant(port, known)
        )

    def _vm(self, name: str) -> AssembledVm:
        vm = self._by_name.get(name)
        if vm is None:
            raise UserError(f"no VM {name!r} here: {there_are(self.vm_names())}")
        return vm

    def discard(self, name: str, ipa: int, size: int, deadline: int | None = None) -> None:
        """Make guest memory [ipa, ipa + size) zero, and give it back to the host, while guests run.

        Raises UserError for what is no part of the VM's memory, or holds its mailbox; SwapError if it
        could not be done by the deadline (ns).
        """
        vm = self._vm(name).record
        shown = f"[{ipa:#x}, {ipa + size:#x})"
        region = vm.memory.find(ipa)
        if (ipa | size) % PAGE_SIZE or size <= 0:
            raise UserError(f"vm {name}: {shown}: not whole pages of {PAGE_SIZE:#x} bytes")
        if region is None or ipa + size > region.end:
            has = ", ".join(f"[{each.ipa:#x}, {each.end:#x})" for each in vm.memory.regions)
            raise UserError(f"vm {name}: {shown}: outside of its memory, {has}")
        for buffer, page in (("RX", vm.mailbox.rx), ("TX", vm.mailbox.tx)):
            if page is not None and ipa <= page < ipa + size:
                raise UserError(f"vm {name}: {shown}: its {buffer} buffer is at {page:#x}")
        assert self.swap is not None
        self.swap.discard(name, region.offset + ipa - region.ipa, size, deadline)

    def faults(self, since: int = 0) -> list[SwapFault]:
        """Return the last faults on memory that was out, oldest first, from number `since` on."""
        found = []
        if self.swap is not None:
            for fault, name, offset in self.swap.faults(since):
                regions = self._vm(name).record.memory.regions
                ipa = next(
                    (r.ipa + offset - r.offset for r in regions if 0 <= offset - r.offset < r.size),
                    0,
                )
                found.append(
                    SwapFault(fault.number, fault.when, name, ipa, fault.source, fault.took)
                )
        return found

    # Reports; see `hfsched.vmm.report`.

    def quiet(self) -> bool:
        """Return whether every accepted message is released and nothing will happen by itself.

        Not while the user keeps the machine suspended, for then it may be resumed.
        """
        return not self.user_hold.stands() and self._quiet.look()

    def busy(self) -> dict[str, int]:
        """Return for each vCPU inside a RUN the number of its exits so far."""
        return busy_vcpus(self.assembly.vms)

    def active(self) -> dict[str, str]:
        """Return for each vCPU that will go on by itself, named as `busy` does, why, in words."""
        return active_vcpus(self.assembly.vms)

    def program_counter(self, vcpu: str, deadline: int | None = None) -> int | None:
        """Return the address of the next instruction of a vCPU, named as `busy` does.

        Its thread is asked, by a kick if it is inside a RUN.  None if it does not answer by the
        deadline (ns), or has ended.
        """
        name, _, index = vcpu.rpartition(".")
        vm, number = self._vm(name), int(index)
        posted = self.driver.owners.post(
            vm.driven, number, vm.record.vcpus[number].cpu.program_counter
        )
        try:
            return posted.result(deadline)
        except (TimeoutError, OwnerGoneError):
            return None

    def _runs_ended(self) -> int | None:
        return runs_ended(self.assembly.vms)

    def vm_states(self) -> list[VmState]:
        """Return the state of each VM."""
        return [state_of(vm, self.assembly) for vm in self.assembly.vms]

    def suspended_by(self) -> tuple[str, ...]:
        """Return the names of the holders that keep the machine suspended."""
        return self.suspension.holders

    def summary(self) -> list[VmSummary]:
        """Return what happened so far, a record for each VM.

        Once it has stopped, a host sender that is half-way through a message is waited for, to be
        counted; not for long, for it may wait for memory that is out.
        """
        if self._stuck is not None:
            self.driver.wait_quiesced(self._runtime.now() + _ASK_WITHIN)
        return [summary_of(vm, self.assembly) for vm in self.assembly.vms]
