"""Random hypercalls of a hostile guest, by the million, and what is left of the host afterwards.

    python bench/hostile.py [--engine NAME] [--calls N] [--seed S] [--seconds N]

The guest `hostile` makes them in chunks (its command `random`), on the engine named, or on every
one that can be used here.  Beside it lives a VM `stress`, its memory full of a pattern, and this
process has pages of its own on both sides of the memory of each.  What must hold:

- every chunk is answered, and so is `stress` in the end;
- no exception leaves a thread, and no VM dies;
- the pattern and the pages are what they were;
- this process does not grow: its resident memory in the last quarter is that of the first.

The exit status is 1 if something else was seen.  arm64 under KVM, in a machine that QEMU emulates:

    script/qemu -- python3 bench/hostile.py --engine kvm --calls 1000000
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import statistics
import sys
import time
import zlib
from array import array
from collections.abc import MutableSequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "conformance"))

from talk import KVM_ARM64, TARGETS, Talk, Target

from hfsched.memory.image import read_image
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.runtime.threads import tune_process
from hfsched.vmm.guests import bundled_images

__all__ = ["CHUNK", "TARGETS", "Guards", "Result", "Target", "attack"]

CHUNK = 1000  # calls; a second or so where a guest is emulated
CALLS = 10_000_000
PROGRESS = 500_000  # calls, between two lines that say how far it is
CALLS_ARM64_KVM = 1_000_000  # in a machine that is itself emulated
GROWTH_MAX = 1 << 20  # bytes; a leak of one byte in ten calls would be seen in ten million
HOSTILE, STRESS = 0, 1

_MEMORY = 1 << 20  # bytes, of each VM
_GUARD_SIZE = _MEMORY  # so that what has room for the one has room for the other
_MAP_FIXED_NOREPLACE = 0x100000
_MAP_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Guards:
    """Pages of this process that touch the memory of VMs, and what of a VM must stay as it is.

    Make it just before the VMs: Linux puts a mapping below the last one, so theirs come next to the
    first pages here.
    """

    def __init__(self) -> None:
        self._watched: dict[str, tuple[int, int]] = {}
        self._sums: dict[str, int] = {}
        self._made: list[tuple[int, int]] = []
        self.pages = 0
        self._guard("the first pages", 0)

    def surround(self, name: str, ram: Ram) -> None:
        """Take the addresses on both sides of a VM's memory, where nobody has them."""
        for size in (_GUARD_SIZE, PAGE_SIZE):
            self._guard(f"what is below {name}'s memory", ram.address - size, size)
            self._guard(f"what is above {name}'s memory", ram.address + ram.size, size)

    def _guard(self, name: str, address: int, size: int = _GUARD_SIZE) -> None:
        if name in self._watched:
            return
        made = _libc.mmap(
            address,
            size,
            mmap.PROT_READ | mmap.PROT_WRITE,
            mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_MAP_FIXED_NOREPLACE if address else 0),
            -1,
            0,
        )
        if made != _MAP_FAILED:
            self._made.append((made, size))
            ctypes.memset(made, 0xA5, size)
            self.watch(name, made, size)

    def watch(self, name: str, address: int, size: int) -> None:
        """Remember what is there."""
        self._watched[name] = (address, size)
        self._sums[name] = _checksum(address, size)
        self.pages += size // PAGE_SIZE

    def changed(self) -> list[str]:
        """Return the names of what is not as it was."""
        return [
            name for name, where in self._watched.items() if _checksum(*where) != self._sums[name]
        ]

    def close(self) -> None:
        for address, size in self._made:
            _libc.munmap(address, size)
        self._made.clear()


def _checksum(address: int, size: int) -> int:
    return zlib.crc32((ctypes.c_char * size).from_address(address))


def _talk(target: Target) -> Talk:
    return Talk(target, "hostile", "stress", vcpus=2, memory=_MEMORY)


