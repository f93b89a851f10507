"""A machine of bundled guests on one engine, and a host that talks to them."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from progress import QUIET, Quiet

from hfsched.errors import ConfigError, UserError
from hfsched.hypervisor.vm import Vcpu, Vm
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.endpoint import Endpoint
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.unicorn import library
from hfsched.vmm import engines
from hfsched.vmm.devicespec import DeviceSpec
from hfsched.vmm.guests import bundled_images
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec

WITHIN = QUIET  # seconds, for one thing that is waited for
NOISE = 99  # the port that the random calls of `hostile` send from
Words = tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """An engine, with the architecture of its guests."""

    engine: EngineName
    architecture: str

    def __str__(self) -> str:
        return f"{self.engine} {self.architecture}"

    def why_not(self) -> str | None:
        """Say in a line why it cannot be used here; None: it can."""
        try:
            engines.pick(self.engine, "guest", self.architecture)
        except ConfigError as exc:
            return str(exc).removeprefix("vm guest: ")
        if self.engine == "unicorn":
            try:
                library.load()
            except UserError as exc:
                return str(exc)
        if f"{self.architecture}/trusty.bin" not in bundled_images():
            return "the bundled guests are not built: script/guests"
        return None

    def image(self, guest: str) -> str:
        """Return what a VM names as its image."""
        return f"{self.architecture}/{guest}.bin"


UNICORN = Target("unicorn", "aarch64")
KVM_ARM64 = Target("kvm", "aarch64")
KVM_X86 = Target("kvm", "x86_64")
TARGETS = (UNICORN, KVM_ARM64, KVM_X86)


class Talk:
    """Use it in a ``with``: the machine runs inside it.  VMs are counted from 0."""

    def __init__(
        self,
        target: Target,
        *guests: str,
        vcpus: int = 1,
        memory: int = 1 << 20,
        swap: str | None = None,
        monitor: bool = False,
        fdt: str | None = None,
        devices: Sequence[DeviceSpec] = (),
    ) -> None:
        self.target = target
        self._failures: list[str] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._aborts: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._activity = threading.Event()
        self._ends: dict[tuple[int, int], Endpoint] = {}
        self.runtime = ThreadRuntime(
            lambda task, error: self._failures.append(f"{task}: {error!r}")
        )
        vms = [
            VmSpec(image=target.image(guest), memory=memory, vcpus=vcpus, fdt=fdt)
            for guest in guests
        ]
        vms[0].device = list(devices)
        spec = MachineSpec(vm=vms, engine=target.engine, name="conformance", swap=swap)
        spec.check("conformance")
        self.machine = Machine(
            spec,
            self.runtime,
            notice=self.notices.put,
            log=lambda _vm, line: self._lines.put(line.decode("latin-1")),
            on_abort=lambda _vm, reason: self._aborts.put(reason),
            on_activity=self._activity.set,
            monitor=monitor,
        )

    def __enter__(self) -> Self:
        self.machine.start()
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        stuck = self.machine.stop()
        self.machine.close()
        self.runtime.close()
        assert kind is not None or (stuck, self._failures) == ([], [])

    def deadline(self) -> int:
        return self.runtime.now() + round(WITHIN * 1e9)

    # Messages and the log.

    def end(self, vm: int = 0, port: int = 1) -> Endpoint:
        """Return the host's connection to a port."""
        if (vm, port) not in self._ends:
            self._ends[vm, port] = self.machine.endpoint(self.machine.vm_names()[vm], port)
        return self._ends[vm, port]

    def send(self, payload: bytes, vm: int = 0, port: int = 1) -> None:
        assert self.end(vm, port).send(payload, self.deadline()) is Sent.SENT

    def receive(self, vm: int = 0, port: int = 1) -> bytes:
        while True:
            port_message = self.end(vm, port).recv(self.deadline())
            assert port_message is not None, "no answer"
            if port_message.source != NOISE:
                return port_message.payload

    def ask(self, text: str, vm: int = 0) -> str:
        """Return the answer to a text."""
        self.send(text.encode(), vm)
        return self.receive(vm).decode()

    def line(self) -> str:
        """Return the next line that a guest logs."""
        return self._lines.get(timeout=WITHIN)

    def lines(self) -> list[str]:
        """Return the lines logged since."""
        lines = []
        with suppress(queue.Empty):
            while True:
                lines.append(self._lines.get_nowait())
        return lines

    def abort(self, within: float) -> str | None:
        """Wait for a VM's abort and return the reason; None: there was none in this time (s)."""
        try:
            return self._aborts.get(timeout=within)
        except queue.Empty:
            return None

    # What hostile does for the host.

    def call(self, conduit: str, *words: int) -> Words:
        """Let `hostile` make a hypercall; return x0 to x7 after it."""
        answer = self.ask(" ".join([conduit, *(f"{word:#x}" for word in words)]))
        return tuple(int(word, 16) for word in answer.split())

    def fault(self, command: str) -> dict[str, int] | None:
        """Let `hostile` do what faults; return what the exception said by name, None without one."""
        answer = self.ask(command)
        if answer == "no abort":
            return None
        assert answer.startswith("abort "), answer
        return {name: int(value, 16) for name, value in re.findall(r"(\w+)=(\w+)", answer)}

    # The hypervisor's side.

    def vm(self, vm: int = 0) -> Vm:
        """Return the hypervisor's record of a VM."""
        record = self.machine.hypervisor.registry.find(self.machine.driver.vms[vm].id)
        assert isinstance(record, Vm)
        return record

    def vcpu(self, vcpu: int = 0) -> Vcpu:
        """Return the hypervisor's record of a vCPU of the first VM."""
        return self.vm().vcpus[vcpu]

    def inject(self, intid: int, vcpu: int = 0) -> str:
        """Interrupt a vCPU of the first VM, as the driver does; say what came of it."""
        driven = self.machine.driver.vms[0]
        injection = self.machine.hypervisor.primary.inject(driven.id, vcpu, intid)
        driven.mirror.wake(vcpu)
        return injection.value

    def until(self, condition: Callable[[], bool], within: float = WITHIN) -> bool:
        """Wait until something holds; False: it does not, and nothing has moved for so long (s)."""
        quiet = Quiet(within)
        while not condition():
            self._activity.clear()
            if not quiet.left:
                return False
            if self._activity.wait(0.01):  # not everything that one may wait for is told
                quiet.moved()
        return True

    def until_quiet(self) -> None:
        """Wait until every vCPU waits for a message."""
        assert self.until(self.machine.quiet), "never quiet"
