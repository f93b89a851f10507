"""What a mirror keeps of one vCPU and of the thread that owns it."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Event

__all__ = ["Slot", "VcpuActivity"]


class VcpuActivity(Enum):
    """What a vCPU's thread does, as far as its VM's mirror knows."""

    RUNNING = "run"  # in RUN, or about to be
    WFM = "wait-for-message"
    WFI = "wait-for-interrupt"
    OFF = "off"
    GONE = "gone"  # its thread has ended


class Slot:
    """Plain state: the mirror's lock guards it."""

    __slots__ = (
        "activity",
        "blocked",
        "deadline",
        "direct",
        "event",
        "held",
        "kept_out",
        "kick",
        "work",
    )

    def __init__(self, event: Event) -> None:
        self.activity = VcpuActivity.RUNNING
        self.kick = False
        self.direct = False  # claimed for a direct request, which is still to be taken
        self.work = False  # work was posted to the thread, which is still to be done
        # Its thread (which may be still to come) is in no RUN, and in none before a suspension's end.
        self.blocked = True
        self.kept_out = False  # it is in a RUN that does not execute before a suspension's end
        self.held = False  # its thread waits for a suspension's end: `event` wakes it
        self.event = event
        self.deadline: int | None = None

    def key(self) -> Hashable:
        """Return all of the state but the event."""
        return (
            *(self.activity.value, self.kick, self.direct, self.work),
            *(self.blocked, self.kept_out, self.held, self.deadline),
        )
