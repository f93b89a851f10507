"""For how long a snapshot pauses the guests, beside swap's Enable; and a suspension of many VMs beside that of two.

    python bench/snapshot_pause.py [--size MIB] [--rounds N] [--vms N]

A VM on Unicorn, of --size MiB (1024), is filled by the host with what cannot be compressed.  Its guest writes a word
into each of 5 % of its pages, again and again.  In each round, interleaved: an incremental snapshot, a live one, a live
one that is incremental, and swap's Enable with the Disable after it.  A pause is the time from the machine's being suspended until it is about to be resumed.  Then
--vms (64) guests, and 2, exchange messages in pairs, and are suspended again and again.

The exit status is 1 when a line is missed: an incremental snapshot pauses at most half as long as Enable, a live one a
third (medians); the layer of an incremental one has at most 1.1 bytes for each byte of a page that was written, and the suspension of many VMs takes at most four
times that of two (p99).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import struct
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hfsched.memory.ram import PAGE_SIZE
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.outbox import Sent
from hfsched.swap.protocol.messages import State
from hfsched.vmm.attempt import Wish, Written
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import MachineSpec, VmSpec

MIB = 1 << 20
NS = 1_000_000_000
WITHIN = 120 * NS
PAUSE_MAX, LIVE_MAX, LAYER_MAX, VMS_MAX = 0.5, 1 / 3, 1.1, 4.0
SUSPENSIONS = 200


def writer(pages: int) -> bytes:
    """Return arm64 code that adds one to the first word of so many pages, from 1 MiB on, for ever."""
    assert pages < 1 << 16
    return struct.pack(
        "<11I",
        0x10000003,  # adr x3, .
        0xD2A00204,  # movz x4, 0x10, lsl 16
        0x8B040063,  # add x3, x3, x4
        0xAA0303E5,  # outer: mov x5, x3
        0xD2800006 | pages << 5,  # movz x6, pages
        0xF90000A7,  # inner: str x7, [x5]
        0x910004E7,  # add x7, x7, 1
        0x914004A5,  # add x5, x5, 0x1000
        0xF10004C6,  # subs x6, x6, 1
        0x54FFFF81,  # b.ne inner
        0x17FFFFF9,  # b outer
    )


class Pauses:
    """The pauses of a machine, by their holders."""

    def __init__(self, machine: Machine, runtime: ThreadRuntime) -> None:
        self._runtime = runtime
        self._since: dict[str, int] = {}
        self.last: dict[str, int] = {}
        machine.suspension.on_hold = self._note

    def _note(self, holder: str, held: bool) -> None:  # noqa: FBT001
        if held:
            self._since[holder] = self._runtime.now()
        else:
            self.last[holder] = self._runtime.now() - self._since[holder]


class Writing:
    """The machine whose guest writes."""

    def __init__(self, size: int, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self.runtime = ThreadRuntime()
        self.runtime.start_spawner(["hfsched.swap.monitor.program"])
        stack.callback(self.runtime.close)
        self.pages = size // PAGE_SIZE // 20
        image = folder / "writer.bin"
        image.write_bytes(writer(self.pages))
        vm = VmSpec(image=str(image), name="writer", format="raw", memory=size)
        spec = MachineSpec(vm=[vm], engine="unicorn", swap=str(folder))
        spec.check("bench")
        self.machine = stack.enter_context(Machine(spec, self.runtime, lambda *_: None))
        self._fill(size)
        self.pauses = Pauses(self.machine, self.runtime)
        self.machine.start()
        self._number = 0

    def _fill(self, size: int) -> None:
        drawn = random.Random(1)
        ram = self.machine.rams["writer"]
        for offset in range(MIB, size, MIB):
            ram.write(offset, drawn.randbytes(MIB))

    def take(self, *, incremental: bool, live: bool = False) -> tuple[Written, int]:
        """Take a snapshot; return what was written, and the bytes of both files."""
        snapshots = self.machine.snapshots
        self._number += 1
        paths = [self._folder / f"{self._number}.{name}" for name in ("pages", "index")]
        files = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) for path in paths]
        wish = Wish(
            name=f"s{self._number}",
            created=1,
            incremental=incremental,
            live=live,
            parent=snapshots.base if incremental else None,
        )
        attempt, written = snapshots.take((files[0], files[1]), wish, self.runtime.now() + WITHIN)
        snapshots.confirm(attempt)
        size = sum(os.fstat(fd).st_size for fd in files)
        for fd, path in zip(files, paths, strict=True):
            os.close(fd)
            path.unlink()
        return written, size

    def enable(self) -> None:
        """Stage all memory, and take it back."""
        swap = self.machine.swap
        assert swap is not None
        swap.enable(self.runtime.now() + WITHIN)
        swap.client.disable(slow_file_cleanup=False, deadline=self.runtime.now() + WITHIN)
        while swap.status(self.runtime.now() + WITHIN).state is not State.READY:
            time.sleep(0.01)


def pauses(size: int, rounds: int) -> bool:
    """Print the pauses of a writing machine; return whether no line is missed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hf-")))
        made = Writing(size, folder, stack)
        full, _ = made.take(incremental=False)
        made.take(incremental=True)  # room is had for as much as the last time
        print(f"{size // MIB} MiB, {made.pages} pages rewritten all the while")
        print(
            f"full snapshot: paused for {full.paused_ns / 1e6:.1f} ms (256 MiB copied, the rest written)"
        )
        kinds = {"incremental": PAUSE_MAX, "live": LIVE_MAX, "live incremental": LIVE_MAX}
        took: dict[str, list[float]] = {kind: [] for kind in (*kinds, "Enable")}
        bytes_a_byte = []
        for _ in range(rounds):
            for kind in kinds:
                time.sleep(0.3)
                incremental, live = "incremental" in kind, "live" in kind
                written, stored = made.take(incremental=incremental, live=live)
                if written.notices or (written.on is None) is incremental:
                    raise SystemExit(f"not {kind}: {written.notices}")
                took[kind].append(made.pauses.last["snapshot"] / 1e6)
                if incremental:
                    bytes_a_byte.append(stored / (made.pages * PAGE_SIZE))
            made.enable()
            took["Enable"].append(made.pauses.last["swap"] / 1e6)
    print(f"Enable: paused for {_spread(took['Enable'])} ms")
    good = True
    for kind, most in kinds.items():
        ratio = statistics.median(a / b for a, b in zip(took[kind], took["Enable"], strict=True))
        good = good and ratio <= most
        print(
            f"{kind}: paused for {_spread(took[kind])} ms; ratio {ratio:.2f} (at most {most:.2f})"
        )
    layer = statistics.median(bytes_a_byte)
    print(f"layer: {layer:.3f} bytes for a byte of a written page (at most {LAYER_MAX})")
    return good and layer <= LAYER_MAX


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def suspensions(vms: int) -> tuple[list[float], list[float]]:
    """Return how long suspensions of so many guests took that exchange messages in pairs, in ms, in order.

    By the clock, and in processor time of this process, which other work on the machine changes less.
    """
    runtime = ThreadRuntime()
    spec = MachineSpec(
        vm=[VmSpec(image="stress.bin", memory=1 << 19) for _ in range(vms)], engine="unicorn"
    )
    spec.check("bench")
    took, used = [], []
    with Machine(spec, runtime, lambda *_: None) as machine:
        machine.start()
        names = machine.vm_names()
        ends = [machine.endpoint(name, 1) for name in names]
        for number, end in enumerate(ends):
            peer = machine.assembly.vms[number ^ 1].id
            text = b"go %d 1000000 %d" % (number, peer)
            if end.send(text, runtime.now() + WITHIN) is not Sent.SENT:
                raise SystemExit(f"{names[number]} does not take a message")
        time.sleep(1)
        for _ in range(SUSPENSIONS):
            began, used_before = runtime.now(), time.process_time_ns()
            with machine.suspension.held("bench", runtime.now() + WITHIN):
                took.append((runtime.now() - began) / 1e6)
                used.append((time.process_time_ns() - used_before) / 1e6)
            time.sleep(0.02)  # the machine must run as long as it was paused
    runtime.close()
    return sorted(took), sorted(used)


def many(vms: int) -> bool:
    """Print what suspensions of many VMs take beside those of two; return whether no line is missed."""
    found = {}
    for count in (2, vms):
        took, used = suspensions(count)
        at = len(took) * 99 // 100
        found[count] = took[at], used[at]
        print(
            f"{count} VMs: suspended in {statistics.median(took):.2f} ms, p99 {took[at]:.2f} ms;"
            f" processor time {statistics.median(used):.2f} ms, p99 {used[at]:.2f} ms"
        )
    ratio, of_processor = (found[vms][each] / found[2][each] for each in (0, 1))
    print(
        f"p99 of {vms} beside 2: {ratio:.2f} (at most {VMS_MAX:g}); of processor time {of_processor:.2f}"
    )
    return ratio <= VMS_MAX


def main() -> int:
    """Run the bench; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--vms", type=int, default=64, metavar="N", help="0: leave this out")
    args = parser.parse_args()
    good = pauses(args.size * MIB, args.rounds) if args.rounds else True
    return 0 if (not args.vms or many(args.vms)) and good else 1


if __name__ == "__main__":
    sys.exit(main())
