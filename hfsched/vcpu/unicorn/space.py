"""One VM's machine: its stage-2 tables, the RAM they point to, and its CPUs.

Tables are changed with the engine's turn held, so that no CPU executes meanwhile; each applies the
changes before its next slice.
"""

from __future__ import annotations

import ctypes
import mmap
from array import array
from typing import TYPE_CHECKING

from hfsched.errors import InternalError, UserError
from hfsched.vcpu.clock import Clock
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.registers import ARM64_ARGUMENTS
from hfsched.vcpu.unicorn.cpu import UnicornVcpu
from hfsched.vcpu.unicorn.machine import BlockHandler, Machine, TimerHandler
from hfsched.vcpu.unicorn.stage2 import Stage2
from hfsched.vcpu.unicorn.timer import FREQUENCY, FREQUENCY_MAX, ns_of, ticks_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from hfsched.memory.ram import Ram
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.engine import Vcpu
    from hfsched.vcpu.turn import Turn
    from hfsched.vcpu.unicorn.library import Library

__all__ = ["UnicornSpace"]

_PAGE = 4096
_BLOCK = 2 << 20
# The physical map of a machine, which no guest sees: RAM from 0, tables from here.
_TABLES = 1 << 43
# Tables come in pieces of 1 MiB; a piece maps at least half a GiB of pages.
_PIECE = 1 << 20
_TIME_MAX = 1 << 63  # ns
_TICKS = (1 << 64) - 1


