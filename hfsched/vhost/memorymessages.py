"""A front-end's messages about its memory, and about the log of what is written to it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from hfsched.vhost.errors import MemoryFaultError, RefusedError
from hfsched.vhost.memory import SLOTS_MAX, DirtyLog, SharedMemory
from hfsched.vhost.negotiation import Acknowledged, Actions, Reply, number
from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.numbers import Feature, RequestId

if TYPE_CHECKING:
    from hfsched.vhost.channel import Descriptors
    from hfsched.vhost.files import Files
    from hfsched.vhost.queue import Queue

__all__ = ["MemoryMessages"]


class MemoryMessages:
    """Carries them out on `memory`, and on the queues whose rings lie there."""

    def __init__(
        self,
        memory: SharedMemory,
        queues: Sequence[Queue],
        files: Files,
        acknowledged: Acknowledged,
    ) -> None:
        self._memory = memory
        self._queues = queues
        self._files = files
        self._acknowledged = acknowledged
        self._log: DirtyLog | None = None  # what writes are noted in with LOG_ALL
        self.actions: Actions = {
            RequestId.SET_MEM_TABLE: self._set_memory,
            RequestId.ADD_MEM_REG: self._add_memory,
            RequestId.REM_MEM_REG: self._remove_memory,
            RequestId.GET_MAX_MEM_SLOTS: lambda _body, _fds: number(SLOTS_MAX),
            RequestId.SET_LOG_BASE: self._set_log,
            RequestId.SET_LOG_FD: self._set_log_fd,
        }

    def key(self) -> Hashable:
        """Return its state."""
        regions = tuple((each.guest, each.size, each.user) for each in self._memory.regions)
        return (regions, self._log is None)

    def close(self) -> None:
        """Unmap all."""
        self.use_log(None)
        self._memory.close()

    def _set_memory(self, body: wire.MemoryTable, fds: Descriptors) -> None:
        self._memory.replace(body.regions, fds.look())
        self._relocate()

    def _add_memory(self, body: wire.MemoryTable, fds: Descriptors) -> None:
        if len(fds) != 1:
            raise RefusedError("it has no descriptor")
        self._memory.add(body.regions[0], fds.look()[0])

    def _remove_memory(self, body: wire.MemoryTable, _fds: Descriptors) -> None:
        self._memory.remove(body.regions[0])
        self._relocate()

    def _relocate(self) -> None:
        """Have running rings use the memory as it is now; one that is not there any more is broken."""
        for queue in self._queues:
            if queue.running:
                try:
                    queue.relocate()
                except MemoryFaultError as exc:
                    queue.break_down(str(exc))

    def _set_log(self, body: wire.LogBase, fds: Descriptors) -> Reply:
        mapping = self._files.map(fds.look()[0], body.offset, body.size)
        self.use_log(DirtyLog(mapping))
        return number(0)

    def _set_log_fd(self, _body: wire.Empty, _fds: Descriptors) -> None:
        """Take the descriptor that says that the log has changed: it need not be told."""

    def use_log(self, log: DirtyLog | None) -> None:
        """Note writes in another log, or in none."""
        before, self._log = self._log, log
        self.apply()
        if before is not None:
            before.close()

    def apply(self) -> None:
        """Note writes if the front-end has acknowledged that, and has given a log."""
        logged = self._acknowledged.has(Feature.LOG_ALL)
        self._memory.log = self._log if logged else None
