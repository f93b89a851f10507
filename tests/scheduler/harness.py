"""A whole harness for a test: the real hypervisor with script guests, ports, a driver, outboxes.

It runs on any runtime.  Between the scheduler and the hypervisor stands a `TracedInterface`, which says
at each crossing of the interface where it is, and can be told to answer in the hypervisor's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from hfsched.explore.stepwise import Stepwise
from hfsched.mailbox.mirror import Mirror
from hfsched.mailbox.ports import frame
from hfsched.memory.guestmemory import GuestMemory
from hfsched.memory.ram import Ram
from hfsched.scheduler.driver import Driver
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.script import ScriptEngine
from hfsched.vmm.assembly import AssembledVm, Callbacks, Parts, VmParts, assemble

from .guests import NOTES, notes

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from types import TracebackType

    from hfsched.hypervisor.hypervisor import Hypervisor
    from hfsched.hypervisor.interface import (
        Injection,
        PrimaryInterface,
        RunResult,
        SendResult,
        VmInfo,
    )
    from hfsched.mailbox.mailbox import RxState
    from hfsched.runtime.base import Runtime
    from hfsched.scheduler.endpoint import Endpoint
    from hfsched.vcpu.script import Program

MEMORY = 1 << 16
BASE = 0x4000_0000


class TracedInterface:
    """The primary's interface; `answers` holds what RUN of {vm, vcpu} returns instead, once each."""

    def __init__(self, interface: PrimaryInterface, point: Callable[[str], None]) -> None:
        self._interface = interface
        self._point = point
        self.answers: dict[tuple[int, int], deque[RunResult]] = {}
        self.preempted: list[tuple[int, int]] = []
        self.injected: list[tuple[int, int, int]] = []

    def run(self, vm: int, vcpu: int) -> RunResult:
        self._point(f"run {vm}.{vcpu}")
        planned = self.answers.get((vm, vcpu))
        result = planned.popleft() if planned else self._interface.run(vm, vcpu)
        self._point(f"ran {vm}.{vcpu} {type(result).__name__}")
        return result

    def direct_request(self, vm: int, vcpu: int, words: tuple[int, ...]) -> RunResult:
        self._point(f"request {vm}.{vcpu}")
        result = self._interface.direct_request(vm, vcpu, words)
        self._point(f"requested {vm}.{vcpu} {type(result).__name__}")
        return result

    def send(self, to: int, message: bytes, *, notify: bool) -> SendResult:
        self._point(f"send {to}")
        result = self._interface.send(to, message, notify=notify)
        self._point(f"sent {to} {result.name}")
        return result

    def rx_take(self) -> tuple[int, bytes] | None:
        self._point("rx_take")
        return self._interface.rx_take()

    def rx_release(self) -> bool:
        self._point("rx_release")
        return self._interface.rx_release()

    def waiter(self, vm: int) -> int | None:
        self._point(f"waiter {vm}")
        return self._interface.waiter(vm)

    def writable(self) -> int | None:
        self._point("writable")
        return self._interface.writable()

    def inject(self, vm: int, vcpu: int, intid: int) -> Injection:
        self._point(f"inject {vm}.{vcpu} {intid}")
        self.injected.append((vm, vcpu, intid))
        return self._interface.inject(vm, vcpu, intid)

    def preempt(self, vm: int, vcpu: int) -> None:
        self._point(f"preempt {vm}.{vcpu}")
        self.preempted.append((vm, vcpu))
        self._interface.preempt(vm, vcpu)

    def keep_out(self, vm: int, vcpu: int) -> bool:
        self._point(f"preempt {vm}.{vcpu}")
        self.preempted.append((vm, vcpu))
        return self._interface.keep_out(vm, vcpu)

    def let_in(self, vm: int, vcpu: int) -> None:
        self._interface.let_in(vm, vcpu)

    def info(self, vm: int) -> VmInfo | None:
        return self._interface.info(vm)


class Guest:
    """One VM of the harness, from all sides."""

    def __init__(self, made: AssembledVm) -> None:
        self.made = made
        self.vm = made.record
        self.driven = made.driven
        self.outbox = made.outbox
        self.id = made.id
        self.name = made.name

    @property
    def rx(self) -> RxState:
        return self.vm.mailbox.state

    @property
    def notes(self) -> list[bytes]:
        """What the guest has noted of its messages."""
        return notes(self.vm.memory.read(BASE + NOTES, 4096))

    @property
    def mirror(self) -> Mirror:
        return self.driven.mirror


class Harness:
    """Use it in a ``with``: what is left of a `Stepwise` is thrown away, and RAM freed."""

    def __init__(self, runtime: Runtime, driver: type[Driver] = Driver) -> None:
        self.runtime = runtime
        self.world = runtime if isinstance(runtime, Stepwise) else Stepwise()
        self.lines: list[tuple[str, bytes]] = []
        self.aborts: list[tuple[str, str]] = []
        self.rests = 0
        self.mirror: type[Mirror] = Mirror
        self.assembly = assemble(
            runtime,
            Parts(driver=driver, interface=self._traced, mirror=self._make_mirror),
            callbacks=Callbacks(
                lambda name, line: self.lines.append((name, line)),
                lambda name, reason: self.aborts.append((name, reason)),
                self._rested,
            ),
        )
        self.hypervisor = self.assembly.hypervisor
        self.ports = self.assembly.ports
        self.driver = self.assembly.driver
        self._engine = ScriptEngine(runtime)
        self._rams: list[Ram] = []

    def _traced(self, hypervisor: Hypervisor) -> PrimaryInterface:
        self.interface = TracedInterface(
            hypervisor.primary, lambda label: self.world.point(label, None)
        )
        return self.interface

    def _make_mirror(self, *args: Any) -> Mirror:
        return self.mirror(*args)

    def _rested(self) -> None:
        self.rests += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None
    ) -> None:
        self.world.close()
        for ram in self._rams:
            ram.close()

    def vm(
        self,
        name: str,
        program: Program,
        *,
        vcpus: int = 1,
        raw: bool = False,
        mirror: type[Mirror] | None = None,
    ) -> Guest:
        """Add a VM that boots into `program`; `mirror` takes the place of the shipped one."""
        space = self._engine.space(name, vcpus)
        ram = Ram(name, MEMORY)
        self._rams.append(ram)
        space.map(BASE, ram, 0, MEMORY, Permissions.RWX)
        self.mirror = Mirror if mirror is None else mirror
        entry = space.address_of(program)
        return Guest(
            self.assembly.add(
                VmParts(name, space, GuestMemory.whole(ram, BASE), vcpus, entry, MEMORY, raw=raw)
            )
        )

    def start(self) -> None:
        self.driver.start()

    def connect(self, guest: Guest, remote: int = 1) -> Endpoint:
        """Open a connection to a guest's port."""
        return self.assembly.endpoint(guest.made, remote)

    def runs(self, guest: Guest) -> int:
        """Return how often the vCPUs of a guest were run."""
        return sum(sum(counters.runs.values()) for counters in guest.driven.counters)


def send_all(guest: Guest, texts: list[bytes]) -> None:
    """Send from the host, waiting for room."""
    for text in texts:
        assert guest.outbox.send(text) is Sent.SENT


def port_message(text: bytes, source: int = 1, destination: int = 1) -> bytes:
    """Return a message with a header, as a guest or the host sends it."""
    return frame(source, destination, text)


__all__ = ["BASE", "MEMORY", "Guest", "Harness", "TracedInterface", "port_message", "send_all"]
