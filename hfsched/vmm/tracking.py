"""Where a machine's memory is mapped, for `hfsched.memory.dirty.DirtyTracker`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hfsched.memory import writeprotect
from hfsched.memory.dirty import Source, TrackedProcess, TrackedRange
from hfsched.swap.core.pagemap import open_pagemap

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram
    from hfsched.vmm.swapping import MachineSwap

__all__ = ["NoSource", "OwnSource", "SwapSource", "source_of"]


def source_of(rams: Mapping[str, Ram], swap: MachineSwap | None) -> Source:
    """Return the source of a machine: its memory by the names of its VMs, its swap if it has any."""
    return OwnSource(rams) if swap is None else SwapSource(swap)


class NoSource:
    """Memory that cannot be tracked, and why."""

    def __init__(self, why_not: str) -> None:
        self._why_not = why_not

    def why_not(self) -> str | None:
        """See `Source`."""
        return self._why_not

    def processes(self) -> Sequence[TrackedProcess]:
        """See `Source`."""
        return ()

    def note(self, *, tracked: bool) -> None:
        """See `Source`."""

    def out(self) -> bool:
        """See `Source`."""
        return False

    def close(self) -> None:
        """See `Source`."""


class OwnSource:
    """Memory that this process alone has mapped; its descriptors are opened here, before any guest runs."""

    def __init__(self, rams: Mapping[str, Ram]) -> None:
        self._ranges = tuple(
            TrackedRange(name, ram.address, ram.size) for name, ram in rams.items()
        )
        self._error: OSError | None = None
        self._process: TrackedProcess | None = None
        self._stack = ExitStack()
        with ExitStack() as undo:
            try:
                uffd = writeprotect.open_tracker()
                undo.callback(os.close, uffd)
                pagemap = open_pagemap()
                undo.callback(os.close, pagemap)
            except OSError as exc:
                self._error = exc
            else:
                self._process = TrackedProcess("this process", self, uffd, pagemap, self._ranges)
                self._stack = undo.pop_all()

    def why_not(self) -> str | None:
        """See `Source`."""
        if self._process is not None:
            return writeprotect.problem(self._process.pagemap)
        assert self._error is not None
        return writeprotect.reason(self._error)

    def processes(self) -> Sequence[TrackedProcess]:
        """See `Source`."""
        return () if self._process is None else (self._process,)

    def note(self, *, tracked: bool) -> None:
        """See `Source`."""

    def out(self) -> bool:
        """See `Source`."""
        return False

    def close(self) -> None:
        """See `Source`."""
        self._process = None
        self._stack.close()


class SwapSource:
    """Memory that is swapped, and that other processes may map."""

    def __init__(self, swap: MachineSwap) -> None:
        self._swap = swap

    def why_not(self) -> str | None:
        """See `Source`."""
        return self._swap.backing.why_not_tracked()

    def processes(self) -> Sequence[TrackedProcess]:
        """See `Source`."""
        return self._swap.tracked()

    def note(self, *, tracked: bool) -> None:
        """See `Source`."""
        self._swap.backing.note_tracked(tracked=tracked)

    def out(self) -> bool:
        """See `Source`."""
        return self._swap.backing.needed()

    def close(self) -> None:
        """See `Source`."""
