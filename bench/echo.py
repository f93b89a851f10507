"""Echo round trips a second, against a bare loop over the same guest and engine.

    python bench/echo.py [--rounds N] [--trips N] [--cpu N]

`echo.bin` on the engine unicorn answers messages of 64 bytes.  Three ways, interleaved in one run,
pinned to one CPU, medians over the rounds:

- bare: a loop around `Vcpu.enter` that answers the guest's hypercalls with constants;
- inline: the whole stack, with the host's endpoint as a handler on the vCPU's thread;
- threads: the whole stack, a host thread that sends and waits for the answer.

`--where` says where the time of `inline` goes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hfsched.abi.ffa import FfaId, HfId
from hfsched.abi.ffa_1_0 import FFA_1_0
from hfsched.mailbox.ports import HEADER, PortMessage, frame
from hfsched.memory.image import place, read_image
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime, tune_process
from hfsched.vcpu.engine import Hypercall, Permissions
from hfsched.vcpu.unicorn import UnicornEngine
from hfsched.vmm.guests import bundled_images
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec

BASE = 0x7F00_0000
MEMORY = 16 << 20
PAYLOAD = b"x" * 48
SIZE = HEADER.size + len(PAYLOAD)
VM = 2


class Bare:
    """The guest alone: every hypercall gets a constant answer."""

    def __init__(self, runtime: ThreadRuntime) -> None:
        self._engine = UnicornEngine(runtime)
        self._ram = Ram("bare", MEMORY)
        self._space = self._engine.space("bare", 1)
        self._space.map(BASE, self._ram, 0, MEMORY, Permissions.RWX)
        self._cpu = self._space.vcpu(0)
        image = read_image(bundled_images()["echo.bin"])
        self._cpu.reset(place(image, self._ram, BASE), MEMORY)
        success = FFA_1_0.success()
        self._answers: dict[int, tuple[int, ...]] = {
            FfaId.MSG_SEND: success,
            FfaId.RX_RELEASE: success,
            FfaId.MSG_WAIT: FFA_1_0.message(1, VM, SIZE),
        }
        self._boot: dict[int, tuple[int, ...]] = {
            FfaId.VERSION: FFA_1_0.version(0),
            FfaId.ID_GET: FFA_1_0.success(VM),
            HfId.DEBUG_LOG: (0,),
        }
        self._start()

    def _start(self) -> None:
        """Run the guest to its first wait."""
        while True:
            event = self._cpu.enter()
            assert isinstance(event, Hypercall), event
            number = event.args[0]
            if number == FfaId.MSG_WAIT:
                self._cpu.reply(self._answers[number])
                return
            if number == FfaId.RXTX_MAP | 1 << 30:
                self._ram.write(event.args[2] - BASE, frame(1, 1, PAYLOAD))
            self._cpu.reply(self._boot.get(number, FFA_1_0.success()))

    def trips(self, count: int) -> None:
        cpu, answers = self._cpu, self._answers
        for _ in range(count):
            while True:
                number = cpu.enter().args[0]  # type: ignore[union-attr]
                cpu.reply(answers[number])
                if number == FfaId.MSG_WAIT:
                    break

    def close(self) -> None:
        self._space.close()
        self._engine.close()
        self._ram.close()


class Inline:
    """The whole stack; the endpoint answers on the vCPU's thread."""

    def __init__(
        self, runtime: ThreadRuntime, engine: EngineName = "unicorn", *, start: bool = True
    ) -> None:
        spec = MachineSpec(vm=[VmSpec(image="echo.bin", name="inline")], engine=engine)
        self.machine = Machine(spec, runtime, lambda _vm, _line: None)
        self._interface = self.machine.hypervisor.primary
        self._driver = self.machine.driver
        self._done = runtime.event("done")
        self._left = 0
        self.port = self.machine.ports.open(VM, None, self._handle)
        self._message = frame(self.port.number, 1, PAYLOAD)
        if start:
            self.machine.start()

    def send(self) -> None:
        self._interface.send(VM, self._message, notify=False)
        self._driver.deliver(VM)

    def _handle(self, port_message: PortMessage) -> None:
        assert port_message.payload == PAYLOAD
        self._left -= 1
        if self._left:
            self.send()
        else:
            self._done.set()

    def trips(self, count: int) -> None:
        self._left = count
        self._done.clear()
        self.send()
        self._done.wait()

    def close(self) -> None:
        self.machine.close()


