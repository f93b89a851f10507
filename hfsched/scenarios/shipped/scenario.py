"""The machine that ships, from its description to its end, under every interleaving.

Host programs and the task that stops the machine run beside its vCPUs.  Every message that a mailbox
accepts is answered, or found in the summary; every task ends; and memory is freed last.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hfsched.explore.registry import Variant, spec_of
from hfsched.explore.scenario import World
from hfsched.scenarios.shipped.guests import GUESTS
from hfsched.scenarios.shipped.hosts import Host
from hfsched.scenarios.shipped.world import MEMORY, ShippedMachine
from hfsched.vmm.assembly import Parts
from hfsched.vmm.manifest import MachineSpec, VmSpec

if TYPE_CHECKING:
    from hfsched.explore.handles import TaskHandle
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["MachineScenario"]


@dataclass(frozen=True)
class MachineScenario:
    """`hosts` exchange `messages` each with the VMs, in turn, while main ends the machine.

    With `stop` it is stopped at any point, else when the hosts are through.  With `boot` the guests'
    start-up is explored too.
    """

    guest: str = "echo"
    vms: int = 1
    vcpus: int = 1
    hosts: int = 1
    messages: int = 1
    stop: bool = True
    boot: bool = False
    variant: str = ""

    values: ClassVar[Mapping[str, Collection[str]]] = {"guest": GUESTS}
    variants: ClassVar[Mapping[str, Variant]] = {}

    def __post_init__(self) -> None:
        if self.guest not in GUESTS:
            raise ValueError(f"guest={self.guest}: known: {', '.join(GUESTS)}")
        for name, low, high in (
            ("vms", 1, 4),
            ("vcpus", 1, 4),
            ("hosts", 0, 8),
            ("messages", 1, 100),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)}: not in {low}..{high}")

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("machine", self)

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the machine and its host programs."""
        return _World(self, runtime).world()

    def describe(self) -> MachineSpec:
        """Return the machine's description."""
        program = f"{GUESTS[self.guest].__module__}:{GUESTS[self.guest].__name__}"
        vms = [
            VmSpec(image=program, name=f"g{number}", memory=MEMORY, vcpus=self.vcpus)
            for number in range(self.vms)
        ]
        return MachineSpec(vm=vms, name="m", engine="script")


class _World:
    """One execution's world."""

    def __init__(self, scenario: MachineScenario, runtime: ExploreRuntime) -> None:
        self._scenario = scenario
        self._runtime = runtime
        self.shipped = ShippedMachine(runtime, scenario.describe(), Parts())
        self.machine = self.shipped.machine
        self.hosts: list[Host] = []
        self._tasks: list[TaskHandle] = []

    def world(self) -> World:
        scenario, runtime = self._scenario, self._runtime
        self.shipped.start()
        if not scenario.boot:
            runtime.settle()
        names = self.machine.vm_names()
        for number in range(scenario.hosts):
            vm = names[number % len(names)]
            host = Host(runtime, self.machine, number, vm, scenario.messages)
            self.hosts.append(host)
            self._tasks.append(runtime.spawn(host.name, host.run))
        runtime.declare_private("*.direct")  # no task makes direct requests here
        runtime.spawn("main", partial(self.shipped.run, self._until))
        return World(self._check, final=self._final, timers=False, watch=self.shipped.state)

    def _until(self) -> None:
        if not self._scenario.stop:
            for task in self._tasks:
                task.join()

    # Oracles.

    def _check(self) -> None:
        for host in self.hosts:
            assert host.ended, f"{host.name} has sent {host.sent} and read {host.read}, and waits"
            assert host.stopped is False or self._scenario.stop, f"{host.name} was stopped early"
        assert self.shipped.closed, "main has not ended"
        assert self.shipped.summary is not None
        for vm in self.shipped.summary:
            accepted = sum(host.sent for host in self.hosts if host.vm == vm.name)
            assert vm.from_host == accepted, f"{vm.from_host} of {accepted} sent are counted"
            held = vm.from_host - vm.to_host - vm.lost - vm.unread
            assert 0 <= held <= 1, f"{held} of {vm.from_host} messages are nowhere: {vm}"

    def _final(self) -> Hashable:
        hosts = tuple((host.sent, host.read, host.stopped) for host in self.hosts)
        summary = self.shipped.summary or ()
        return (hosts, tuple((vm.to_host, vm.lost, vm.unread, vm.rx) for vm in summary))
