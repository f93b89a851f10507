"""A device of a VM that another program serves: it stays while its back-ends come and go.

One task speaks to the back-end, waits for what it signals, and reaches it again when it is gone.  What a vCPU's thread, or the
suspension of the machine, wants is posted to that task.

A back-end that is gone is told in a line, and tried to be reached (`retry.py`); after that the driver is told that the device
needs a reset, which begins to try anew.  The next back-end does the requests in flight: with memory of in-flight descriptors
all of them; without, it goes on behind what the driver has got back, which is right if requests are completed in order.

Stopped for a suspension, rings go on where the back-end has said.  While one that did not answer may still write to guest
memory, the machine cannot be suspended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hfsched.errors import InternalError, UserError
from hfsched.vhost.frontend.inbox import Inbox
from hfsched.vhost.frontend.link import Link
from hfsched.vhost.frontend.retry import RETRY_FOR, Retry
from hfsched.vhost.frontend.rings import ActiveRing, problem_of
from hfsched.vhost.frontend.shared import ConfigSpace, EventFds
from hfsched.vhost.frontend.state import FrontEndRecord, check_record, restore, save
from hfsched.vhost.frontend.wire import BackendError

if TYPE_CHECKING:
    from hfsched.abi.virtio import RingLayout
    from hfsched.runtime.base import EventFd, Runtime, Task
    from hfsched.vhost.frontend.backend import SharedRegion
    from hfsched.vhost.frontend.peers import Driver, Peers

__all__ = ["QUEUE_SIZE_MAX", "FrontEnd"]

QUEUE_SIZE_MAX = 256
_STOP_WITHIN = 30_000_000_000  # ns, more than the task waits for answers


class FrontEnd:
    """`connect` at first, then set `driver`, `open`, and `close` at the end.

    `memory` is what is shared, `read(address, size)` reads it.  `notice(text)` is told what the user may want to know.
    """

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        peers: Peers,
        memory: Sequence[SharedRegion],
        read: Callable[[int, int], bytes],
        notice: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self.name = name
        self._memory = tuple(memory)
        self._notice = notice
        self.driver: Driver | None = None
        self.features = 0
        self.queues = 0
        self.queue_size_max = QUEUE_SIZE_MAX
        self._closing = runtime.event(f"{name}.closing")
        self._inbox = Inbox(runtime, name)
        self._config = ConfigSpace(runtime, name)
        self._eventfds = EventFds(runtime, name, peers.eventfd)
        self._task: Task | None = None
        # Of the task, once it runs.
        self._link = Link(runtime, name, peers, self._closing, memory, read, self._lost)
        self._held = False  # by a suspension
        self._retry = Retry()

    # Its life.

    def connect(self) -> None:
        """Reach the back-end for the first time; raises UserError."""
        try:
            offer = self._link.connect()
        except (OSError, BackendError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else exc
            raise UserError(f"{self.name}: {why}") from None
        self.features = offer.features
        self.queues = offer.queues
        self._config.put(offer.config)

    def open(self) -> None:
        """Start the task."""
        if self.driver is None:
            raise InternalError(f"{self.name}: it has no driver")
        self._task = self._runtime.spawn(self.name, self._run)

    def close(self, deadline: int | None = None) -> bool:
        """End the task, and free what is here; return False if it did not end by the deadline (ns).  Once."""
        self._closing.set()
        if self._task is not None and not self._task.join(deadline):
            return False
        self._link.close()
        self._eventfds.close()
        self._inbox.close()
        self._closing.close()
        return True

    # For the registers: see `VirtioBackend`.

    def config(self) -> bytes:
        """Return the configuration space as it was last read."""
        return self._config.get()

    def write_config(self, offset: int, data: bytes) -> None:
        """Change a part of the configuration space, and learn what it is then."""
        self._config.change(offset, data)
        self._inbox.post(lambda: self._write_config(offset, data))

    def start(self, features: int, rings: Sequence[RingLayout]) -> None:
        """Begin to serve rings, soon."""
        self._inbox.post(lambda: self._start(features, rings))

    def stop(self) -> None:
        """Return when the back-end no longer touches guest memory, or is given up."""
        self._inbox.call(self._reset, self._runtime.now() + _STOP_WITHIN)

    def stop_queue(self, index: int) -> None:
        """Return when the back-end no longer touches a queue, or is given up."""
        self._inbox.call(lambda: self._stop_queue(index), self._runtime.now() + _STOP_WITHIN)

    def notify(self, index: int) -> None:
        """Kick the back-end, now or when there is one."""
        self._eventfds.signal(index, "kick")

    # For the suspension.

    def suspend(self, deadline: int | None) -> bool:
        """Have no ring served until `resume`; return whether that is sure by the deadline (ns)."""
        return self._inbox.call(self._hold, deadline)

    def resume(self) -> None:
        """Go on; also after a `suspend` that failed."""
        self._inbox.post(self._release)

    # For snapshots.

    def save(self, deadline: int | None) -> FrontEndRecord:
        """Return the device's state, suspended; raises UserError if it cannot be saved by the deadline (ns)."""
        try:
            return save(self._link, self._inbox, deadline)
        except UserError as exc:
            raise UserError(f"{self.name}: {exc}") from None

    def restore(self, record: FrontEndRecord) -> None:
        """Take over a state that was saved, connected, before `open`; raises UserError."""
        try:
            check_record(record, self.features, self.queues, self._memory)
            restore(self._link, record, self._ring)
        except UserError as exc:
            raise UserError(f"{self.name}: {exc}") from None
        self._inbox.post(self._release)

    # The task.

    def _run(self) -> None:
        try:
            while True:
                self._runtime.retain_only()
                if not self._turn():
                    return
        finally:
            self._inbox.end()

    def _turn(self) -> bool:
        link = self._link
        calls = [ring.call for ring in link.rings]
        wanted = [self._closing, self._inbox.ready, *link.sources, *calls]
        ready = self._runtime.select(wanted, self._retry.at)
        if self._closing in ready:
            return False
        self._take_calls([call for call in calls if call in ready])
        link.serve(ready)
        if self._inbox.ready in ready:
            self._inbox.serve()
        if link.take_config_change():
            self._refresh()
        if self._retry.due(self._runtime.now()):
            self._reconnect()
        return True

    def _take_calls(self, calls: Sequence[EventFd]) -> None:
        if sum(call.take() for call in calls) and self.driver is not None:
            self._retry.settle()
            self.driver.used()

    # What is posted.

    def _start(self, features: int, layouts: Sequence[RingLayout]) -> bool:
        problems = filter(None, (problem_of(layout, self._memory) for layout in layouts))
        problem = next(problems, None)
        try:
            if problem is None:
                self._link.rings = [self._ring(layout) for layout in layouts]
        except OSError as exc:
            problem = f"a queue's eventfd: {exc.strerror}"
        if problem is not None:
            self._break(problem)
            return False
        self._link.features = features
        self._go_on()
        return True

    def _ring(self, layout: RingLayout) -> ActiveRing:
        return ActiveRing(
            layout,
            self._eventfds.get(layout.index, "kick"),
            self._eventfds.get(layout.index, "call"),
        )

    def _go_on(self) -> None:
        """Have the rings served, unless they are to stand still; a back-end that refuses them is of no use."""
        if self._held:
            return
        why_not = self._link.start()
        if why_not is not None:
            self._break(why_not)
        elif self._link.backend is None and self._link.rings:
            self._lost("there is none")

    def _break(self, why: str) -> None:
        self._notice(f"{self.name}: {why}: the guest has to reset the device")
        self._link.rings = []
        if self.driver is not None:
            self.driver.need_reset()

    def _reset(self) -> bool:
        sure = self._link.stop()
        rings = self._link.rings
        self._link.forget()
        for ring in rings:
            ring.kick.take()
            ring.call.take()
        return sure

    def _stop_queue(self, index: int) -> bool:
        rings = [ring for ring in self._link.rings if ring.layout.index == index]
        sure = self._link.stop(rings)
        self._link.rings = [ring for ring in self._link.rings if ring not in rings]
        return sure

    def _hold(self) -> bool:
        self._held = True
        still = self._link.stop()
        self._take_calls([ring.call for ring in self._link.rings])
        return still

    def _release(self) -> bool:
        self._held = False
        self._go_on()
        return True

    # The configuration space.

    def _write_config(self, offset: int, data: bytes) -> bool:
        self._link.write_config(offset, data)
        self._refresh(tell=False)
        return True

    def _refresh(self, *, tell: bool = True) -> None:
        """Read the configuration space again, of which the size stays."""
        config = self._link.read_config(len(self.config()))
        if config is not None and self._config.put(config) and tell and self.driver is not None:
            self.driver.config_changed()

    # A back-end that is gone.

    def _lost(self, why: str) -> None:
        if self._retry.begin(self._runtime.now()):
            self._notice(f"{self.name}: the back-end is lost: {why}; trying to reach it again")

    def _reconnect(self) -> None:
        if self._retry.over(self._runtime.now()):
            self._retry.give_up()
            self._break(f"there was no back-end within {RETRY_FOR // 10**9} s")
            return
        try:
            offer = self._link.connect()
        except (OSError, BackendError):
            self._retry.failed(self._runtime.now())
            return
        missing = offer.lacking(self.features, self.queues, len(self.config()))
        if missing is not None:
            self._link.drop(missing)
            self._retry.give_up()
            self._break(missing)
            return
        self._retry.reached(self._runtime.now())
        self._notice(f"{self.name}: the back-end is back")
        if self.driver is not None and self._config.put(offer.config):
            self.driver.config_changed()
        if self.driver is not None and self._link.rings:
            self.driver.used()  # the one before may have given back requests, and not said so
        self._go_on()
