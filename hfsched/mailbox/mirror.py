"""The scheduler's mirror of one VM: which vCPUs sleep, and whether a message may be unread.

The driver cannot see the mailbox; it knows what RUN returned and what it has delivered.  From
that, three things hold (and make that no wake-up is lost):

1. `unread` implies that no vCPU is parked as waiting for a message;
2. after a delivery, `unread` is set, or a claimed vCPU owes a RUN, or the message was read;
3. claiming a vCPU, or clearing `unread`, comes before the RUN that it accounts for.

So a vCPU that exits to wait for a message while one is believed unread is run again at once; if
the guest has read it meanwhile, that RUN costs one spurious exit and returns "still waiting".

One lock for each VM guards everything here, and its `Quiescence`; it is never held across the
primary's interface or while sleeping.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.mailbox.quiescence import Entry, Quiescence
from hfsched.mailbox.slot import Slot, VcpuActivity
from hfsched.runtime.declared import uncompared

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["Entry", "Mirror", "Quiet", "VcpuActivity"]

# Finding an enumeration's member takes as long as a call.
_RUNNING, _WFM, _GONE = VcpuActivity.RUNNING, VcpuActivity.WFM, VcpuActivity.GONE


class Quiet(Struct, frozen=True):
    """What `Mirror.quiet` saw: whether all vCPUs wait with no deadline, and the claims so far."""

    resting: bool
    claims: int


@uncompared(
    wake_ups="a counter for reports and oracles",
    _claims="compared from the first look at them on",
)
class Mirror:
    """The mirror of VM `name` with `vcpus` vCPUs; every vCPU starts as running.

    `wake_ups` counts claims of a parked vCPU and kicks of a running one.  `on_idle` is called, with
    no lock held, by a vCPU's thread that goes to sleep or leaves; it must not block.  `on_work` is
    called, likewise, by a vCPU's thread that is in no RUN, for work posted to it.
    """

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        vcpus: int,
        on_idle: Callable[[], None] = lambda: None,
        on_work: Callable[[int], None] = lambda _vcpu: None,
    ) -> None:
        self._runtime = runtime
        self._on_idle = on_idle
        self._on_work = on_work
        self._quiescence = Quiescence(runtime, name)
        self._lock = runtime.lock(f"{name}.mirror", state=self.key)
        self._slots = [Slot(runtime.event(f"{name}.{index}.wake")) for index in range(vcpus)]
        self.unread = False
        self.dead = False
        self._claims = 0
        self._counting = False  # somebody compares the claims at two times
        self.wake_ups = 0

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        slots = tuple(slot.key() for slot in self._slots)
        claims = self._claims if self._counting else None
        return (self.unread, self.dead, self._quiescence.key(), slots, claims)

    # For threads other than a vCPU's own.

    def begin_send(self) -> Entry:
        """Ask, for a host sender, whether it may try now; `end_send` or `deliver` ends its try."""
        with self._lock:
            return Entry.ENDED if self.dead else self._quiescence.begin_send()

    def end_send(self) -> None:
        """Note that a host sender's try has ended without a message."""
        with self._lock:
            self._quiescence.end_send()
            self._update_quiesced()

    def wait_resumed(self, deadline: int | None) -> bool:
        """Wait, as a host sender, for the end of a suspension; False at the deadline."""
        return self._quiescence.wait_resumed(deadline)

    @property
    def resumed(self) -> Event:
        """Set at the end of a suspension that has kept a host sender out."""
        return self._quiescence.resumed

    def deliver(self, *, ends_send: bool = False) -> bool:
        """Note that a message was written.  True: a vCPU was claimed, and its RUN will deliver.

        `ends_send`: a host sender wrote it, which `begin_send` has let in.

        False: no vCPU waits for a message.  It counts as unread now, and the caller must try to
        interrupt a vCPU about it.  An earlier unread message must have been read by now, or its
        sender has not come to its own delivery yet: either way the one flag stands for both.
        """
        with self._lock:
            if ends_send:
                self._quiescence.end_send()
            for slot in self._slots:
                if slot.activity is _WFM:
                    self._claim(slot)
                    return True
            self.unread = True
            self._update_quiesced()
            return False

    def claim_waiting(self, vcpu: int) -> bool:
        """Claim `vcpu` for a direct request if it is parked waiting for a message."""
        slot = self._slots[vcpu]
        with self._lock:
            if slot.activity is not _WFM:
                return False
            slot.direct = True
            self._claim(slot)
            return True

    def wake(self, vcpu: int) -> None:
        """Make sure that `vcpu` is run once more from now."""
        with self._lock:
            self._wake(self._slots[vcpu])

    def post(self, vcpu: int) -> VcpuActivity:
        """Have the thread of `vcpu` call `on_work`, without a RUN if it is in none.

        Returns what it does: RUNNING, then kick it, and wake it where it may wait for something
        else (`block`); GONE, then nothing comes of it.
        """
        slot = self._slots[vcpu]
        with self._lock:
            slot.work = True
            if slot.held or slot.activity not in (_RUNNING, _GONE):
                slot.event.set()
            return slot.activity

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
            self._quiescence.stop()
            kept_out = [slot for slot in self._slots if slot.kept_out]
            for slot in kept_out:
                slot.kept_out = False
            if kept_out:  # from now on they are waited for
                self._quiescence.begin_anew()
            self._let_go()
            running = self._wake_all()
            self._update_quiesced()
            return running

    def suspend(self) -> list[int]:
        """Let no RUN and no send begin until `resume`; return the vCPUs that may be in RUN, to kick.

        What comes meanwhile is kept: in `unread`, in kicks, in claims.
        """
        with self._lock:
            self._quiescence.suspend()
            self._update_quiesced()
            return [i for i, slot in enumerate(self._slots) if slot.activity is _RUNNING]

    def keep_out(self, vcpus: Iterable[int]) -> None:
        """Note which of the vCPUs that may be in RUN execute nothing before `resume`, while it is suspended.

        Each has to leave where the VM is being stopped; whoever stops it kicks it.
        """
        with self._lock:
            if self._quiescence.stopping:
                return
            for vcpu in vcpus:
                self._slots[vcpu].kept_out = True
            self._update_quiesced()

    def wait_quiesced(self, deadline: int | None) -> bool:
        """Wait until no vCPU is in RUN, or can execute there, and no host sender under way; False at the deadline.

        For a VM that is suspended, or being stopped: then every vCPU's thread has left.
        """
        return self._quiescence.wait_quiesced(deadline)

    def resume(self) -> list[int]:
        """Let RUNs and senders begin again; return the vCPUs that were kept out, to be let in."""
        with self._lock:
            kept_out = [i for i, slot in enumerate(self._slots) if slot.kept_out]
            for vcpu in kept_out:
                self._slots[vcpu].kept_out = False
            self._quiescence.resume(idle=self._idle())
            self._let_go()
            return kept_out

    # For a vCPU's own thread.

    def before_run(self, vcpu: int) -> bool:
        """Clear the kicks that the coming RUN accounts for; False: leave instead.

        Waits for the end of a suspension; posted work is done first.
        """
        slot = self._slots[vcpu]
        quiescence = self._quiescence
        while True:
            with self._lock:
                work, slot.work = slot.work, False
                slot.held = False
                if quiescence.stopping:
                    slot.activity = _GONE
                    return False
                suspended = slot.blocked = quiescence.suspended
                if not work:
                    if not suspended:
                        slot.kick = False
                        return True
                    self._hold(slot)
                    self._update_quiesced()
            if work:
                self._on_work(vcpu)
            else:
                self._runtime.retain_only(level=1)
                slot.event.wait()

    def take_direct_claim(self, vcpu: int) -> bool:
        """Return, once, whether `vcpu` was claimed for a direct request.

        A RUN that is owed to a message must not be spent on a request that has claimed nothing.
        """
        with self._lock:
            direct, self._slots[vcpu].direct = self._slots[vcpu].direct, False
            return direct

    def block(self, vcpu: int) -> None:
        """Note that the vCPU's thread waits for something else, in no RUN, until `unblock`."""
        slot = self._slots[vcpu]
        with self._lock:
            slot.blocked = True
            work, slot.work = slot.work, False
            self._update_quiesced()
        if work:
            self._on_work(vcpu)

    def unblock(self, vcpu: int) -> None:
        """End what `block` began; waits for the end of a suspension, and does posted work."""
        slot = self._slots[vcpu]
        quiescence = self._quiescence
        while True:
            with self._lock:
                work, slot.work = slot.work, False
                slot.blocked = quiescence.holds_runs or work
                slot.held = False
                if not slot.blocked:
                    return
                if not work:
                    self._hold(slot)
            if work:
                self._on_work(vcpu)
            else:
                self._runtime.retain_only(level=1)
                slot.event.wait()

    def wait_for_message(self, vcpu: int, deadline: int | None) -> None:
        """RUN said that the vCPU waits for a message: sleep, unless there is a reason to RUN."""
        with self._lock:
            if self.unread:
                self.unread = False
                return
            parked = self._begin_wait(self._slots[vcpu], _WFM, deadline)
        if parked:
            self._park(vcpu, deadline)

    def wait_for_interrupt(self, vcpu: int, deadline: int | None) -> None:
        """RUN said that the vCPU waits for an interrupt.  An unread message stays unread."""
        with self._lock:
            parked = self._begin_wait(self._slots[vcpu], VcpuActivity.WFI, deadline)
        if parked:
            self._park(vcpu, deadline)

    def switched_off(self, vcpu: int) -> bool:
        """RUN said that the vCPU cannot run: sleep until it is turned on.  False: leave instead."""
        slot = self._slots[vcpu]
        with self._lock:
            if self.dead:
                slot.activity = _GONE
                return False
            parked = self._begin_wait(slot, VcpuActivity.OFF, None)
        if parked:
            self._park(vcpu, None)
        return True

    def leave(self, vcpu: int) -> None:
        """Note that the vCPU's thread ends."""
        with self._lock:
            self._slots[vcpu].activity = _GONE
            self._update_quiesced()
        self._on_idle()

    # For reports.

    def quiet(self) -> Quiet:
        """Return whether nothing here will happen by itself."""
        with self._lock:
            self._counting = True
            resting = all(
                slot.activity is not _RUNNING and slot.deadline is None for slot in self._slots
            )
            return Quiet(resting, self._claims)

    def ended(self) -> bool:
        """Return whether the VM has aborted or is being stopped."""
        with self._lock:
            return self.dead or self._quiescence.stopping

    def activity(self, vcpu: int) -> VcpuActivity:
        """Return what `vcpu` does now."""
        with self._lock:
            return self._slots[vcpu].activity

    def in_run(self, vcpu: int) -> bool:
        """Return whether `vcpu` is in RUN, or about to be: neither asleep, nor held by something else, nor kept out."""
        slot = self._slots[vcpu]
        with self._lock:
            return slot.activity is _RUNNING and not slot.blocked and not slot.kept_out

    def has_timer(self, vcpu: int) -> bool:
        """Return whether `vcpu` is asleep until its timer."""
        with self._lock:
            return self._slots[vcpu].deadline is not None

    def peek(self) -> tuple[tuple[VcpuActivity, bool], ...]:
        """Return {activity, kicked} of each vCPU without the lock: to be shown, nothing else."""
        return tuple((slot.activity, slot.kick) for slot in self._slots)

    def close(self) -> None:
        """Free the events; every vCPU's thread must have left."""
        self._quiescence.close()
        for slot in self._slots:
            slot.event.close()

    # Under the lock.

    def _claim(self, slot: Slot) -> None:
        slot.activity = _RUNNING
        slot.deadline = None
        self._claims += 1
        self.wake_ups += 1
        slot.event.set()

    def _hold(self, slot: Slot) -> None:
        """Have a vCPU's own thread wait, by its event, for a suspension's end or posted work."""
        slot.held = True
        slot.event.clear()

    def _let_go(self) -> None:
        for slot in self._slots:
            if slot.held:
                slot.event.set()

    def _wake(self, slot: Slot) -> None:
        if slot.activity is _RUNNING:
            slot.kick = True
            self.wake_ups += 1
        elif slot.activity is not _GONE:
            self._claim(slot)

    def _wake_all(self) -> list[int]:
        running = [i for i, slot in enumerate(self._slots) if slot.activity is _RUNNING]
        for slot in self._slots:
            self._wake(slot)
        return running

    def _begin_wait(self, slot: Slot, activity: VcpuActivity, deadline: int | None) -> bool:
        if slot.kick or slot.work or self.dead or self._quiescence.stopping:
            return False
        slot.activity = activity
        slot.deadline = deadline
        self._update_quiesced()
        return True

    def _idle(self) -> bool:
        """Return whether no vCPU executes in RUN, nor can before the end of a suspension."""
        for slot in self._slots:
            if not (slot.blocked or slot.kept_out or slot.activity is not _RUNNING):
                return False
        return True

    def _update_quiesced(self) -> None:
        quiescence = self._quiescence
        if quiescence.suspended or quiescence.stopping:
            quiescence.update(idle=self._idle())

    # Without the lock.

    def _park(self, vcpu: int, deadline: int | None) -> None:
        slot = self._slots[vcpu]
        self._on_idle()
        while True:
            self._runtime.retain_only(level=1)
            woken = slot.event.wait(deadline)
            with self._lock:
                if slot.activity is _RUNNING:
                    slot.event.clear()
                    return
                if not woken:  # the guest's timer: from here on others find the vCPU running
                    slot.activity = _RUNNING
                    slot.deadline = None
                    self._claims += 1
                    return
                slot.event.clear()
                work, slot.work = slot.work, False
            if work:
                self._on_work(vcpu)
