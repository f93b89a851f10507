"""What a VM costs among two, a hundred and a thousand: start, memory, a message, and rest.

    python bench/scale.py [--engine unicorn|kvm] [--vms N ...] [--cpu N] [--rounds N]
    python bench/scale.py --machines N

On the engine named, or on each that can be used here; the guest is the bundled `echo.bin`.  In one run,
pinned to one CPU, machines of 2, 100 and 1000 VMs, and beside each of them *bare*, which does as
much as the engine must: on Unicorn as many instances that open, map the same memory and run their first
slice, to their first call; on x86-64 KVM `scale_kvm.c`, a program in C that makes the same VMs and
threads, loads the same image and runs it to its first MSG_WAIT.

- placing: the memory of all VMs in the address space, ms;
- start: from the description until every VM has rested once, ms of processor time a VM (and by the
  clock, which other programs on this machine delay).  Each round starts everything once: the least of
  the rounds, and the median of the ratios within each;
- memory: this process's share (PSS) when all have rested, less what it was before, KiB a VM;
- message: there and back at the first and the last VM, us; medians in turns with the other machines;
- idle: the processor time of all while nothing happens.

With --machines, so many `hfsched run` of two VMs are started at once, and each is sent a message.

The exit status is 1 when a limit is missed.  With `--vms` above 1000, `ulimit -Hn` must be large enough.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from scale_child import IMAGES

from hfsched.vcpu.kvm import device
from hfsched.vmm.guests import bundled_images

HERE = Path(__file__).resolve().parent
Process: TypeAlias = "subprocess.Popen[str]"

GROWTH_MAX = 1.2
START_MAX = {"unicorn": 2.0, "kvm": 1.5}  # of bare
MEMORY_MAX = 1.3  # of bare, on Unicorn
MEMORY_KVM_MAX = 256  # KiB
IDLE_MAX = 0.01
IDLE_SECONDS = 5
TRIPS = 200  # in a round


class Run:
    """One engine's machines, in one run."""

    def __init__(self, engine: str, args: argparse.Namespace, stack: ExitStack) -> None:
        self._engine = engine
        self._size = str(args.memory)
        self._stack = stack
        self._command = [sys.executable, str(HERE / "scale_child.py")]
        self._bare = [*self._command, "bare"]
        if engine == "kvm":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            program = str(Path(folder) / "scale_kvm")
            source = str(HERE / "scale_kvm.c")
            subprocess.run(["cc", "-O2", "-o", program, source, "-pthread"], check=True)
            self._bare = [program, str(bundled_images()[IMAGES["kvm"]])]

    def machine(self, vms: int) -> tuple[Process, dict[str, Any]]:
        return self._start([*self._command, "machine", self._engine, str(vms), self._size])

    def bare(self, vms: int) -> dict[str, Any]:
        process, said = self._start([*self._bare, str(vms), self._size])
        process.communicate()
        return said

    def _start(self, command: list[str]) -> tuple[Process, dict[str, Any]]:
        pipe = subprocess.PIPE
        process = self._stack.enter_context(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.startswith("{"):
            return process, json.loads(line)
        wall, cpu = (int(word) / 1e6 for word in line.split())
        share = Path(f"/proc/{process.pid}/smaps_rollup").read_text().split("\nPss:")[1].split()[0]
        return process, {"wall": wall, "cpu": cpu, "memory": int(share)}


def ask(process: Process, line: str) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def started(
    run: Run, vms: list[int], rounds: int
) -> tuple[dict[int, Process], dict[int, list[Any]]]:
    """Start everything once a round; return the machines of the last, and {ours, bare} of each."""
    kept: dict[int, Process] = {}
    seen: dict[int, list[Any]] = {n: [] for n in vms}
    for number in range(rounds):
        for n in vms:
            process, ours = run.machine(n)
            if number == rounds - 1:
                kept[n] = process
            else:
                process.communicate()
            seen[n].append((ours, run.bare(n)))
    return kept, seen


def messages(machines: dict[int, Process], rounds: int) -> dict[int, list[tuple[float, float]]]:
    """Return the us of a message at the first and the last VM of each machine, of every round."""
    seen: dict[int, list[tuple[float, float]]] = {n: [] for n in machines}
    for number in range(rounds + 1):
        for n, process in machines.items():
            first, last = ask(process, f"trips {TRIPS}")["trips"]
            if number:  # the first is the warm-up
                seen[n].append((first, last))
    return seen


def engine_rows(engine: str, args: argparse.Namespace) -> list[str]:
    """Print an engine's table; return what is above its limit."""
    wrong: list[str] = []

    def judge(what: str, value: float, most: float) -> str:
        if value > most:
            wrong.append(f"{engine}: {what}: {value:.3g}, at most {most:g}")
        return f"{value:.2f}"

    with ExitStack() as stack:
        run = Run(engine, args, stack)
        machines, seen = started(run, args.vms, args.rounds)
        told = messages(machines, args.message_rounds)
        idle = {n: ask(process, f"idle {IDLE_SECONDS}")["idle"] for n, process in machines.items()}
        for process in machines.values():
            process.communicate()
    print(f"\n| {engine} | " + " | ".join(f"{n} VMs" for n in args.vms) + " |")
    print("|---|" + "---|" * len(args.vms))

    def row(what: str, cells: list[str]) -> None:
        print(f"| {what} | " + " | ".join(cells) + " |")

    start = {n: min(ours["cpu"] / n for ours, _ in seen[n]) for n in args.vms}
    floor = {n: min(bare["cpu"] / n for _, bare in seen[n]) for n in args.vms}
    clock = {n: min(ours["wall"] / n for ours, _ in seen[n]) for n in args.vms}
    share = {n: statistics.median(ours["memory"] / n for ours, _ in seen[n]) for n in args.vms}
    least = {n: statistics.median(bare["memory"] / n for _, bare in seen[n]) for n in args.vms}
    few, large = args.vms[0], [n for n in args.vms if n >= 100]
    row("placing, ms", [f"{min(o['placing'] for o, _ in seen[n]):.1f}" for n in args.vms])
    row("start, ms a VM", [f"{start[n]:.2f}" for n in args.vms])
    row("by the clock", [f"{clock[n]:.2f}" for n in args.vms])
    row("bare", [f"{floor[n]:.2f}" for n in args.vms])
    cells = []
    for n in args.vms:
        ratio = statistics.median(ours["cpu"] / bare["cpu"] for ours, bare in seen[n])
        most = START_MAX[engine] if n in large else float("inf")
        cells.append(judge(f"start of {n} over bare", ratio, most))
    row("start over bare", cells)
    row("memory, KiB a VM", [f"{share[n]:.0f}" for n in args.vms])
    row("bare, KiB a VM", [f"{least[n]:.0f}" for n in args.vms])
    for n in large:
        if engine == "kvm":
            judge(f"KiB a VM of {n}", share[n], MEMORY_KVM_MAX)
        else:
            judge(f"memory of {n} over bare", share[n] / least[n], MEMORY_MAX)
    for place, where in enumerate(("first", "last")):
        times = {n: [both[place] for both in told[n]] for n in args.vms}
        row(f"message, {where} VM, us", [f"{statistics.median(times[n]):.1f}" for n in args.vms])
        growth = {
            n: statistics.median(a / b for a, b in zip(times[n], times[few], strict=True))
            for n in args.vms
        }
        row(
            f"over that of {few} VMs",
            [judge(f"message at the {where} of {n}", growth[n], GROWTH_MAX) for n in args.vms],
        )
    row("idle, %", [f"{idle[n] * 100:.3f}" for n in args.vms])
    for n in args.vms:
        judge(f"idle share of {n}", idle[n], IDLE_MAX)
    for n in large[1:]:
        for what, each in (("start", start), ("memory", share)):
            cell = judge(f"{what} a VM, {n} over {large[0]}", each[n] / each[large[0]], GROWTH_MAX)
            print(f"\n{what} a VM, {n} VMs over {large[0]}: {cell}")
    return wrong


def at_once(number: int) -> list[str]:
    """Start so many machines at once, and send each a message; return what did not answer."""
    from hfsched.client import connect

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.environ["XDG_RUNTIME_DIR"] = folder
        guests = ["a=aarch64/echo.bin", "b=aarch64/echo.bin"]
        options = ["--quiet", "--no-stdin", "--memory", "1M", "--engine", "unicorn"]
        began = time.monotonic()
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "hfsched", "run", *options, "--name", f"m{i}", *guests],
                    stdout=subprocess.DEVNULL,
                )
            )
            for i in range(number)
        ]
        silent = []
        for index, process in enumerate(processes):
            answer: bytes | None = None
            while answer is None and process.poll() is None:
                try:
                    with connect("b", 1, machine=f"m{index}") as end:
                        end.send(b"hello")
                        answer = end.recv()
                except Exception as exc:  # noqa: BLE001 - it is not up yet, or never will be
                    last = exc
                    time.sleep(0.05)
            if answer != b"hello":
                silent.append(f"m{index}: {answer!r}, {last}, status {process.poll()}")
        print(f"{number} machines at once: {number - len(silent)} answered,")
        print(f"the last after {time.monotonic() - began:.1f} s")
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    return silent


def main() -> int:
    parser = argparse.ArgumentParser(description="what a VM costs among few and among many")
    parser.add_argument("--engine", choices=("unicorn", "kvm"))
    parser.add_argument("--vms", type=int, nargs="+", default=[2, 100, 1000])
    parser.add_argument("--cpu", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--memory", type=int, default=1 << 20, help="bytes of each VM")
    parser.add_argument("--rounds", type=int, default=3, help="of starts")
    parser.add_argument("--message-rounds", type=int, default=15)
    parser.add_argument("--machines", type=int, help="so many machines at once, and nothing else")
    args = parser.parse_args()
    if args.machines:
        wrong = at_once(args.machines)
    else:
        os.sched_setaffinity(0, {args.cpu})
        engines = [args.engine] if args.engine else ["unicorn", "kvm"]
        if args.engine is None and (device.problem() or not shutil.which("cc")):
            engines.remove("kvm")
        wrong = [line for engine in engines for line in engine_rows(engine, args)]
    for line in wrong:
        print(f"above its limit: {line}" if not args.machines else f"no answer: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
