"""Random instructions through an engine, beside a VM whose memory is watched.

    python bench/instructions.py [--engine NAME] [--seconds N] [--seed S] [--programs N] [--program NUMBER]

Batches of programs run in child processes: each program is a guest of its own, with random
registers, in kernel or user mode.  What must hold:

- the child lives;
- no exception of ours leaves the engine;
- a kick ends every program within a second;
- the memory of the VM beside it, and pages of this process around the memory of both, are unchanged.

What does not is printed with the program's number, seed and code (`--program` runs it alone), and
with the shortest part of the code that ends a process.  The exit status is then 1.
`instruction_words.LEFT_OUT` names what is not tried.
"""

from __future__ import annotations

import argparse
import os
import signal
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "conformance"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vcpu"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "vcpu" / "kvm"))

from instruction_child import PATIENCE, Child, Shared
from instruction_guests import CODE_MAX
from instruction_words import LEFT_OUT, Draw, arm64, left_out, x86_64
from talk import TARGETS, Target

__all__ = ["Report", "fuzz"]

BATCH = 2000  # programs


@dataclass
class Report:
    """What came of an engine."""

    programs: int = 0
    exits: int = 0
    kicks: int = 0
    failed: int = 0
    left_out: int = 0
    seconds: float = 0.0
    slowest: float = 0.0  # seconds from a kick to the end of its program
    found: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.programs} programs in {self.seconds:.0f} s, {self.exits} exits, {self.kicks} "
            f"kicks, the slowest {self.slowest * 1000:.0f} ms, {self.failed} failed CPUs, "
            f"{self.left_out} left out: {len(self.found)} findings"
        )


def draw_of(target: Target) -> Draw:
    return x86_64() if target.architecture == "x86_64" else arm64()


def code_of(draw: Draw, seed: int, program: int) -> bytes:
    return draw(Random(f"{seed}/{program}"))[:CODE_MAX]


def shown(target: Target, code: bytes) -> str:
    """Return code as words, or as bytes where instructions have no fixed size."""
    if target.architecture == "x86_64":
        return code.hex(" ")
    return " ".join(f"{word:#010x}" for (word,) in struct.iter_unpack("<I", code))


def _in_child(target: Target, shared: Shared, seed: int, programs: list[tuple[int, bytes]]) -> str:
    """Run programs in a child process; return what was wrong, empty if nothing."""
    shared.reset()
    pid = os.fork()
    if not pid:
        _child(target, shared, seed, programs)
    last, since = -1, time.monotonic()
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            break
        time.sleep(0.01)
        shared.read()
        if shared.done != last:
            last, since = shared.done, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"no progress for {PATIENCE:.0f} s"
    _, text = shared.read()
    if os.WIFSIGNALED(status):
        return f"the process ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return text or ("" if not status else f"the process ended with {status}")


def _child(target: Target, shared: Shared, seed: int, programs: list[tuple[int, bytes]]) -> None:
    try:
        child = Child(target, shared)
        for program, code in programs:
            if left_out(str(target), code):
                shared.left_out += 1
                continue
            child.run(program, seed, code)
        shared.note(b"")
        shared.text(child.judge())
    except BaseException as error:  # noqa: BLE001 - the finding
        shared.text(f"{type(error).__name__}: {error}")
    os._exit(0)


def _narrow(target: Target, seed: int, program: int, code: bytes, size: int) -> bytes:
    """Return the shortest run of instructions of `size` bytes found that still fails alone."""
    shared = Shared()
    units = [code[at : at + size] for at in range(0, len(code), size)]
    for length in (1, 2, 3):
        for at in range(len(units)):
            part = b"".join(units[at : at + length])
            if _in_child(target, shared, seed, [(program, part)]):
                return part
    return code


def fuzz(
    target: Target,
    seconds: float,
    seed: int = 1,
    first: int = 0,
    most: int | None = None,
    draw: Draw | None = None,
) -> Report:
    """Run programs for some seconds, or `most` of them, from number `first` on."""
    report, shared, draw = Report(), Shared(), draw or draw_of(target)
    began = time.monotonic()
    program = first
    end = sys.maxsize if most is None else first + most
    while report.seconds < seconds and program < end:
        count = min(BATCH, end - program)
        programs = [(each, code_of(draw, seed, each)) for each in range(program, program + count)]
        wrong = _in_child(target, shared, seed, programs)
        code, _ = shared.read()
        report.programs += shared.done
        report.exits += shared.exits
        report.kicks += shared.kicks
        report.failed += shared.failed
        report.left_out += shared.left_out
        report.slowest = max(report.slowest, shared.slowest)
        report.seconds = time.monotonic() - began
        program += count
        if wrong:
            at = shared.program
            if code:
                size = 4 if target.architecture == "aarch64" else len(code)
                part = _narrow(target, seed, at, code, size)
                wrong += f": program {at} of seed {seed}: {shown(target, part)}"
                program = at + 1
            report.found.append(wrong)
            print(f"{target}: {wrong}", file=sys.stderr, flush=True)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description="random instructions, and what is left of the host"
    )
    parser.add_argument("--engine", choices=("unicorn", "kvm"))
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--programs", type=int, metavar="N", help="end after so many")
    parser.add_argument("--program", type=int, metavar="NUMBER", help="run this one alone")
    args = parser.parse_args()
    wrong = run = 0
    for target in TARGETS:
        if args.engine not in (None, target.engine):
            continue
        why_not = target.why_not()
        if why_not is not None:
            print(f"{target}: left out: {why_not}", file=sys.stderr)
            continue
        for name, (_, why) in LEFT_OUT.get(str(target), {}).items():
            print(f"{target}: {name} is left out: {why}")
        most = args.programs if args.program is None else 1
        report = fuzz(target, args.seconds, args.seed, args.program or 0, most)
        run += 1
        wrong += len(report.found)
        print(f"{target}: {report}", flush=True)
    return 0 if run and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
