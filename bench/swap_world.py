"""Guest memory served by hfsched's monitor, and by the bare handler of `swap_bare.c`."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hfsched.errors import UserError
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.client.client import MonitorClient
from hfsched.swap.client.mainmember import MainMember
from hfsched.swap.core.guestpages import GuestPages, open_userfault, zap
from hfsched.swap.core.pagemap import first_mapped, open_pagemap
from hfsched.swap.core.resources import pack
from hfsched.swap.core.stores import Stores, open_swap_file
from hfsched.swap.monitor.program import monitor
from hfsched.swap.pages.entries import Staging
from hfsched.swap.protocol.messages import Region, State

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Runtime

__all__ = ["MIB", "Bare", "Loops", "Native", "Ours", "single", "some", "warm"]

MIB = 1 << 20
POLL = 0.02  # seconds, between two looks at a move


def single(runtime: Runtime, end: End) -> None:
    """Be the monitor, with no fault-around."""
    alone = partial(GuestPages, around=1)
    monitor.__globals__["GuestPages"] = alone
    monitor(runtime, end)


class Native:
    """`swap_bare.c`, compiled: the program, and the library."""

    def __init__(self) -> None:
        source = Path(__file__).resolve().parent / "swap_bare.c"
        self._folder = tempfile.TemporaryDirectory()
        self.program = Path(self._folder.name) / "swap_bare"
        library = Path(self._folder.name) / "swap_bare.so"
        for made, how in ((self.program, ()), (library, ("-shared", "-fPIC"))):
            command = ["cc", "-std=gnu17", "-O2", *how, str(source), "-o", str(made)]
            subprocess.run(command, check=True)
        self.lib = ctypes.CDLL(str(library), use_errno=True)
        number, word = ctypes.c_int, ctypes.c_uint64
        self.lib.touch.argtypes = [word, ctypes.c_void_p, number, ctypes.c_void_p]
        self.lib.fill.argtypes = [word] * 3
        self.lib.watch.argtypes = [number, word, word, number]
        self.lib.give_back.argtypes = [number, word]
        self.lib.out.argtypes = [number, number, word, word, ctypes.c_void_p]
        self.lib.into.argtypes = [number, number, word, word, ctypes.c_void_p]
        self.lib.out.restype = self.lib.into.restype = word

    def touch(self, ram: Ram, pages: Sequence[int]) -> list[int]:
        """Read a byte of each page; return the ns that each took."""
        numbers = (ctypes.c_uint32 * len(pages))(*pages)
        took = (ctypes.c_uint32 * len(pages))()
        self.lib.touch(ram.address, numbers, len(pages), took)
        return list(took)

    def loop(self, name: str, *args: int) -> tuple[float, float]:
        """Run the loop `out` or `into`; return seconds, of the whole and of the file alone."""
        file = ctypes.c_uint64()
        took = getattr(self.lib, name)(*args, ctypes.byref(file))
        if not took:
            raise OSError(ctypes.get_errno(), f"the bare loop: {name}")
        return took / 1e9, file.value / 1e9

    def close(self) -> None:
        self._folder.cleanup()


class World:
    """Memory full of what cannot be compressed, or of zeros."""

    def __init__(self, native: Native, size: int, *, zero: bool = False) -> None:
        self.native = native
        self.stack = ExitStack()
        self.ram = Ram("bench", size)
        self.stack.callback(self.ram.close)
        self.uffd = open_userfault()
        self.stack.callback(os.close, self.uffd)
        self.zero = zero
        if zero:
            self.ram.zero(0, size)
        else:
            native.lib.fill(self.ram.address, size, 1)

    def touch_all(self) -> None:
        """Have all pages in memory, and mapped."""
        self.native.touch(self.ram, range(self.ram.size // PAGE_SIZE))

    def close(self) -> None:
        self.stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def warm(size: int) -> None:
    """Have the host of a virtual machine give it that much memory, which takes longer than the rest."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for offset in range(0, size, MIB):
            memory[offset : offset + MIB] = b"w" * MIB


