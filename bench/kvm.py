"""What a KVM exit costs here beside a bare loop in C over the same exits.

    python bench/kvm.py [--rounds N] [--exits N] [--trips N] [--cpu N] [--where]

A guest that does nothing but HF_INTERRUPT_GET, on the engine kvm, pinned to one CPU, interleaved in
one run.  Processor time of the process, which tells the same on a machine that others use too;
medians over the rounds, and of the ratios within each round:

- bare: KVM_RUN in a loop, in C, that answers nothing;
- enter: the engine alone, `Vcpu.enter` and `Vcpu.reply` with a constant;
- answered: `Hypervisor.run`, which answers every one of them without leaving the RUN.

Beside them `echo.bin` and messages of 64 bytes, from the host to the guest and back, counted in
bare exits: *inline* with the host's endpoint as a handler on the vCPU's thread, *threads* with a
host thread that sends and waits.  `--where` profiles *answered*.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from echo import Inline, Threads

from hfsched.abi.ffa import FfaId, HfId
from hfsched.abi.ffa_1_0 import FFA_1_0
from hfsched.hypervisor.interface import Yield
from hfsched.memory.guestmemory import GuestMemory
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime, tune_process
from hfsched.vcpu.engine import Hypercall, Permissions
from hfsched.vcpu.kvm import device
from hfsched.vcpu.kvm.cpu import KvmVcpu
from hfsched.vcpu.kvm.engine import KvmEngine
from hfsched.vmm.assembly import VmParts, assemble

__all__ = ["Loop"]

BASE = 0x7F00_0000
MEMORY = 1 << 20


def guest(calls: int) -> bytes:
    """Return code that makes `calls` HF_INTERRUPT_GET and one FFA_YIELD, again and again."""
    get, yield_ = int(HfId.INTERRUPT_GET), int(FfaId.YIELD)
    if device.MACHINE == "x86_64":
        once = b"\xb8" + struct.pack("<I", get) + b"\xe7\x48"  # mov $get, %eax; out %eax, $0x48
        back = len(once) + 2 + 2
        loop = once + b"\xff\xcb" + b"\x75" + struct.pack("<b", -back)  # dec %ebx; jnz once
        start = b"\xbb" + struct.pack("<I", calls)  # mov $calls, %ebx
        end = b"\xb8" + struct.pack("<I", yield_) + b"\xe7\x48"
        whole = start + loop + end
        return whole + b"\xe9" + struct.pack("<i", -(len(whole) + 5))  # jmp start
    words = [
        0x52800000 | (calls & 0xFFFF) << 5 | 19,  # movz w19, #calls
        0x72A00000 | (calls >> 16) << 5 | 19,  # movk w19, #calls >> 16, lsl #16
        0x52800000 | get << 5,  # movz w0, #get
        0xD4000002,  # hvc #0
        0x71000673,  # subs w19, w19, #1
        0x54000001 | (-3 & 0x7FFFF) << 5,  # b.ne to the third
        0x52800000 | (yield_ & 0xFFFF) << 5,  # movz w0, #yield
        0x72A00000 | (yield_ >> 16) << 5,  # movk w0, #yield >> 16, lsl #16
        0xD4000002,  # hvc #0
        0x14000000 | (-9 & 0x3FFFFFF),  # b to the first
    ]
    return struct.pack(f"<{len(words)}I", *words)


class Loop:
    """A VM with that guest; each of its methods runs it through `calls` calls and the yield."""

    def __init__(self, runtime: ThreadRuntime, calls: int) -> None:
        self.calls = calls
        self._engine = KvmEngine(runtime)
        self._ram = Ram("loop", MEMORY)
        self._ram.write(0, guest(calls))
        space = self._engine.space("loop", 1)
        space.map(BASE, self._ram, 0, MEMORY, Permissions.RWX)
        assembly = assemble(
            runtime, vms=[VmParts("loop", space, GuestMemory.whole(self._ram, BASE), 1, BASE)]
        )
        self._primary = assembly.interface
        vm = assembly.vms[0].record
        self._vm = vm.id
        cpu = vm.vcpus[0].cpu
        assert isinstance(cpu, KvmVcpu)
        self.cpu = cpu
        self.answered(1)  # from here on it is at its start

    def answered(self, times: int) -> None:
        for _ in range(times):
            result = self._primary.run(self._vm, 0)
            assert type(result) is Yield, result

    def enter(self, times: int) -> None:
        cpu, invalid = self.cpu, FFA_1_0.invalid_intid()
        for _ in range(times * (self.calls + 1)):
            event = cpu.enter()
            assert type(event) is Hypercall
            cpu.reply(invalid)

    def bare(self, times: int) -> None:
        error = self.cpu._lib.hfs_bare_loop(self.cpu._cpu, times * (self.calls + 1))
        assert error == 0, error

    def close(self) -> None:
        self._engine.close()
        self._ram.close()


def microseconds(run: Callable[[int], None], count: int, parts: int) -> float:
    """Return the microseconds of processor time that each of the parts of a run took."""
    began = time.process_time_ns()
    run(count)
    return (time.process_time_ns() - began) / parts / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description="KVM exits against a bare loop in C")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--exits", type=int, default=500)
    parser.add_argument("--trips", type=int, default=100)
    parser.add_argument("--cpu", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--where", action="store_true", help="where the time goes")
    args = parser.parse_args()
    why_not = device.problem()
    if why_not is not None:
        print(f"engine kvm: {why_not}", file=sys.stderr)
        return 1
    os.sched_setaffinity(0, {args.cpu})
    tune_process()
    runtime = ThreadRuntime()
    loop = Loop(runtime, args.exits - 1)
    inline, threads = Inline(runtime, "kvm"), Threads(runtime, "kvm")
    ways: dict[str, tuple[Callable[[int], None], int, int]] = {  # {what, how often, of what}
        "bare": (loop.bare, 1, args.exits),
        "enter": (loop.enter, 1, args.exits),
        "answered": (loop.answered, 1, args.exits),
        "message, inline": (inline.trips, args.trips, args.trips),
        "message, threads": (threads.trips, args.trips, args.trips),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run, count, _ in ways.values():
        run(count)
    for _ in range(args.rounds):
        for name, (run, count, parts) in ways.items():
            times[name].append(microseconds(run, count, parts))
    print(f"| {device.MACHINE}, median of {args.rounds} | us | bare exits |\n|---|---|---|")
    for name, values in times.items():
        ratios = [value / bare for value, bare in zip(values, times["bare"], strict=True)]
        print(f"| {name} | {statistics.median(values):.1f} | {statistics.median(ratios):.2f} |")
    if args.where:
        profile = cProfile.Profile()
        profile.runcall(loop.answered, 10)
        pstats.Stats(profile).sort_stats("tottime").print_stats(12)
    inline.close()
    threads.close()
    loop.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