class _TablePages:
    """Host memory for tables, in `pieces` of (physical, host address)."""

    def __init__(self, on_piece: Callable[[int, int], None]) -> None:
        self._on_piece = on_piece
        self.pieces: list[tuple[int, int]] = []
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        self._free: list[int] = []

    def take(self) -> int:
        if not self._free:
            self._grow()
        return self._free.pop()

    def give(self, page: int) -> None:
        self.entries(page)[:] = array("Q", bytes(_PAGE))
        self._free.append(page)

    def entries(self, page: int) -> memoryview:
        piece, offset = divmod(page - _TABLES, _PIECE)
        return self._views[piece][offset // 8 : (offset + _PAGE) // 8]

    def _grow(self) -> None:
        memory = mmap.mmap(-1, _PIECE)
        memory.madvise(mmap.MADV_DONTFORK)
        physical = _TABLES + len(self._maps) * _PIECE
        self._maps.append(memory)
        self._views.append(memoryview(memory).cast("Q"))
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.pieces.append((physical, address))
        self._on_piece(physical, address)
        self._free += range(physical + _PIECE - _PAGE, physical - 1, -_PAGE)

    def close(self) -> None:
        for view in self._views:
            view.release()
        for memory in self._maps:
            memory.close()
        self.pieces, self._maps, self._views, self._free = [], [], [], []


class UnicornSpace:
    """See `hfsched.vcpu.engine.Space`."""

    def __init__(
        self,
        runtime: Runtime,
        library: Library,
        turn: Turn,
        name: str,
        vcpus: int,
        on_close: Callable[[UnicornSpace], None] = lambda _space: None,
    ) -> None:
        self.name = name
        self.argument_registers = ARM64_ARGUMENTS
        self._runtime = runtime
        self._library = library
        self._turn = turn
        self._on_close = on_close
        self.clock = Clock(runtime.now)
        self._counter_hz = FREQUENCY
        self._vcpus: list[UnicornVcpu | None] = [None] * vcpus
        self._pages = _TablePages(self._add_piece)
        self._tables = Stage2(self._pages)
        self._windows: dict[Ram, int] = {}  # addresses in the physical map
        self._next_window = 0
        self.closed = False

    def vcpu(self, index: int) -> Vcpu:
        """Return CPU `index`, made at the first call."""
        self._check_open()
        if not 0 <= index < len(self._vcpus):
            raise InternalError(f"{self.name} has {len(self._vcpus)} vCPUs, there is no {index}")
        vcpu = self._vcpus[index]
        if vcpu is None:
            with self._turn:  # what it maps changes under it
                vcpu = self._vcpus[index]
                if vcpu is None:
                    vcpu = self._vcpus[index] = self._make(index)
        return vcpu

    def _make(self, index: int) -> UnicornVcpu:
        def make(on_block: BlockHandler, on_timer: TimerHandler) -> Machine:
            return Machine(
                self._library,
                index,
                self._tables.root,
                on_block,
                on_timer,
                several=len(self._vcpus) > 1,
            )

        vcpu = UnicornVcpu(self._runtime, self._turn, self, index, make)
        try:
            for physical, host in self._pages.pieces:
                vcpu.map(physical, _PIECE, host)
            for ram, physical in self._windows.items():
                vcpu.map(physical, ram.size, ram.address)
        except BaseException:
            vcpu.close()
            raise
        return vcpu

    def map(self, ipa: int, ram: Ram, offset: int, size: int, permissions: Permissions) -> None:
        """Map `size` bytes of `ram` at `ipa`, replacing what was there."""
        self._check_open()
        if offset < 0 or offset % _PAGE or offset + size > ram.size:
            raise InternalError(f"{self.name}: [{offset:#x}, +{size:#x}) is not in {ram.name}")
        with self._turn:
            self._tables.map(ipa, self._window(ipa, ram, offset) + offset, size, permissions)
            # The host may have written code there.
            self.invalidate(code=bool(permissions & Permissions.EXECUTE))

    def unmap(self, ipa: int, size: int) -> None:
        """Unmap `size` bytes at `ipa`: accesses fault."""
        self._check_open()
        with self._turn:
            self._tables.unmap(ipa, size)
            self.invalidate(code=False)

    def protect(self, ipa: int, size: int, permissions: Permissions) -> None:
        """Change what the guest may do with what is mapped in `size` bytes at `ipa`."""
        self._check_open()
        with self._turn:
            self._tables.protect(ipa, size, permissions)
            self.invalidate(code=bool(permissions & Permissions.EXECUTE))

    def freeze(self) -> None:
        """Stop the guests' counters and timers."""
        self.clock.freeze()

    def thaw(self) -> None:
        """Resume them."""
        self.clock.thaw()

    def set_back(self, ns: int) -> None:
        """Set them back while they are stopped."""
        self.clock.set_back(ns)

    @property
    def counter_hz(self) -> int:
        """See `engine.Space`."""
        return self._counter_hz

    def set_counter_hz(self, frequency: int) -> None:
        """Make the guests' counters advance so often a second; raises UserError for what no counter has."""
        if not 0 < frequency <= FREQUENCY_MAX:
            raise UserError(f"vm {self.name}: no counter has {frequency} Hz: 1 to {FREQUENCY_MAX}")
        self._counter_hz = frequency
        for vcpu in self._made():
            vcpu.set_counter_hz(frequency)

    def counter(self) -> int:
        """Return what they show while they are stopped, in ns."""
        return self.clock.read()

    def set_counter(self, count: int) -> None:
        """Make them show `count` while they are stopped."""
        self.clock.set(count)

    def ticks(self) -> int:
        """Return what they show while they are stopped, in their own units."""
        return ticks_of(self.clock.read(), self._counter_hz) & _TICKS

    def set_ticks(self, ticks: int) -> None:
        """Make them show `ticks` while they are stopped; raises UserError for a time beyond 292 years."""
        ns = ns_of(ticks, self._counter_hz)
        if not 0 <= ns < _TIME_MAX:
            raise UserError(
                f"vm {self.name}: a counter of {self._counter_hz} Hz cannot be at {ticks:#x} on engine unicorn"
            )
        self.clock.set(ns)

    def belong(self, runtime: Runtime, turn: Turn, now: Callable[[], int]) -> None:
        """Use another runtime from now on, its turn, and a clock that is no scheduling point (`now`)."""
        self._runtime = runtime
        self._turn = turn
        self.clock.now = now
        for vcpu in self._made():
            vcpu.belong(runtime, turn)

    def close(self) -> None:
        """Free the machines and the tables."""
        if not self.closed:
            self.closed = True
            for vcpu in self._made():
                vcpu.close()
            self._pages.close()
            self._windows.clear()
            self._on_close(self)

    def invalidate(self, *, code: bool) -> None:
        """Discard translations of addresses, and with `code` of instructions, on every CPU."""
        for vcpu in self._made():
            vcpu.invalidate(code=code)

    def _window(self, ipa: int, ram: Ram, offset: int) -> int:
        """Return the address of a RAM in the physical map, to which the first call adds it."""
        window = self._windows.get(ram)
        if window is None:
            # As far from a 2 MiB boundary as the guest sees it, so that blocks can be used.
            window = -(-self._next_window // _BLOCK) * _BLOCK + (ipa - offset) % _BLOCK
            if window + ram.size > _TABLES:
                raise InternalError(f"{self.name}: too much RAM for one machine")
            for vcpu in self._made():
                vcpu.map(window, ram.size, ram.address)
            self._next_window = window + ram.size
            self._windows[ram] = window
        return window

    def _add_piece(self, physical: int, host: int) -> None:
        for vcpu in self._made():
            vcpu.map(physical, _PIECE, host)

    def _made(self) -> list[UnicornVcpu]:
        return [vcpu for vcpu in self._vcpus if vcpu is not None]

    def _check_open(self) -> None:
        if self.closed:
            raise InternalError(f"the machine of {self.name} is closed")
