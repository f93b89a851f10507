"""Guest memory that comes out of a snapshot as it is accessed, or behind that.

The pages are put into the page table of swap as *stored*: the monitor serves the faults on them from the
layers' files, and `disable` brings all of them in.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

from hfsched.errors import SnapshotError, UserError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.chain import ZERO_PAGE, split_place
from hfsched.snapshot.codec import FRAME_PAGES, codec_name
from hfsched.snapshot.libraries import CODECS
from hfsched.snapshot.libraries import problem as codec_problem
from hfsched.swap.core import device
from hfsched.swap.core.stored import StoredPages, packed_frames
from hfsched.swap.core.userfault import userfault

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram
    from hfsched.runtime.base import EventFd, Runtime
    from hfsched.snapshot.chain import Chain
    from hfsched.vmm.manifest import EngineName
    from hfsched.vmm.records import MachineRecord

__all__ = ["Damage", "LazyMemory", "Preparation", "problem"]

_HOT_MAX = 1 << 18  # pages: 1 GiB
_TRIES = 10  # of a fault on a page that main can read


def problem(record: MachineRecord, engine: EngineName = "auto") -> str | None:
    """Return in a line why a snapshot's memory cannot come as it is accessed, None if it can.

    `engine` is which one its guests are to have, "auto" the one that saved them.
    """
    for vm in record.vms:
        if vm.spec.device:
            return f"vm {vm.spec.name}: {vm.spec.device[0]}: its back-end would read zeros"
    engines = {vm.engine for vm in record.vms} if engine == "auto" else {engine}
    why = device.problem()
    if why is not None:
        return why
    try:
        os.close(userfault(kernel="kvm" in engines))
    except UserError as exc:
        return str(exc)
    return None


class LazyMemory:
    """The pages of a chain, which it owns from `open` on; `close` it when no monitor runs any more.

    With `fill` what is not accessed is brought in behind the guests.  Raises SnapshotError for a chain of
    other memory, or whose frames cannot be expanded here.
    """

    def __init__(self, chain: Chain, record: MachineRecord, *, fill: bool = True) -> None:
        self.fill = fill
        self._chain = chain
        self._record = record
        self._bases: list[int] = []  # of each layer: the number of its first frame
        frames = 0
        for layer in chain.layers:
            for kind in sorted(set(layer.layout.kinds)):
                name = codec_name(kind)
                if name in CODECS and (why := codec_problem(name)) is not None:
                    raise SnapshotError(f"{layer.name}/pages: frames of {name}: {why}")
            self._bases.append(frames)
            frames += len(layer.layout.kinds)
        self._firsts: dict[str, int] = {}  # of each VM: its first page, of all
        self._pages: StoredPages | None = None

    def open(self, rams: Mapping[str, Ram]) -> StoredPages:
        """Return where the pages of the VMs' memory are, in order; raises SnapshotError, UserError.

        What main itself accesses, and what the guests cannot do without, is read at once.
        """
        chain = self._chain
        runs, first = array("Q"), 0
        for name, ram in rams.items():
            number = chain.number(name)
            size = chain.index.vms[number].size
            if size != ram.size:
                raise SnapshotError(f"{chain.newest.name}: VM {name}: size {size}, here {ram.size}")
            self._firsts[name] = first
            at_once = sorted(set(self._at_once(name, ram)))
            for page in at_once:
                ram.write(page * PAGE_SIZE, bytes(chain.read_page(number, page)))
            for run in self._runs(number, at_once):
                runs.extend((first + run[0], run[1], run[2]))
            first += ram.size // PAGE_SIZE
        self._pages = StoredPages(
            [layer.descriptor for layer in chain.layers],
            [
                packed_frames(
                    number,
                    layer.index.pages,
                    layer.layout.offsets,
                    layer.layout.stored,
                    layer.layout.checksums,
                )
                for number, layer in enumerate(chain.layers)
            ],
            runs,
            self._hot(rams),
        )
        return self._pages

    def _runs(self, vm: int, without: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """Yield {first page, pages, location} of a VM's stored pages, but for some, which are in order."""
        for first, count, place in self._chain.places(vm):
            if place == ZERO_PAGE:
                continue
            layer, position = split_place(place)
            location = self._bases[layer] * FRAME_PAGES + position - first
            at, end = first, first + count
            for page in without[bisect_left(without, at) : bisect_left(without, end)]:
                if page > at:
                    yield at, page - at, location + at
                at = page + 1
            if end > at:
                yield at, end - at, location + at

    def _at_once(self, name: str, ram: Ram) -> Iterator[int]:
        """Yield the pages of a VM's mailbox."""
        for vm in self._record.vms:
            if vm.spec.name == name:
                for ipa in (vm.state.mailbox.rx, vm.state.mailbox.tx):
                    if ipa is not None and 0 <= ipa - vm.base < ram.size:
                        yield (ipa - vm.base) // PAGE_SIZE

    def _hot(self, rams: Mapping[str, Ram]) -> Sequence[int]:
        """Return the pages that were touched last, of all, that one first."""
        names = {self._chain.number(name): name for name in rams}
        made: list[int] = []
        for vm, first, count in self._chain.newest.layout.hot():
            if vm in names:
                start = self._firsts[names[vm]] + first
                made.extend(range(start, start + min(count, _HOT_MAX - len(made))))
        return made

    def why(self, vm: str, page: int) -> str | None:
        """Return in a line why a page of a VM cannot be read, None if it can."""
        place = self._chain.places(self._chain.number(vm)).find(page)
        if place == ZERO_PAGE:
            return None
        layer, position = split_place(place)
        try:  # not by `Chain.read`, which may have the frame from before
            self._chain.layers[layer].frame(position // FRAME_PAGES)
        except SnapshotError as exc:
            return str(exc)
        return None

    def close(self) -> None:
        """Close the chain; the second call does nothing."""
        pages, self._pages = self._pages, None
        if pages is not None:
            pages.close()
        self._chain.close()


class Preparation:
    """What takes time in proportion to memory, on a task of its own: it goes on while a process is started.

    It does `fill()`, then `protect()`; both `wait_...` raise what these raised.  Use it in a ``with``, which ends when it has
    ended.
    """

    def __init__(
        self, runtime: Runtime, fill: Callable[[], None], protect: Callable[[], None]
    ) -> None:
        self._fill, self._protect = fill, protect
        self._error: Exception | None = None
        self._filled = runtime.event("swap.filled")
        self._task = runtime.spawn("swap.prepare", self._run)

    def wait_filled(self) -> None:
        """Wait for the end of `fill()`."""
        self._filled.wait()
        self._check()

    def wait_protected(self) -> None:
        """Wait for the end of both."""
        self._task.join()
        self._check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._task.join()
        self._filled.close()

    def _run(self) -> None:
        try:
            self._fill()
            self._filled.set()
            self._protect()
        except Exception as exc:  # noqa: BLE001 - raised again by who waits
            self._error = exc
        finally:
            self._filled.set()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


class Damage:
    """The alarm of a monitor that cannot read a page of the snapshot: the page's VM ends.

    It owns `event`, the alarm.  `page()` returns the last such page, `find(page)` {VM, page of it};
    `end(vm, why)` has every vCPU of a VM fail, before the page is given up.
    """

    def __init__(
        self,
        event: EventFd,
        page: Callable[[], int | None],
        find: Callable[[int], tuple[str, int]],
        why: Callable[[str, int], str | None],
        end: Callable[[str, str], None],
    ) -> None:
        self.event = event
        self._page, self._find, self._why, self._end = page, find, why, end
        self._tries: dict[int, int] = {}  # of pages that could be read here

    def take(self) -> Sequence[int]:
        """See `hfsched.swap.client.client.Alarm`."""
        self.event.take()
        page = self._page()
        if page is None:
            return ()
        vm, number = self._find(page)
        why = self._why(vm, number)
        if why is None:  # it can be read now: the fault is tried again
            self._tries[page] = self._tries.get(page, 0) + 1
            if self._tries[page] < _TRIES:
                return ()
            why = "the process that serves page faults cannot read it"
        self._end(vm, f"page {number} of its memory is damaged: {why}")
        return (page,)

    def close(self) -> None:
        """Close the eventfd."""
        self.event.close()
