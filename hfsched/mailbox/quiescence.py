"""Whether RUNs and host senders of one VM may begin, and whether all that had begun have ended.

Plain state: the lock of the VM's mirror guards it, but for the two waits.  A vCPU's thread waits for the
end of a suspension by its own event: for what is posted to it meanwhile nobody else wakes up.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["Entry", "Quiescence"]


class Entry(Enum):
    """Whether a host sender may try now."""

    OPEN = "open"  # and it has begun: `Quiescence.end_send` ends it
    SUSPENDED = "suspended"  # not before the end of a suspension
    ENDED = "ended"  # never again


class Quiescence:
    """The suspension and the stop of one VM, and its host senders under way.

    The VM is *quiesced* while it is suspended or stopping, no vCPU is in RUN, unless it is kept from executing there
    (`Slot.kept_out`), and no host sender is between looking at the mailbox and delivering; then neither begins before
    `resume`, or ever.
    """

    def __init__(self, runtime: Runtime, name: str) -> None:
        self.suspended = False
        self.stopping = False
        self._senders = 0
        self.resumed = runtime.event(f"{name}.resumed")  # matters while `suspended`
        self._quiesced = runtime.event(f"{name}.quiesced")

    def key(self) -> Hashable:
        """Return all of the state but the events."""
        return (self.stopping, self.suspended, self._senders)

    @property
    def holds_runs(self) -> bool:
        """Whether no RUN may begin before the end of a suspension."""
        return self.suspended and not self.stopping

    # Under the mirror's lock.

    def begin_send(self) -> Entry:
        """Ask whether a host sender may begin."""
        if self.stopping:
            return Entry.ENDED
        if self.suspended:
            return Entry.SUSPENDED
        self._senders += 1
        return Entry.OPEN

    def end_send(self) -> None:
        """Note that a host sender has ended; `update` afterwards."""
        self._senders -= 1

    def stop(self) -> None:
        """Let nothing begin any more, and no wait for a resumption last."""
        self.stopping = True
        self.resumed.set()

    def suspend(self) -> None:
        """Let nothing begin until `resume`."""
        self.suspended = True
        if not self.stopping:  # else a thread that is about to wait would miss the stop
            self.resumed.clear()

    def resume(self, *, idle: bool) -> None:
        """End a suspension; `idle` as in `update`."""
        self.suspended = False
        self._quiesced.clear()
        self.update(idle=idle)
        self.resumed.set()

    def update(self, *, idle: bool) -> None:
        """Note whether no vCPU executes in RUN, nor can before `resume`."""
        if idle and not self._senders and (self.suspended or self.stopping):
            self._quiesced.set()

    def begin_anew(self) -> None:
        """Note that vCPUs that were not waited for are now; `update` afterwards."""
        self._quiesced.clear()

    # Without the lock.

    def wait_resumed(self, deadline: int | None = None) -> bool:
        """Wait, as a host sender, for the end of a suspension; False at the deadline."""
        return self.resumed.wait(deadline)

    def wait_quiesced(self, deadline: int | None) -> bool:
        """Wait until the VM is quiesced; False at the deadline."""
        return self._quiesced.wait(deadline)

    def close(self) -> None:
        """Free the events."""
        self.resumed.close()
        self._quiesced.close()