def _cache(file: int, size: int, *, warm: bool) -> None:
    """Have a file in the page cache, or not."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    for offset in range(0, size if warm else 0, MIB):
        os.pread(file, MIB, offset)


class Bare(World):
    """Served by a process that does nothing else; `kind` as in `swap_bare.c`."""

    def __init__(
        self, native: Native, directory: str, size: int, kind: str, around: int, cpus: Iterable[int]
    ) -> None:
        super().__init__(native, size, zero=kind == "zero")
        self.kind = kind
        self.file = open_swap_file(directory)
        for fd in (self.file.out, self.file.into):
            self.stack.callback(os.close, fd)
        if kind.startswith("file"):
            native.loop("out", self.file.out, self.ram.fd, self.ram.address, size)
        native.lib.watch(self.uffd, self.ram.address, size, 1)
        words = [self.uffd, self.ram.address, around, kind[0], self.file.into]
        process = subprocess.Popen(
            [str(native.program), *map(str, words)], pass_fds=(self.uffd, self.file.into)
        )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        os.sched_setaffinity(process.pid, cpus)

    def prepare(self) -> None:
        """Have every page miss."""
        if self.kind == "minor":
            zap(self.ram.address, self.ram.size)
        else:
            self.native.lib.give_back(self.ram.fd, self.ram.size)
        if self.kind.startswith("file"):
            _cache(self.file.into, self.ram.size, warm=self.kind == "file, cached")

    def faults(self) -> int | None:
        """Return nothing: it does not count."""
        return None


class Watch:
    """A `Suspendable` without guests that measures the time from suspend to resume."""

    def __init__(self) -> None:
        self._began = 0.0
        self.paused = 0.0  # seconds

    def suspend(self, deadline: int | None = None) -> None:  # noqa: ARG002
        self._began = time.monotonic()

    def resume(self) -> None:
        self.paused = time.monotonic() - self._began


class Ours(World):
    """Served by the monitor; `tier`: the bytes of the compressed tier."""

    def __init__(
        self,
        native: Native,
        directory: str,
        size: int,
        kind: str = "",
        around: int = 0,
        cpus: Iterable[int] = (),
        *,
        staging: Staging = Staging.MINOR,
        tier: int = 0,
    ) -> None:
        super().__init__(native, size, zero=kind == "zero")
        self.kind = kind
        self.watch = Watch()
        self.stores = Stores.create(directory, size // PAGE_SIZE, staging, tier)
        self.stack.callback(self.stores.close)
        program = single if around == 1 else monitor
        self.client = MonitorClient(
            ThreadRuntime(),
            program,
            self.watch,
            pack(self.stores, [self.ram.fd]),
            default_timeout=None,
        )
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus or before)  # the monitor has it from this thread
        self.client.start()
        os.sched_setaffinity(0, before)
        self.stack.callback(self._end)
        region = Region(self.ram.address, 0, self.ram.size)
        self.pagemap = open_pagemap()
        self.stack.callback(os.close, self.pagemap)
        self.client.add(MainMember(self.uffd, [region], self.pagemap))

    def _end(self) -> None:
        self.client.close(discard=True)
        self.client.join()

    def until(self, state: State) -> float:
        """Wait for the end of a move; return its seconds, by the monitor's clock."""
        while (status := self.client.status()).state is not state:
            if status.error:
                raise OSError(status.error)
            time.sleep(POLL)
        return status.transition.ms / 1000

    def out(self) -> float:
        """Move out what is staged."""
        self.client.swap_out()
        return self.until(State.ACTIVE)

    def disable(self) -> float:
        """Bring everything back."""
        self.client.disable()
        return self.until(State.READY)

    def scan(self) -> float:
        """Return how long it takes to find that no page is mapped, in seconds."""
        began = time.perf_counter()
        assert first_mapped(self.pagemap, self.ram.address, self.ram.size) is None
        return time.perf_counter() - began

    def enable(self) -> float:
        """Stage everything; return for how long the machine was suspended, in seconds."""
        self.client.enable()
        return self.watch.paused

    def prepare(self) -> None:
        """Have every page miss."""
        if self.kind.startswith("file"):
            self.disable()  # so that the file is as it was made
        self.enable()
        if self.kind != "minor":
            self.out()
        if self.kind.startswith("file"):
            _cache(self.stores.swap_file.into, self.ram.size, warm=self.kind == "file, cached")

    def faults(self) -> int | None:
        """Return how many were served."""
        return self.client.status().metrics.events["faults"]


class Loops(World):
    """The plain loops between memory and a file."""

    def __init__(self, native: Native, directory: str, size: int) -> None:
        super().__init__(native, size)
        self.file = open_swap_file(directory)
        if not self.file.direct:
            raise UserError(f"no direct writes in {directory}: name a directory on a disk")
        for fd in (self.file.out, self.file.into):
            self.stack.callback(os.close, fd)

    def out(self) -> tuple[float, float]:
        """Write and give back; return seconds, of the whole and of the file alone."""
        os.ftruncate(self.file.out, 0)
        where = (self.ram.address, self.ram.size)
        return self.native.loop("out", self.file.out, self.ram.fd, *where)

    def into(self, *, direct: bool) -> tuple[float, float]:
        """Read into memory that misses; return seconds, of the whole and of the file alone."""
        where = (self.ram.address, self.ram.size)
        self.native.lib.give_back(self.ram.fd, self.ram.size)
        _cache(self.file.into, self.ram.size, warm=False)
        self.native.lib.watch(self.uffd, *where, 1)
        file = self.file.out if direct else self.file.into
        try:
            return self.native.loop("into", file, self.uffd, *where)
        finally:
            self.native.lib.watch(self.uffd, *where, 0)


def some(pages: int, around: int, count: int, seed: int) -> list[int]:
    """Return pages, one of a window at most, in random order."""
    chosen = random.Random(seed).sample(range(pages // around), count)
    return [window * around for window in chosen]
