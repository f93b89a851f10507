"""How soon a machine of a snapshot answers, and what clones of one hold.

    python bench/lazy_restore.py [--size MIB] [--clones N] [--clone-size MIB] [--rounds N]

Each time is from opening the snapshot to the first answer of its guest (`trusty` on Unicorn, in this process), with
a warm page cache, of machines that were filled by the host with what cannot be compressed.  In each round, in another order,
since who comes after a restore that reads all finds cold caches: a lazy restore of --size MiB (1024), one of 16 MiB, and a restore that reads --size MiB first.  Then --clones
(25) machines at once of a snapshot of --clone-size MiB (256), each answering, and as many full restores: the bytes
that their memfds hold, and what a clone costs beside them.

The exit status is 1 when a line is missed: the first answer of the large machine takes at most 1.3 times that of the
small one, and a tenth of reading all first (medians); the clones hold less than a tenth of what the full ones do.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from itertools import cycle, permutations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hfsched.memory.ram import PAGE_SIZE
from hfsched.runtime.threads import ThreadRuntime
from hfsched.snapshot.directory import open_chain
from hfsched.swap.report.footprint import held
from hfsched.vmm import snapshotting
from hfsched.vmm.attempt import Wish
from hfsched.vmm.lazy import LazyMemory
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import MachineSpec, VmSpec
from hfsched.vmm.records import MachineRecord
from hfsched.vmm.saving import spec_of

MIB = 1 << 20
NS = 1_000_000_000
WITHIN = 300 * NS
SLOWER_MAX, SOONER_MIN, HELD_MAX = 1.3, 10.0, 0.1
USED = 4 * MIB  # of the guest itself; what is above it is filled


def snapshot(runtime: ThreadRuntime, folder: Path, size: int) -> Path:
    """Take a snapshot of a machine of so many MiB, all of it filled; return its directory."""
    where = folder / f"of{size}"
    where.mkdir(mode=0o700)
    spec = MachineSpec(
        vm=[VmSpec(image="trusty.bin", name="trusty", memory=size * MIB)], engine="unicorn"
    )
    spec.check("bench")
    drawn = random.Random(size)
    with Machine(spec, runtime, lambda *_: None) as machine, ExitStack() as stack:
        ram = machine.rams["trusty"]
        for offset in range(USED, size * MIB, MIB):
            ram.write(offset, drawn.randbytes(MIB))
        machine.start()
        answer(machine, runtime)
        files = [
            os.open(where / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            for name in ("pages", "index")
        ]
        for fd in files:
            stack.callback(os.close, fd)
        wish = Wish(name=where.name, created=time.time_ns())
        attempt, _ = machine.snapshots.take((files[0], files[1]), wish, runtime.now() + WITHIN)
        machine.snapshots.confirm(attempt)
    return where


def answer(machine: Machine, runtime: ThreadRuntime) -> None:
    """Wait until the guest has answered a line."""
    deadline = runtime.now() + WITHIN
    end = machine.endpoint("trusty", machine.text_port("trusty"))
    try:
        end.send(b"hello", deadline)
        if end.recv(deadline) is None:
            raise RuntimeError("the guest does not answer")
    finally:
        end.close()


def restored(runtime: ThreadRuntime, where: Path, *, lazy: bool, fill: bool = True) -> Machine:
    """Return a machine of a snapshot, started."""

    def make(saved: MachineRecord, memory: LazyMemory | None) -> Machine:
        spec = spec_of(saved)
        return Machine(spec, runtime, lambda *_: None, saved=saved, lazy=memory)

    chain = open_chain(str(where))
    record = snapshotting.record_of(chain)
    if lazy:
        memory = LazyMemory(chain, record, fill=fill)
        machine = snapshotting.restore(chain, record, make, name=where.name, lazy=memory)
    else:
        with closing(chain):
            machine = snapshotting.restore(chain, record, make, name=where.name)
    machine.start()
    return machine


def first_answer(runtime: ThreadRuntime, where: Path, *, lazy: bool) -> float:
    """Return the time (s) until the guest of a snapshot answers."""
    began = time.monotonic()
    with restored(runtime, where, lazy=lazy) as machine:
        answer(machine, runtime)
        return time.monotonic() - began


def warm(where: Path) -> None:
    """Read a layer's files."""
    for file in where.iterdir():
        with file.open("rb") as opened:
            while opened.read(MIB):
                pass


def holds(machine: Machine) -> int:
    """Return how many bytes of its guests' memory a machine holds."""
    rams = machine.rams.values()
    ranges = [held(ram.fd, ram.size // PAGE_SIZE) for ram in rams]
    return sum(PAGE_SIZE * (end - first) for each in ranges for first, end in each)


def resident() -> int:
    """Return the resident size of this process, without the guests' memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


def crowd(
    runtime: ThreadRuntime, where: Path, number: int, *, lazy: bool
) -> tuple[int, int, float]:
    """Return the bytes that so many machines at once hold, of guests, and beside them each; and the time (s)."""
    before, began = resident(), time.monotonic()
    with ExitStack() as stack:
        machines = [
            stack.enter_context(restored(runtime, where, lazy=lazy, fill=False))
            for _ in range(number)
        ]
        for machine in machines:
            answer(machine, runtime)
        took = time.monotonic() - began
        beside = (resident() - before) // number
        monitors = [m.swap.footprint.measure().monitor for m in machines if m.swap is not None]
        beside += sum(monitors) // number
        return sum(map(holds, machines)), beside, took


def main() -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--clones", type=int, default=25)
    parser.add_argument("--clone-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", default=None)
    args = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory(dir=args.directory) as name, ExitStack() as stack:
        folder = Path(name)
        runtime = ThreadRuntime()
        runtime.start_spawner(["hfsched.swap.monitor.program"])
        stack.callback(runtime.close)
        large, small = snapshot(runtime, folder, args.size), snapshot(runtime, folder, 16)
        times: dict[str, list[float]] = {"large": [], "small": [], "all": []}
        warm(large)
        warm(small)
        first_answer(runtime, small, lazy=True)
        orders = cycle(permutations(times))
        for _, order in zip(range(args.rounds), orders, strict=False):
            for kind in order:
                where = small if kind == "small" else large
                times[kind].append(first_answer(runtime, where, lazy=kind != "all"))
        found = {kind: statistics.median(each) for kind, each in times.items()}
        slower = found["large"] / found["small"]
        sooner = found["all"] / found["large"]
        print(
            f"first answer: {args.size} MiB {found['large'] * 1e3:.1f} ms, 16 MiB"
            f" {found['small'] * 1e3:.1f} ms (x{slower:.2f}, at most {SLOWER_MAX}); all read first"
            f" {found['all'] * 1e3:.1f} ms (x{sooner:.1f}, at least {SOONER_MIN})",
            flush=True,
        )
        missed |= slower > SLOWER_MAX or sooner < SOONER_MIN
        for path in large.iterdir():
            path.unlink()
        if args.clones:
            cloned = snapshot(runtime, folder, args.clone_size)
            warm(cloned)
            some, beside, took = crowd(runtime, cloned, args.clones, lazy=True)
            every, _, took_all = crowd(runtime, cloned, args.clones, lazy=False)
            print(
                f"{args.clones} clones of {args.clone_size} MiB: {some / MIB:.1f} MiB of guests after"
                f" {took:.2f} s, full restores {every / MIB:.1f} MiB after {took_all:.2f} s"
                f" (x{some / every:.4f}, below {HELD_MAX}); a clone costs {beside / MIB:.1f} MiB beside"
            )
            missed |= some >= HELD_MAX * every
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
