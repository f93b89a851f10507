"""The processes that bench/scale.py starts: a machine of ours, and bare instances of Unicorn.

    python bench/scale_child.py machine ENGINE VMS MEMORY
    python bench/scale_child.py bare VMS MEMORY

Each prints a line of JSON once all of its VMs have rested, `machine` then one for each line of its
input: ``trips N`` or ``idle SECONDS``.  They end with their input.
"""

from __future__ import annotations

import ctypes
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hfsched.abi.ffa import FfaId
from hfsched.memory.image import place, read_image
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime, tune_process
from hfsched.scheduler.endpoint import Endpoint
from hfsched.vcpu.unicorn.library import ERR_EXCEPTION, Library, Reg, load
from hfsched.vmm.build import place_memory
from hfsched.vmm.guests import bundled_images, resolve
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec

IMAGES: dict[str, str] = {"unicorn": "aarch64/echo.bin", "kvm": "x86_64/echo.bin"}
BASE = 0x7F00_0000
PAYLOAD = b"x" * 48
_SCR = 0x531  # EL3: the guest's EL1 is non-secure, AArch64, and may call HVC


def memory() -> int:
    """Return this process's share of memory, in KiB."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise OSError("/proc/self/smaps_rollup: no Pss")


class Stopwatch:
    """Time since it was made, in ms: by the clock, and of the processor."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def read(self) -> tuple[float, float]:
        return (time.monotonic() - self._wall) * 1e3, (time.process_time() - self._cpu) * 1e3


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def describe(engine: EngineName, vms: int, size: int) -> MachineSpec:
    spec = MachineSpec(
        vm=[VmSpec(image=IMAGES[engine], memory=size) for _ in range(vms)], engine=engine
    )
    spec.check("scale")
    return spec


def machine(engine: EngineName, vms: int, size: int) -> None:
    runtime = ThreadRuntime()
    rested = runtime.event("rested")
    with Machine(describe(engine, 1, size), runtime, lambda _vm, _line: None):
        pass  # what the engine needs once is there
    spec = describe(engine, vms, size)
    codes = [resolve(vm.name, vm.image, engine) for vm in spec.vm]
    watch = Stopwatch()
    place_memory(spec, codes)
    placing = watch.read()[0]
    del codes
    before, watch = memory(), Stopwatch()
    ours = Machine(spec, runtime, lambda _vm, _line: None, on_activity=rested.set)
    with ours:
        ours.start()
        for vm in ours.assembly.vms:  # none of them wakes by itself
            while not vm.driven.mirror.quiet().resting:
                rested.wait()
                rested.clear()
        wall, cpu = watch.read()
        say({"placing": placing, "wall": wall, "cpu": cpu, "memory": memory() - before})
        names = ours.vm_names()
        ends = [ours.endpoint(name, 1) for name in (names[0], names[-1])]
        for line in sys.stdin:
            what, _, count = line.partition(" ")
            if what == "trips":
                say({"trips": [trips(end, int(count)) for end in ends]})
            else:
                watch = Stopwatch()
                time.sleep(float(count))
                wall, cpu = watch.read()
                say({"idle": cpu / wall})


def trips(end: Endpoint, count: int) -> float:
    """Return the us of the median of so many messages there and back."""
    times = []
    for _ in range(count):
        began = time.perf_counter_ns()
        end.send(PAYLOAD)
        answer = end.recv()
        times.append(time.perf_counter_ns() - began)
        assert answer is not None
        assert answer.payload == PAYLOAD
    return statistics.median(times) / 1000


def bare(vms: int, size: int) -> None:
    """Open instances as the engine does, map memory with the image, and run to the first call."""
    library, image = load(), read_image(bundled_images()["aarch64/echo.bin"])
    kept: list[tuple[Ram, int]] = [instance(library, image, size)]
    before, watch = memory(), Stopwatch()
    kept += [instance(library, image, size) for _ in range(vms)]
    wall, cpu = watch.read()
    say({"wall": wall, "cpu": cpu, "memory": memory() - before})
    sys.stdin.read()


def instance(library: Library, image: Any, size: int) -> tuple[Ram, int]:
    ram = Ram("bare", size)
    entry = place(image, ram, BASE)
    uc = library.new_handle()
    library.check(library.mem_map_ptr(uc, BASE, size, 7, ram.address), "uc_mem_map_ptr")
    library.write_cp(uc, (3, 6, 1, 1, 0), _SCR)
    library.write_cp(uc, (3, 4, 1, 1, 0), 1 << 31)  # HCR_EL2: EL1 is AArch64
    x0 = ctypes.c_uint64(size)
    library.reg_write(uc, Reg.X0, ctypes.addressof(x0))
    error = library.emu_start(uc, entry, 0, 0, 100_000)
    library.reg_read(uc, Reg.X0, ctypes.addressof(x0))
    assert error == ERR_EXCEPTION, error
    assert x0.value == FfaId.VERSION, hex(x0.value)
    return ram, uc


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tune_process()
    what, *words = sys.argv[1:]
    if what == "bare":
        bare(*map(int, words))
    else:
        assert words[0] in ("unicorn", "kvm")
        machine(words[0], *map(int, words[1:]))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
