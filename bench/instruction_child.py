"""What runs in a child process of `bench/instructions.py`: programs on one engine, beside another VM."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from random import Random
from typing import TYPE_CHECKING

from hostile import Guards
from instruction_guests import BASE, CODE, SIZE, X86, Arm64, Layout, image

from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Failed, Fault, Kicked, Mmio, Permissions, Timer, Vcpu
from hfsched.vcpu.engines import ENGINES
from hfsched.vmm.engines import pick

if TYPE_CHECKING:
    from talk import Target

__all__ = ["ANSWER_WITHIN", "PATIENCE", "Child", "Shared"]

PATIENCE = 30.0  # seconds without progress until a child counts as hanging
KICK_AFTER = 0.003  # seconds
ANSWER_WITHIN = 1.0  # seconds, of the processor: a loaded machine does not count
_STEP = 0.001
_LOOK_EVERY = 16  # programs: at all registers, which is slow

_HEADER = struct.Struct("<QQQQQQdI")  # program, done, exits, kicks, failed, left out, slowest; code
_TEXT = 8192


def _layout(target: Target) -> Layout:
    return X86() if target.architecture == "x86_64" else Arm64()


class Shared:
    """A page that the child writes and the parent reads: what it does, and what it has found."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 4 * _TEXT)
        self.reset()

    def reset(self) -> None:
        self.program = self.done = self.exits = self.kicks = self.failed = self.left_out = 0
        self.slowest = 0.0
        self.note(b"")
        self.text("")

    def note(self, code: bytes) -> None:
        """Publish the counts and the code that is about to run."""
        _HEADER.pack_into(self._map, 0, *self._counts(), len(code))
        self._map[_TEXT : _TEXT + len(code)] = code

    def _counts(self) -> tuple[int, int, int, int, int, int, float]:
        counts = (self.program, self.done, self.exits, self.kicks, self.failed, self.left_out)
        return (*counts, self.slowest)

    def text(self, text: str) -> None:
        data = text.encode()[: _TEXT - 4]
        self._map[3 * _TEXT : 3 * _TEXT + 4 + len(data)] = struct.pack("<I", len(data)) + data

    def read(self) -> tuple[bytes, str]:
        """Load the counts; return the code and the text."""
        *counts, size = _HEADER.unpack_from(self._map, 0)
        self.program, self.done, self.exits, self.kicks, self.failed, self.left_out = counts[:6]
        self.slowest = counts[6]
        (length,) = struct.unpack_from("<I", self._map, 3 * _TEXT)
        text = self._map[3 * _TEXT + 4 : 3 * _TEXT + 4 + length].decode()
        return self._map[_TEXT : _TEXT + size], text


class Kicker:
    """Kicks a CPU whose program lasts, and ends the process if that does not help."""

    def __init__(self, cpu: Vcpu, shared: Shared) -> None:
        self._cpu, self._shared = cpu, shared
        self.running = 0  # the program, from 1; 0: none
        self.kicked_at = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        last, since, kicked, processor = 0, 0.0, False, 0.0
        while True:
            time.sleep(_STEP)
            now, program = time.monotonic(), self.running
            if program != last:
                last, since, kicked = program, now, False
            elif program and not kicked and now - since > KICK_AFTER:
                kicked, processor, since = True, time.process_time(), now
                self.kicked_at = now
                self._cpu.kick()
            elif program and kicked:
                used, waited = time.process_time() - processor, now - since
                if waited > ANSWER_WITHIN and (used > ANSWER_WITHIN or waited > PATIENCE / 2):
                    self._shared.text(f"a kick did not end it in {waited:.1f} s")
                    os._exit(1)


class Child:
    """Runs programs on one engine, beside a VM that is watched."""

    def __init__(self, target: Target, shared: Shared) -> None:
        self._layout = _layout(target)
        self._shared = shared
        self._guards = Guards()
        self._engine = ENGINES[pick(target.engine, "fuzzed", target.architecture)[0]](
            ThreadRuntime()
        )
        self._ram, self._beside = Ram("fuzzed", SIZE), Ram("beside", SIZE)
        space = self._engine.space("fuzzed", 1)
        space.map(BASE, self._ram, 0, SIZE, Permissions.RWX)
        self._cpu = space.vcpu(0)
        self._cpu.reset(BASE, 0)
        watched = self._engine.space("beside", 1)
        watched.map(BASE, self._beside, 0, SIZE, Permissions.RWX)
        self._watched = watched.vcpu(0)
        self._beside.write(0, image(self._layout, [(CODE, self._layout.ending())]))
        self._beside.write(SIZE // 2, Random(0).randbytes(SIZE // 2))
        for ram in (self._ram, self._beside):
            self._guards.surround(ram.name, ram)
        self._guards.watch("the memory of the VM beside", self._beside.address, SIZE)
        self._kicker = Kicker(self._cpu, shared)

    def run(self, program: int, seed: int, code: bytes) -> None:
        """Run one program to its end."""
        shared, kicker = self._shared, self._kicker
        random = Random(f"{seed}/{program}/registers")
        parts = [*self._layout.table(random), (CODE, code + self._layout.ending())]
        self._ram.write(0, image(self._layout, parts))
        cpu = self._cpu
        shared.program = program
        shared.note(code)
        kicker.running = program + 1
        for _ in range(self._layout.exits):
            stop = cpu.enter()
            shared.exits += 1
            if isinstance(stop, Failed):
                shared.failed += 1
                break
            if isinstance(stop, Kicked):
                shared.kicks += 1
                shared.slowest = max(shared.slowest, time.monotonic() - kicker.kicked_at)
                break
            if isinstance(stop, Mmio) and random.random() < 0.5:
                cpu.complete_mmio(random.getrandbits(64))
            elif isinstance(stop, Mmio | Fault):
                cpu.inject_abort()
            elif isinstance(stop, Timer):
                cpu.mask_timer()
        kicker.running = 0
        cpu.program_counter()
        if program % _LOOK_EVERY == 0:
            cpu.registers()
            cpu.state_key()
            cpu.restore(cpu.save())
        cpu.reset(BASE, 0)
        shared.done += 1

    def judge(self) -> str:
        """Return what changed that must not have."""
        return ", ".join(f"{name} changed" for name in self._guards.changed())
