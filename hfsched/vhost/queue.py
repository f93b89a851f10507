"""A queue of a device: what the front-end has said of its ring, and the ring while it runs.

Everything here is done on the device's task.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from enum import Enum
from typing import TYPE_CHECKING

from hfsched.vhost.errors import ChainError, MemoryFaultError, RefusedError, RingError
from hfsched.vhost.protocol.numbers import QUEUE_SIZE_MAX, Feature
from hfsched.vhost.request import Request
from hfsched.vhost.ring.chain import Chain
from hfsched.vhost.ring.packed import PackedRing, packed_sizes
from hfsched.vhost.ring.split import SplitRing, split_sizes

if TYPE_CHECKING:
    from hfsched.runtime.base import EventFd
    from hfsched.vhost.inflight import InflightRing
    from hfsched.vhost.memory import Part, SharedMemory
    from hfsched.vhost.protocol.messages import RingAddresses
    from hfsched.vhost.ring.chain import Ring

__all__ = ["BATCH", "Queue", "QueueState"]

BATCH = 64  # requests of a queue before others have their turn


class QueueState(Enum):
    """What a queue's ring does."""

    STOPPED = "stopped"
    RUNNING = "running"
    BROKEN = "broken"  # it made no sense; the front-end may stop it


class Queue:
    """Queue `index` of a device.  A device calls `pop`, `requests` and `unpop`, and completes requests.

    `notice(text)` is called for what a guest or a front-end does wrong.
    """

    def __init__(self, index: int, memory: SharedMemory, notice: Callable[[str], None]) -> None:
        self.index = index
        self.memory = memory
        self.state = QueueState.STOPPED
        self.enabled = False
        self.size = 0
        self.addresses: RingAddresses | None = None
        self.next_base = 0
        self.kick: EventFd | None = None
        self.call: EventFd | None = None
        self._owed = False  # a notification, for which there was no descriptor
        self.error: EventFd | None = None
        self.inflight: InflightRing | None = None
        self.pending = False  # it is to be looked at, kick or none
        self.taken = 0  # requests, ever
        self.under_way = 0  # requests that were taken out and not given back
        self._notice = notice
        self.ring: Ring | None = None  # while it runs
        self._again: list[Chain] = []  # of a backend that died; the first one last
        self._features = Feature(0)

    def key(self) -> Hashable:
        """Return its own state: what is neither in memory nor a descriptor's."""
        at = self.addresses
        where = at and (at.logged, at.descriptors, at.used, at.available, at.log)
        said = (self.size, where, self.next_base, int(self._features), self.enabled)
        ring = self.ring and self.ring.key()
        again = tuple(chain.head for chain in self._again)
        under_way = (self.pending, self.under_way, self._owed, again)
        has = (self.kick is None, self.call is None, self.error is None)
        return (said, self.state, ring, under_way, has, self.inflight and self.inflight.key())

    # What the front-end says.

    @property
    def running(self) -> bool:
        """Whether the ring was started and not stopped, broken ones included."""
        return self.state is not QueueState.STOPPED

    def set_size(self, size: int, limit: int) -> None:
        """Set the number of entries of a ring that does not run; raises RefusedError."""
        if self.running:
            raise RefusedError(f"queue {self.index}: its size is set while it runs")
        if not 1 <= size <= min(limit, QUEUE_SIZE_MAX):
            raise RefusedError(f"queue {self.index}: size {size}: 1 to {limit}")
        self.size = size

    def set_call(self, call: EventFd | None) -> None:
        """Notify the driver by another descriptor from now on, or not at all; it is this object's to close."""
        before, self.call = self.call, call
        if before is not None:
            before.close()
        if self._owed and self.running:
            self._notify()

    def set_addresses(self, addresses: RingAddresses) -> None:
        """Say where the ring is; a running one may only begin or end to be logged.  Raises RefusedError."""
        before = self.addresses
        if self.running and before is not None:
            same = (before.descriptors, before.available, before.used)
            if same != (addresses.descriptors, addresses.available, addresses.used):
                raise RefusedError(f"queue {self.index}: its addresses change while it runs")
        self.addresses = addresses
        try:
            self.relocate()
        except MemoryFaultError as exc:
            self.addresses = before
            raise RefusedError(f"queue {self.index}: {exc}") from None

    def enable(self, *, enabled: bool) -> None:
        """Carry out requests, or leave them in the ring; a ring that is enabled is looked at once, kick or none."""
        self.enabled = enabled
        self.pending = enabled and self.running

    def start(self, features: Feature) -> None:
        """Start the ring; raises RefusedError."""
        if self.running:
            raise RefusedError(f"queue {self.index}: it is started while it runs")
        if not self.size or self.addresses is None:
            raise RefusedError(f"queue {self.index}: it is started without a size or addresses")
        self._features = features
        try:
            self.ring = self._make(self.next_base)
            self._recover()
        except (MemoryFaultError, RingError) as exc:
            self.ring = None
            raise RefusedError(f"queue {self.index}: {exc}") from None
        self.state = QueueState.RUNNING
        self.pending = True

    def relocate(self) -> None:
        """Find the ring's parts again: the memory table has changed.  Raises MemoryFaultError."""
        if self.addresses is not None and self.size:
            parts = self._parts(self.addresses)
            if self.ring is not None:
                self.ring.move(parts)

    def stop(self) -> int:
        """Stop the ring when nothing is under way; return where it is to go on."""
        if self.ring is not None:
            self.flush()
        if self.ring is not None:
            self.next_base = self.ring.base()
        self.ring, self._again = None, []
        self.state = QueueState.STOPPED
        self.pending = False
        return self.next_base

    def break_down(self, why: str) -> None:
        """Take no more from a ring that makes no sense."""
        self._notice(f"queue {self.index}: {why}")
        if self.ring is not None:
            self.next_base = self.ring.base()
        self.ring, self._again = None, []
        self.state = QueueState.BROKEN
        self.pending = False
        if self.error is not None:
            self.error.signal()

    def close(self) -> None:
        """Close its descriptors."""
        for each in (self.kick, self.call, self.error):
            if each is not None:
                each.close()
        self.kick = self.call = self.error = None

    def _parts(self, at: RingAddresses) -> tuple[Part, Part, Part]:
        packed = bool(self._features & Feature.RING_PACKED)
        sizes = packed_sizes(self.size) if packed else split_sizes(self.size)
        part = self.memory.part
        logged = at.log if at.logged else None
        first = None if not packed else logged
        return (
            part(at.descriptors, sizes[0], first),
            part(at.available, sizes[1]),
            part(at.used, sizes[2], logged if not packed else None),
        )

    def _make(self, base: int) -> Ring:
        assert self.addresses is not None
        made = PackedRing if self._features & Feature.RING_PACKED else SplitRing
        event_idx = bool(self._features & Feature.EVENT_IDX)
        parts = self._parts(self.addresses)
        return made(self.memory, self.size, parts, base, event_idx=event_idx)

    def _recover(self) -> None:
        """Take up what a backend that died had under way."""
        ring = self.ring
        if self.inflight is None or not isinstance(ring, SplitRing):
            return
        heads = self.inflight.recover(ring.used)
        if heads:
            self.ring = ring = self._make(ring.used + len(heads))
            assert isinstance(ring, SplitRing)
        for head in heads:
            try:
                chain = ring.chain(head)
                chain.recovered = True
                self._again.insert(0, chain)
            except ChainError as exc:
                self._give_up(exc)

    # What the device does.

    def pop(self) -> Request | None:
        """Take the next request out; None: there is none, and a kick will announce one."""
        while True:
            try:
                chain = self.pop_chain()
                if chain is None:
                    return None
            except ChainError as exc:
                self._give_up(exc)
                continue
            except (RingError, MemoryFaultError) as exc:
                self.break_down(str(exc))
                return None
            self.under_way += 1
            self.taken += 1
            return Request(self, chain)

    def pop_chain(self) -> Chain | None:
        """Take the next chain out; None: there is none, and a kick will announce one."""
        ring = self.ring
        if ring is None or not self.enabled:
            return None
        if self._again:
            return self._again.pop()
        while (chain := ring.pop()) is None:
            self.pending = False
            if not ring.await_kick():
                return None
        if self.inflight is not None:
            self.inflight.taken(chain.head)
        return chain

    def requests(self) -> Iterator[Request]:
        """Yield requests, at most `BATCH`: then it is looked at again.

        Who leaves it before its end has to go on by itself: a kick may not be asked for.
        """
        if self.ring is not None:
            self.ring.ignore_kicks()
        for _ in range(BATCH):
            request = self.pop()
            if request is None:
                return
            yield request
        self.pending = True

    def unpop(self, request: Request) -> None:
        """Put the request back that was taken out last, untouched: it is got again by `pop`."""
        self.under_way -= 1
        request.completed = True
        if request.chain.recovered:
            self._again.append(request.chain)
        elif self.ring is not None:
            self.ring.unpop(request.chain)

    def give_back(self, request: Request, written: int) -> None:
        """See `Request.complete`."""
        self.under_way -= 1
        self._push(request.chain, written)

    def _give_up(self, error: ChainError) -> None:
        """Give a chain back that makes no sense."""
        self._notice(f"queue {self.index}: {error}")
        if self.error is not None:
            self.error.signal()
        self._push(Chain(error.head, descriptors=error.descriptors), 0)

    def _push(self, chain: Chain, written: int) -> None:
        if self.ring is None:
            return
        try:
            self.ring.push(chain, written)
            if self.inflight is not None:
                self.inflight.given_back(chain.head)
        except MemoryFaultError as exc:
            self.break_down(str(exc))

    def flush(self) -> None:
        """Show the driver what was given back, and notify it if it wants that."""
        ring = self.ring
        if ring is None:
            return
        try:
            wanted = ring.publish()
            if self.inflight is not None and isinstance(ring, SplitRing):
                self.inflight.published(ring.used)
        except MemoryFaultError as exc:
            self.break_down(str(exc))
            return
        if wanted:
            self._notify()

    def _notify(self) -> None:
        self._owed = self.call is None
        if self.call is not None:
            self.call.signal()
