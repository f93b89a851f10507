"""Schedules a second over real guest images, against a bare loop over the same slices.

    python bench/explore_images.py [--guest twins|pair] [--rounds N] [--schedules N] [--cpu N]

A fixed program of about 30 hypercalls over two guests on the engine unicorn (`twins`: two `trusty`,
four messages each; `pair`: two `echo`, five each), in one fixed schedule.  In one run, interleaved,
pinned to one CPU, medians over the rounds:

- explored: the whole of it: the booted machines put back, the production hypervisor, driver, mirror
  and hosts run over the exploring runtime, all ends looked at;
- bare: the same CPUs, put back in the same way, do what they did in that schedule: the same slices,
  answers, interrupts and writes to memory, from a list.

`slice` is the most instructions that a guest runs before somebody else may: "exit" for up to its next
exit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hfsched.explore.execution import execute
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.schedule import Replay, Schedule
from hfsched.scenarios import images
from hfsched.scenarios.images import BootedMachines, ImagesScenario
from hfsched.scenarios.variants import PARTS
from hfsched.vcpu.engine import Hypercall
from hfsched.vcpu.unicorn.cpu import SLICE, UnicornVcpu

MESSAGES = {"twins": 4, "pair": 5}
Did = tuple[Callable[..., Any], tuple[Any, ...]]


class Sliced:
    """The scenario with every slice cut at `size`."""

    name = "sliced"

    def __init__(self, guest: str, size: int) -> None:
        self._scenario = ImagesScenario(guest=guest, messages=MESSAGES[guest], hosts=2, cuts=0)
        self.booted = images._booted(guest)
        self._size = size
        self.cpus = [cpu for machine in self.booted.machines for cpu in machine.cpus]

    def build(self, runtime: ExploreRuntime) -> World:
        world = self._scenario.build(runtime)
        for cpu in self.cpus:
            assert isinstance(cpu, UnicornVcpu)
            cpu.cut = lambda: self._size
        return world

    def record(self) -> tuple[list[Did], int, int]:
        """Run the schedule once; return what the engine did, its slices and its hypercalls."""
        did: list[Did] = []
        counts = [0, 0]
        recorded: list[tuple[Any, str]] = []

        def wrap(thing: Any, name: str, note: Callable[[], None] = lambda: None) -> None:
            real = getattr(thing, name)

            def call(*args: Any) -> Any:
                if not runtime_of.settling:
                    did.append((real, args))
                    note()
                result = real(*args)
                if type(result) is Hypercall and not runtime_of.settling:
                    counts[1] += 1
                return result

            setattr(thing, name, call)
            recorded.append((thing, name))

        def count() -> None:
            counts[0] += 1

        for cpu in self.cpus:
            wrap(cpu, "_slice", count)
            wrap(cpu, "reply")
            wrap(cpu, "set_irq")
        for machine in self.booted.machines:
            wrap(machine.ram, "write")
        scenario = self
        runtime_of: Any = None

        class Watched:
            name = "watched"

            def build(self, runtime: ExploreRuntime) -> World:
                nonlocal runtime_of
                runtime.controller.settling = True  # what puts the machines back is not recorded
                runtime_of = runtime
                return scenario.build(runtime)

        outcome = execute(Watched(), Replay(Schedule()))
        assert outcome.failure is None, outcome.failure
        for thing, name in recorded:
            delattr(thing, name)
        return did, counts[0], counts[1]


class Bare:
    """What the engine did, alone."""

    def __init__(self, booted: BootedMachines) -> None:
        runtime = ExploreRuntime(Replay(Schedule()))
        assembly = booted.assemble(runtime, PARTS[""], boot=False)
        self._pairs = [
            (machine, vm.record) for machine, vm in zip(booted.machines, assembly.vms, strict=True)
        ]

    def run(self, did: list[Did]) -> None:
        """Put the machines back, and do it all."""
        for machine, vm in self._pairs:
            machine.rewind(vm)
        for what, args in did:
            what(*args)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--guest", choices=sorted(MESSAGES), default="twins")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--schedules", type=int, default=100, help="in a round")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)))
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.cpu})
    print("| slice | slices | hypercalls | explored, schedules/s | bare | ratio |")
    print("|---|---|---|---|---|---|")
    for size in (10, 20, 50, SLICE):
        scenario = Sliced(args.guest, size)
        did, slices, hypercalls = scenario.record()
        explored, alone = [], []
        for _ in range(args.rounds):
            start = time.perf_counter()
            for _ in range(args.schedules):
                outcome = execute(scenario, Replay(Schedule()))
                assert outcome.failure is None, outcome.failure
            explored.append((time.perf_counter() - start) / args.schedules)
            bare = Bare(scenario.booted)
            start = time.perf_counter()
            for _ in range(args.schedules):
                bare.run(did)
            alone.append((time.perf_counter() - start) / args.schedules)
        one, two = statistics.median(explored), statistics.median(alone)
        label = "exit" if size == SLICE else str(size)
        print(
            f"| {label} | {slices} | {hypercalls} | {1 / one:,.0f} | {1 / two:,.0f} "
            f"| {two / one:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
