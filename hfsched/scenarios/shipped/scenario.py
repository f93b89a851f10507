"""The machine that ships, from its description to its end, under every interleaving.

Host programs and the task that stops the machine run beside its vCPUs.  Every message that a mailbox
accepts is answered, or found in the summary; every task ends; and memory is freed last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from hfsched.control.command_server import CLIENTS_MAX
from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.mailbox.ports import QUEUE_MAX
from hfsched.scenarios.machine import WITHIN
from hfsched.scenarios.shipped.clients import CLIENTS
from hfsched.scenarios.shipped.guests import GUESTS
from hfsched.scenarios.shipped.hosts import (
    SENDS,
)
from hfsched.scenarios.shipped.machineworld import MachineWorld
from hfsched.scenarios.shipped.world import MEMORY
from hfsched.scenarios.swapmachine import COMMANDS
from hfsched.vmm.manifest import MachineSpec, VmSpec
from hfsched.vmm.sizes import IdleTime

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["MachineScenario"]

_LISTENERS = ("reader", "handler", "late")
_JOINED = ("clients", "swap")  # parameters that are words joined by "-"


@dataclass(frozen=True)
class MachineScenario:
    """`hosts` exchange `messages` each with the VMs, in turn, while main ends the machine.

    With `stop` it is stopped at any point, with `quiet` when main finds that nothing is on its way, else when all others are through, or a VM has aborted.  With `boot` the guests'
    start-up is explored too.  Hosts send in the way of `sends`: they wait for the mailbox, until a
    `deadline`, or not at all (`try`).  A `listener`, a reader or a handler, opens the port that the
    guest ``talker`` sends to; a ``late`` one reads it when the `probes` are through.  A port's queue has room for `queue` messages.  With
    `patient` the first host reads no answer before all others are through.  Each of the `requesters` makes
    `requests`, direct ones to the guest ``server``, the first of them with a deadline each if there are `timers`.  Another task
    asks vCPU 0's thread for its program counter `probes` times; with `suspenders` it is they who ask.
    One asks the guest ``utility`` or ``hibernator`` for its service, `asks` times; `copies` copy a file each into the guest ``files``.
    One looks `reports` times at what the machine does.  Each device of the guest ``bell`` or ``bells`` rings `rings` times.
    `suspenders` hold the machine suspended, `rounds` times each.  `clients` of its sockets, kinds joined by
    ``-``, send `messages` each; a socket has `places` for them.  One task gives commands of `swap`, likewise joined; the first `deaths`
    monitors die at any point, and the next `failing_starts` cannot be started, which needs `timers`; or
    the spawner dies, and no other monitor could be started.  With `idle` memory is also moved out when the guests have been idle; it
    needs `timers`.
    With `by_turns` one vCPU at a time executes, as on Unicorn.
    With `timers` deadlines may pass, in any order that time allows.
    """

    guest: str = "echo"
    vms: int = 1
    vcpus: int = 1
    hosts: int = 1
    messages: int = 1
    sends: str = "wait"
    listener: str = ""
    queue: int = QUEUE_MAX
    patient: bool = False
    requests: int = 0
    requesters: int = 1
    asks: int = 0
    copies: int = 0
    probes: int = 0
    reports: int = 0
    rings: int = 0
    suspenders: int = 0
    rounds: int = 1
    clients: str = ""
    places: int = CLIENTS_MAX
    swap: str = ""
    deaths: int = 0
    failing_starts: int = 0
    spawner_dies: bool = False
    idle: bool = False
    by_turns: bool = False
    stop: bool = True
    quiet: bool = False
    boot: bool = False
    timers: bool = False
    variant: str = ""

    values: ClassVar[Mapping[str, Collection[str]]] = {
        "guest": GUESTS,
        "sends": SENDS,
        "listener": _LISTENERS,
        "clients": CLIENTS,
        "swap": COMMANDS,
    }
    variants: ClassVar[Mapping[str, Variant]] = {}

    def __post_init__(self) -> None:
        for name, known in self.values.items():
            value = getattr(self, name)
            for word in value.split("-") if name in _JOINED else [value]:
                if word not in known and (value or name not in (*_JOINED, "listener")):
                    raise ValueError(f"{name}={value}: known: {', '.join(known)}")
        check_ranges(
            self,
            ("vms", 1, 4),
            ("vcpus", GUESTS[self.guest].vcpus, 4),
            ("hosts", 0, GUESTS[self.guest].hosts_max),
            ("messages", 1, 1 if GUESTS[self.guest].single else 100),
            ("queue", 1, QUEUE_MAX),
            ("requests", 0, 100),
            ("requesters", 1, 4 if self.requests else 1),
            ("patient", 0, int(self.hosts > 1 and self.vms > 1)),
            ("asks", 0, 100),
            ("copies", 0, 4),
            ("probes", 0, 100),
            ("reports", 0, 100),
            ("rings", 0, 0 if self.stop else 100),
            ("suspenders", 0, 4),
            ("rounds", 1, 100),
            ("places", 1, CLIENTS_MAX),
            ("boot", 0, int(self.hosts > 0 or self.stop or not GUESTS[self.guest].dies)),
            ("quiet", 0, int(self.stop and not self.hosts)),
            ("deaths", 0, 4 if self.swap or self.idle else 0),
            ("failing_starts", 0, 3 if self.deaths and self.timers else 0),
            ("spawner_dies", 0, int(bool(self.swap) and not self.deaths)),
            ("idle", 0, int(self.timers)),
        )
        for name, guests in (
            ("listener", ("talker",)),
            ("requests", ("server", "doomed")),
            ("rings", ("bell", "bells")),
            ("asks", ("utility", "hibernator", "twins")),
            ("copies", ("files",)),
        ):
            if getattr(self, name) and self.guest not in guests:
                known = " or ".join(guests)
                raise ValueError(f"{name}={getattr(self, name)}: with guest={known} only")

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("machine", self)

    def small(self) -> MachineScenario:
        """Return the size whose every interleaving a race pass runs."""
        kind = GUESTS[self.guest]
        alone = (
            (self.requests and not kind.dies) or kind.unasked or self.clients or not kind.hosts_max
        )
        return replace(
            self,
            vms=1,
            vcpus=kind.vcpus,
            hosts=0 if alone and not (kind.dies and self.hosts) else 1,
            messages=1,
            requests=min(self.requests, 1),
            requesters=1,
            patient=False,
            asks=min(self.asks, 1),
            copies=min(self.copies, 2),
            rings=min(self.rings, 1),
            suspenders=0,
            clients=self.clients.partition("-")[0],
            stop=self.quiet,
            boot=False,
            timers=False,
            sends="wait",
        )

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the machine and its host programs."""
        return MachineWorld(self, runtime).world()

    def describe(self) -> MachineSpec:
        """Return the machine's description."""
        image = GUESTS[self.guest].image
        vms = [
            VmSpec(image=image, name=f"g{number}", memory=MEMORY, vcpus=self.vcpus)
            for number in range(self.vms)
        ]
        swap = "." if self.swap or self.idle else None  # a directory that the model does not use
        idle = IdleTime(WITHIN) if self.idle else None
        return MachineSpec(vm=vms, name="m", engine="script", swap=swap, swap_idle=idle)