def _watch(talk: Talk, guards: Guards) -> None:
    """Fill the memory of `stress` behind its image, and watch that and the pages around."""
    answer = talk.ask("fill 1", vm=STRESS)
    assert answer.startswith("ok "), answer
    for vm in (talk.vm(HOSTILE), talk.vm(STRESS)):
        guards.surround(vm.name, vm.memory.regions[0].ram)
    image = read_image(bundled_images()[f"{talk.target.architecture}/stress.bin"])
    first = -(-image.memory_size // PAGE_SIZE) * PAGE_SIZE
    ram = talk.vm(STRESS).memory.regions[0].ram
    guards.watch("stress's memory", ram.address + first, ram.size - first)


@dataclass
class Result:
    """What came of it: resident bytes by chunk, and what should not have been."""

    calls: int = 0
    seconds: float = 0.0
    watched: int = 0  # pages
    resident: MutableSequence[int] = field(default_factory=lambda: array("q"))  # small itself
    violations: list[str] = field(default_factory=list)

    def growth(self) -> int:
        """Return by how many bytes the process grew from the first quarter to the last."""
        if not self.resident:
            return 0
        quarter = max(1, len(self.resident) // 4)
        first, last = self.resident[:quarter], self.resident[-quarter:]
        return round(statistics.median(last) - statistics.median(first))

    def __str__(self) -> str:
        rate = self.calls / self.seconds if self.seconds else 0
        resident = self.resident[-1] if self.resident else 0
        return (
            f"{self.calls} calls in {self.seconds:.0f} s, {rate:.0f}/s, {self.watched} pages "
            f"watched, resident {resident >> 20} MiB, growth {self.growth() >> 10} KiB"
        )


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def _judge(talk: Talk, guards: Guards, result: Result) -> None:
    """Look at everything that must hold once the calls are made."""
    found = result.violations
    answer = talk.ask("check 1", vm=STRESS)
    if not answer.startswith("ok "):
        found.append(f"stress says: {answer}")
    found += [f"{name} changed" for name in guards.changed()]
    found += [f"an exception left {failure}" for failure in talk._failures]
    found += [f"vm {name} died: {reason}" for name, reason in talk.machine.aborts.items()]
    if result.growth() > GROWTH_MAX:
        found.append(f"the process grew by {result.growth()} bytes")


def attack(target: Target, calls: int, seed: int = 1, seconds: float | None = None) -> Result:
    """Make `calls` calls, or as many as fit into some seconds, and judge."""
    result = Result()
    _talk(target).machine.close()  # what is loaded once, is loaded
    guards = Guards()
    with closing(guards), _talk(target) as talk:
        _watch(talk, guards)
        result.watched = guards.pages
        began = time.monotonic()
        while result.calls < calls and (seconds is None or result.seconds < seconds):
            count = min(CHUNK, calls - result.calls)
            try:
                answer = talk.ask(f"random {seed + len(result.resident)} {count}")
            except AssertionError as exc:  # no answer
                answer = str(exc)
            if answer != f"{count} calls":
                result.violations.append(f"chunk {len(result.resident)} was answered: {answer}")
                return result
            talk.lines()  # they are not kept
            result.calls += count
            result.resident.append(_resident())
            result.seconds = time.monotonic() - began
            if result.calls % PROGRESS == 0 and result.calls < calls:
                print(f"{target}: {result}, going on", file=sys.stderr, flush=True)
        _judge(talk, guards, result)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="random hypercalls, and what is left of the host")
    parser.add_argument("--engine", choices=("unicorn", "kvm"))
    parser.add_argument("--calls", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="stop after this time")
    args = parser.parse_args()
    targets = [target for target in TARGETS if args.engine in (None, target.engine)]
    wrong = run = 0
    tune_process()
    for target in targets:
        if target.why_not() is not None:
            print(f"{target}: left out: {target.why_not()}", file=sys.stderr)
            continue
        run += 1
        calls = args.calls or (CALLS_ARM64_KVM if target == KVM_ARM64 else CALLS)
        result = attack(target, calls, args.seed, args.seconds)
        wrong += len(result.violations)
        print(f"{target}: {result}: {len(result.violations)} violations")
        for violation in result.violations:
            print(f"  {violation}")
        sys.stdout.flush()
    return 0 if run and not wrong else 1


if __name__ == "__main__":
    # Threads of a VM that hangs would keep the process from its end.
    status = main()
    sys.stdout.flush()
    os._exit(status)