class Threads:
    """The whole stack; a host thread sends and waits."""

    def __init__(self, runtime: ThreadRuntime, engine: EngineName = "unicorn") -> None:
        spec = MachineSpec(vm=[VmSpec(image="echo.bin", name="threads")], engine=engine)
        self.machine = Machine(spec, runtime, lambda _vm, _line: None)
        self._endpoint = self.machine.endpoint("threads", 1)
        self.machine.start()

    def trips(self, count: int) -> None:
        endpoint = self._endpoint
        for _ in range(count):
            endpoint.send(PAYLOAD)
            port_message = endpoint.recv()
            assert port_message is not None
            assert port_message.payload == PAYLOAD

    def close(self) -> None:
        self.machine.close()


def microseconds(trips: Callable[[int], None], count: int) -> float:
    """Return the microseconds a round trip took."""
    began = time.perf_counter_ns()
    trips(count)
    return (time.perf_counter_ns() - began) / count / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="echo round trips against a bare loop")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--trips", type=int, default=400)
    parser.add_argument("--cpu", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--where", action="store_true", help="where the time goes")
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.cpu})
    tune_process()
    runtime = ThreadRuntime()
    parts: dict[str, Bare | Inline | Threads] = {
        "bare": Bare(runtime),
        "inline": Inline(runtime),
        "threads": Threads(runtime),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for part in parts.values():
        part.trips(args.trips)
    for _ in range(args.rounds):
        for name, part in parts.items():
            times[name].append(microseconds(part.trips, args.trips))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'way':8} {'us':>8} {'trips/s':>9} {'of bare':>8}   (median of {args.rounds})")
    for name, value in medians.items():
        ratios = [b / v for b, v in zip(times["bare"], times[name], strict=True)]
        print(f"{name:8} {value:8.1f} {1e6 / value:9.0f} {statistics.median(ratios):8.2f}")
    for part in parts.values():
        part.close()
    if args.where:
        where()


class Stopwatch:
    """Exclusive time of wrapped methods, less what the wrapping itself costs."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inner = [0.0]
        self.toll = self.inside = 0.0
        probe = argparse.Namespace(call=lambda: None)
        self.wrap(probe, "call", "probe")
        count = 20_000
        began = time.perf_counter_ns()
        for _ in range(count):
            probe.call()
        self.toll = (time.perf_counter_ns() - began) / count
        self.inside = self.spent.pop("probe") / count

    def wrap(self, owner: object, method: str, name: str) -> None:
        """Count the time in `owner.method` under `name`."""
        inner, spent, clock = self._inner, self.spent, time.perf_counter_ns
        call = getattr(owner, method)
        spent.setdefault(name, 0.0)

        def timed(*args: object, **kwargs: object) -> object:
            inner.append(0.0)
            began = clock()
            result = call(*args, **kwargs)
            took = clock() - began
            spent[name] += took - inner.pop() - (self.inside if self.toll else 0)
            inner[-1] += took + (self.toll - self.inside)
            return result

        setattr(owner, method, timed)


def where(trips: int = 5000) -> None:
    """Print where the time of `inline` goes: the same stack, the vCPU's loop on this thread."""
    part = Inline(ThreadRuntime(), start=False)
    driver = part.machine.driver
    driven = driver.vm(VM)
    vcpu = part.machine.hypervisor.registry.vms[VM].vcpus[0]
    watch = Stopwatch()
    watch.wrap(vcpu.cpu._machine, "run", "emulation (emu_start)")  # type: ignore[attr-defined]
    watch.wrap(vcpu.cpu, "enter", "engine: turn, slice, exit decoded")
    watch.wrap(vcpu.cpu, "reply", "engine: reply written")
    watch.wrap(part.machine.hypervisor._calls, "dispatch", "hypercalls answered")
    watch.wrap(part.machine.hypervisor.primary, "run", "RUN: claim, loop, publish")
    watch.wrap(part.machine.hypervisor.primary, "send", "send into the mailbox")
    watch.wrap(driver, "deliver", "delivery: mirror, injection")
    watch.wrap(part.machine.ports, "put", "port: header, handler")
    watch.wrap(driver, "_react", "driver: RX taken and released")
    left = trips

    def handle(_letter: PortMessage) -> None:
        nonlocal left
        left -= 1
        if left:
            part.send()
        else:
            driven.mirror.stop()

    part.port.handler = handle
    driven.mirror._on_idle = part.send  # once: the guest waits for the first message
    began = time.perf_counter_ns()
    driver.vcpu(driven, 0)
    total = time.perf_counter_ns() - began - watch._inner[0]
    watch.spent["the vCPU's loop, and what is left"] = total
    print(
        f"\n{'where':36} {'us a trip':>9}   ({trips} trips, exclusive, the watch's cost taken off)"
    )
    for name, spent in sorted(watch.spent.items(), key=lambda item: -item[1]):
        print(f"{name:36} {spent / trips / 1000:9.2f}")
    print(f"{'sum':36} {sum(watch.spent.values()) / trips / 1000:9.2f}")
    part.close()


if __name__ == "__main__":
    main()
