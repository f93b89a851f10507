"""The scheduler's mirror of one VM: which vCPUs sleep, and whether a message may be unread.

The driver cannot see the mailbox; it knows what RUN returned and what it has delivered.  From
that, three things hold (and make that no wake-up is lost):

1. `unread` implies that no vCPU is parked as waiting for a message;
2. after a delivery, `unread` is set, or a claimed vCPU owes a RUN, or the message was read;
3. claiming a vCPU, or clearing `unread`, comes before the RUN that it pays for.

So a vCPU that exits to wait for a message while one is believed unread is run again at once; if
the guest has read it meanwhile, that RUN costs one spurious exit and says so.

One lock for each VM guards everything here; it is never held across the primary's interface or while sleeping.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["Entry", "Mirror", "Quiet", "VcpuActivity"]


class VcpuActivity(Enum):
    """What a vCPU's thread does, as far as its VM's mirror knows."""

    RUNNING = "run"  # in RUN, or about to be
    WFM = "wait-for-message"
    WFI = "wait-for-interrupt"
    OFF = "off"
    GONE = "gone"  # its thread has left for good


class Entry(Enum):
    """Whether a host sender may try now."""

    OPEN = "open"  # and it has begun: `Mirror.end_send`, or the delivery, ends it
    SUSPENDED = "suspended"  # not before the end of a suspension
    ENDED = "ended"  # never again


class _Slot:
    __slots__ = ("activity", "blocked", "deadline", "direct", "event", "kick")

    def __init__(self, event: Event) -> None:
        self.activity = VcpuActivity.RUNNING
        self.kick = False
        self.direct = False  # claimed for a direct request, which is still to be taken
        # Its thread (which may be still to come) is in no RUN, and in none before a suspension's end.
        self.blocked = True
        self.event = event
        self.deadline: int | None = None


@dataclass(frozen=True, slots=True)
class Quiet:
    """What `Mirror.quiet` saw: whether all vCPUs rest with no deadline, and the claims so far."""

    resting: bool
    claims: int


class Mirror:
    """The mirror of VM `name` with `vcpus` vCPUs; every vCPU starts as running.

    `wake_ups` counts claims of a parked vCPU and kicks of a running one.  `on_idle` is called, with
    no lock held, by a vCPU's thread that goes to sleep or leaves; it must not block.
    """

    def __init__(
        self, runtime: Runtime, name: str, vcpus: int, on_idle: Callable[[], None] = lambda: None
    ) -> None:
        self._runtime = runtime
        self._on_idle = on_idle
        self._lock = runtime.lock(f"{name}.mirror", state=self.key)
        self._slots = [_Slot(runtime.event(f"{name}.{index}.wake")) for index in range(vcpus)]
        self.unread = False
        self.dead = False
        self.stopping = False
        self.suspended = False
        self._senders = 0  # of the host, between looking and delivering
        self._resumed = runtime.event(f"{name}.resumed")  # matters while `suspended`
        self._quiesced = runtime.event(
            f"{name}.quiesced"
        )  # suspended or stopping; nobody in RUN or sending
        self._claims = 0
        self.wake_ups = 0

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        slots = tuple(
            (slot.activity, slot.kick, slot.direct, slot.blocked, slot.deadline)
            for slot in self._slots
        )
        return (self.unread, self.dead, self.stopping, self.suspended, self._senders, slots)

    # What others do to the VM.

    def begin_send(self) -> Entry:
        """Ask, for a host sender, whether it may try now."""
        with self._lock:
            if self.dead or self.stopping:
                return Entry.ENDED
            if self.suspended:
                return Entry.SUSPENDED
            self._senders += 1
            return Entry.OPEN

    def end_send(self) -> None:
        """Note that a sender's try came to nothing."""
        with self._lock:
            self._senders -= 1
            self._update_quiesced()

    def wait_resumed(self, deadline: int | None) -> bool:
        """Wait for the end of a suspension; False at the deadline."""
        return self._resumed.wait(deadline)

    def deliver(self, *, ends_send: bool = False) -> bool:
        """Note that a message was written.  True: a vCPU was claimed, and its RUN will deliver.

        `ends_send` says that a host sender wrote it, which `begin_send` has let in.

        False: nobody waits for a message.  It counts as unread now, and the caller must try to
        interrupt a vCPU about it.  An earlier unread message must have been read by now, or its
        sender has not come to its own delivery yet: either way the one flag stands for both.
        """
        with self._lock:
            self._senders -= ends_send
            for slot in self._slots:
                if slot.activity is VcpuActivity.WFM:
                    self._claim(slot)
                    return True
            self.unread = True
            self._update_quiesced()
            return False

    def claim_waiting(self, vcpu: int) -> bool:
        """Claim `vcpu` for a direct request if it is parked waiting for a message."""
        with self._lock:
            slot = self._slots[vcpu]
            if slot.activity is not VcpuActivity.WFM:
                return False
            slot.direct = True
            self._claim(slot)
            return True

    def take_direct_claim(self, vcpu: int) -> bool:
        """Tell, once, whether `vcpu` was claimed for a direct request.

        A RUN that is owed to a message must not be spent on a request that has claimed nothing.
        """
        with self._lock:
            direct, self._slots[vcpu].direct = self._slots[vcpu].direct, False
            return direct

    def wake(self, vcpu: int) -> None:
        """Make sure that `vcpu` is run once more from now."""
        with self._lock:
            self._wake(self._slots[vcpu])

    def abort(self) -> list[int] | None:
        """Note that the VM aborted.  Parked vCPUs are claimed; return the running ones, to kick.

        None: it was known before, and nothing is left to do.
        """
        with self._lock:
            if self.dead:
                return None
            self.dead = True
            return self._wake_all()

    def stop(self) -> list[int]:
        """Make every vCPU's thread leave.  Parked ones are claimed; return the running ones."""
        with self._lock:
            self.stopping = True
            self._resumed.set()
            running = self._wake_all()
            self._update_quiesced()
            return running

    def suspend(self) -> list[int]:
        """Let no RUN and no send begin until `resume`; return the vCPUs that may be in RUN, to kick.

        What comes meanwhile is kept: in `unread`, in kicks, in claims.
        """
        with self._lock:
            self.suspended = True
            if not self.stopping:  # else somebody who is about to wait would miss the stop
                self._resumed.clear()
            self._update_quiesced()
            return [
                i for i, slot in enumerate(self._slots) if slot.activity is VcpuActivity.RUNNING
            ]

    def wait_quiesced(self, deadline: int | None) -> bool:
        """Wait until no vCPU is in RUN and nobody sending; False at the deadline.

        For a VM that is suspended, or being stopped: then every vCPU's thread has left.
        """
        return self._quiesced.wait(deadline)

    def resume(self) -> None:
        """Let RUNs and senders begin again."""
        with self._lock:
            self.suspended = False
            self._quiesced.clear()
            self._update_quiesced()
            self._resumed.set()

    # What a vCPU's own thread does.

    def before_run(self, vcpu: int) -> bool:
        """Forget the kicks that the coming RUN pays for; False: leave instead.

        Waits for the end of a suspension.
        """
        slot = self._slots[vcpu]
        while True:
            with self._lock:
                slot.blocked = self.suspended and not self.stopping
                if self.stopping:
                    slot.activity = VcpuActivity.GONE
                    return False
                if not self.suspended:
                    slot.kick = False
                    return True
                self._update_quiesced()
            self._runtime.retain_only(level=1)
            self._resumed.wait()

    def block(self, vcpu: int) -> None:
        """Note that the vCPU's thread waits for something else, in no RUN, until `go_on`."""
        with self._lock:
            self._slots[vcpu].blocked = True
            self._update_quiesced()

    def unblock(self, vcpu: int) -> None:
        """End what `hold` began; waits for the end of a suspension."""
        slot = self._slots[vcpu]
        while True:
            with self._lock:
                slot.blocked = self.suspended and not self.stopping
                if not slot.blocked:
                    return
            self._runtime.retain_only(level=1)
            self._resumed.wait()

    def wait_for_message(self, vcpu: int, deadline: int | None) -> None:
        """RUN said that the vCPU waits for a message: sleep, unless there is a reason to RUN."""
        with self._lock:
            if self.unread:
                self.unread = False
                return
            parked = self._begin_wait(self._slots[vcpu], VcpuActivity.WFM, deadline)
        if parked:
            self._park(self._slots[vcpu], deadline)

    def wait_for_interrupt(self, vcpu: int, deadline: int | None) -> None:
        """RUN said that the vCPU waits for an interrupt.  An unread message stays unread."""
        with self._lock:
            parked = self._begin_wait(self._slots[vcpu], VcpuActivity.WFI, deadline)
        if parked:
            self._park(self._slots[vcpu], deadline)

    def switched_off(self, vcpu: int) -> bool:
        """RUN said that the vCPU cannot run: sleep until it is turned on.  False: leave instead."""
        with self._lock:
            slot = self._slots[vcpu]
            if self.dead:
                slot.activity = VcpuActivity.GONE
                return False
            parked = self._begin_wait(slot, VcpuActivity.OFF, None)
        if parked:
            self._park(slot, None)
        return True

    def leave(self, vcpu: int) -> None:
        """Note that the vCPU's thread ends."""
        with self._lock:
            self._slots[vcpu].activity = VcpuActivity.GONE
            self._update_quiesced()
        self._on_idle()

    # What an onlooker asks.

    def quiet(self) -> Quiet:
        """Tell whether nothing here will happen by itself."""
        with self._lock:
            resting = all(
                slot.activity is not VcpuActivity.RUNNING and slot.deadline is None
                for slot in self._slots
            )
            return Quiet(resting, self._claims)

    def ended(self) -> bool:
        """Tell whether the VM has aborted or is being stopped."""
        with self._lock:
            return self.dead or self.stopping

    def activity(self, vcpu: int) -> VcpuActivity:
        """Return what `vcpu` does now."""
        with self._lock:
            return self._slots[vcpu].activity

    def peek(self) -> tuple[tuple[VcpuActivity, bool], ...]:
        """Return {activity, kicked} of each vCPU without the lock: to be shown, nothing else."""
        return tuple((slot.activity, slot.kick) for slot in self._slots)

    def close(self) -> None:
        """Free the events; every vCPU's thread must have left."""
        for event in (self._resumed, self._quiesced, *(slot.event for slot in self._slots)):
            event.close()

    # Under the lock.

    def _claim(self, slot: _Slot) -> None:
        slot.activity = VcpuActivity.RUNNING
        slot.deadline = None
        self._claims += 1
        self.wake_ups += 1
        slot.event.set()

    def _wake(self, slot: _Slot) -> None:
        if slot.activity is VcpuActivity.RUNNING:
            slot.kick = True
            self.wake_ups += 1
        elif slot.activity is not VcpuActivity.GONE:
            self._claim(slot)

    def _wake_all(self) -> list[int]:
        running = [i for i, slot in enumerate(self._slots) if slot.activity is VcpuActivity.RUNNING]
        for slot in self._slots:
            self._wake(slot)
        return running

    def _begin_wait(self, slot: _Slot, activity: VcpuActivity, deadline: int | None) -> bool:
        if slot.kick or self.dead or self.stopping:
            return False
        slot.activity = activity
        slot.deadline = deadline
        self._update_quiesced()
        return True

    def _update_quiesced(self) -> None:
        """Say so if nobody is in RUN or sending, nor can be before `resume`, or ever again."""
        if self._senders or not (self.suspended or self.stopping):
            return
        if all(slot.blocked or slot.activity is not VcpuActivity.RUNNING for slot in self._slots):
            self._quiesced.set()

    # Without the lock.

    def _park(self, slot: _Slot, deadline: int | None) -> None:
        self._on_idle()
        while True:
            self._runtime.retain_only(level=1)
            woken = slot.event.wait(deadline)
            with self._lock:
                if slot.activity is VcpuActivity.RUNNING:
                    slot.event.clear()
                    return
                if not woken:  # the guest's timer: whoever comes now finds the vCPU running
                    slot.activity = VcpuActivity.RUNNING
                    slot.deadline = None
                    self._claims += 1
                    return
                slot.event.clear()
