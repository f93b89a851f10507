"""A utility service while its guest hibernates, the machine pauses or is restored, and time-outs pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.scenarios.servicesguest import Guest
from hfsched.scenarios.servicesmodel import Host
from hfsched.scenarios.servicevariants import DRIVERS, VARIANTS, historical_world

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["ServicesScenario"]

EVENTS = ("none", "hibernate", "pause", "restore")


@dataclass(frozen=True)
class ServicesScenario:
    """`hosts` ask a guest's daemon `requests` times each, and the daemon asks the host `asks` times.

    The first `leavers` of the hosts give each request up, at any point.  Meanwhile `event` happens at any
    point; with `timers` any deadline may pass at any point; the daemon crashes `crashes` times, and goes
    `farewells` times, and another one registers; the host's daemon ends `faults` times by its first requests, and is started again; with `mute`, which needs `timers`, no daemon answers, so that time-outs end all requests; with `boot`
    its first registration is explored too.

    Every request gets exactly one answer, and its own; none waits while the service could take it; the service
    is READY at the end, and has no deadline; the courier waits for room only with something to send; no daemon
    ends by a late reply; a pause changes nothing.

    With a `variant` the service is a driver in the guest as Linux has it, or had it; `tolerant` lets an
    execution end that has gone wrong, so that a complete search lists every way to go wrong.
    """

    requests: int = 2
    hosts: int = 1
    leavers: int = 0
    asks: int = 0
    event: str = "hibernate"
    crashes: int = 0
    farewells: int = 0
    faults: int = 0
    mute: bool = False
    timers: bool = True
    boot: bool = False
    tolerant: bool = False
    variant: str = ""

    variants: ClassVar[Mapping[str, Variant]] = VARIANTS
    values: ClassVar[Mapping[str, tuple[str, ...]]] = {"event": EVENTS}

    def __post_init__(self) -> None:
        check_ranges(
            self,
            ("requests", 0, 4),
            ("hosts", 1, 4),
            ("leavers", 0, self.hosts),
            ("asks", 0, 4),
            ("crashes", 0, 2),
            ("farewells", 0, 2),
            ("faults", 0, 2 if self.asks else 0),
            ("mute", 0, int(self.timers)),
        )
        if self.event not in EVENTS:
            raise ValueError(f"event={self.event}: not one of {', '.join(EVENTS)}")
        ends = self.crashes or self.farewells
        more = self.asks or ends or self.mute or self.hosts > 1 or self.leavers
        if self.variant and (more or self.event not in EVENTS[:2]):
            raise ValueError(
                "the drivers of Linux have event=none or hibernate, one host that stays, daemons that answer, no asks, no crashes"
            )

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("services", self)

    def small(self) -> ServicesScenario:
        """Return the size whose every interleaving a race pass runs."""
        return replace(
            self, requests=min(1, self.requests), asks=min(1, self.asks), timers=self.mute
        )

    def build(self, runtime: ExploreRuntime) -> World:
        """Create host, guest, and what happens to them."""
        if self.variant:
            return historical_world(runtime, DRIVERS[self.variant], self)
        guest = Guest(runtime, self.asks, mute=self.mute)
        host = Host(runtime, guest, self)
        host.start()
        if self.event != "none":
            acts = {"hibernate": host.hibernate, "pause": host.pause, "restore": host.restore}
            runtime.spawn(self.event, acts[self.event])
        for number in range(self.crashes):
            runtime.spawn(f"crash.{number}", host.crash)
        for number in range(self.farewells):
            runtime.spawn(f"farewell.{number}", partial(host.crash, says=True))
        return World(host.check, invariant=host.look, final=host.final, timers=self.timers)
