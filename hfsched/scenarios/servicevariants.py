"""Linux's driver of a utility service, as it was and as others proposed it, for the scenario `services`.

Modelled on Linux 6.12, `drivers/hv/hv_kvp.c` and `hv_utils_transport.c`, and on the thread of 13 September
2019, "hv_utils: Add the support of hibernation".  The driver is in the guest: it takes a request of the host
from the channel, hands it to a daemon, and answers with the daemon's reply, or with a failure at a time-out.
Work that is cancelled is waited for if it runs, which is what the locks `work`, `timer` and `callback`
are; processes of user space are frozen before drivers suspend, which is the lock `user`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from hfsched.explore.registry import Variant
from hfsched.explore.scenario import World
from hfsched.runtime.base import guards_nothing

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["DRIVERS", "VARIANTS", "Before", "historical_world"]

INIT, READY, HOSTMSG, REQ, RECV, SUSPENDED = (
    "INIT",
    "READY",
    "HOSTMSG_RECEIVED",
    "USERSPACE_REQ",
    "USERSPACE_RECV",
    "SUSPENDED",
)


class Size(Protocol):
    """What of the scenario's parameters a driver's world takes."""

    @property
    def requests(self) -> int:
        """How many requests the host makes."""

    @property
    def event(self) -> str:
        """`hibernate` or `none`."""

    @property
    def tolerant(self) -> bool:
        """Whether what is wrong at the end is told, not raised."""


class Channel:
    """The host's end: one request at a time, by number; closing it fails the one that has no answer."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        self.lock = runtime.lock("channel", state=self.key)
        self.open = True
        self.queued: int | None = None
        self.current: int | None = None  # the driver's, who reads it when it answers
        self.outstanding: int | None = None
        self.ended: list[tuple[int, str]] = []
        self.wrong: set[str] = set()
        self.callback = runtime.event("channel.callback")
        self.changed = runtime.event("channel.changed")

    def key(self) -> object:
        """Return all that the lock guards."""
        wrong = tuple(sorted(self.wrong))
        numbers = (self.queued, self.current, self.outstanding)
        return (self.open, *numbers, tuple(self.ended), wrong)

    def ask(self, number: int) -> bool:
        """Put a request into the channel; return False, with `changed` cleared, while it is closed."""
        with self.lock:
            self.changed.clear()
            if self.open:
                self.queued = self.outstanding = number
                self.callback.set()
            return self.open

    def has_ended(self, number: int) -> bool:
        """Return whether a request has an answer; else `changed` is cleared."""
        with self.lock:
            self.changed.clear()
            return number in dict(self.ended)

    def read(self) -> int | None:
        """Take the request: it is the driver's current one."""
        with self.lock:
            number, self.queued = self.queued, None
            self.current = self.current if number is None else number
            return number

    def current_request(self) -> int:
        """Return the number of the driver's current request."""
        with self.lock:
            assert self.current is not None
            return self.current

    def respond(self, reply: int | None) -> None:
        """Answer the current request with the reply to `reply`, None for a failure.

        The host ignores an answer to a request that has ended.
        """
        with self.lock:
            if self.current != self.outstanding:
                return
            if reply is not None and reply != self.current:
                self.wrong.add("a reply given to the wrong request")
            self._end("failed" if reply is None else "answered")

    def _end(self, how: str) -> None:
        if self.outstanding is not None:
            self.ended.append((self.outstanding, how))
            self.outstanding = None
            self.changed.set()

    def close(self) -> None:
        """Close it: the host sees that, and its request has failed."""
        with self.lock:
            self.open, self.queued = False, None
            self._end("closed")

    def reopen(self) -> None:
        """Open it: the host goes on."""
        with self.lock:
            self.open = True
            self.changed.set()


class Before:
    """The driver before the mail."""

    def __init__(self, runtime: ExploreRuntime, channel: Channel) -> None:
        self.runtime = runtime
        self.channel = channel
        self.state = runtime.cell("state", READY)
        self.outmsg = runtime.cell("outmsg", _NOBODY)
        self.readable = runtime.event("outmsg.readable")
        self.enabled = True  # under the callback's lock
        self.work = runtime.event("work.scheduled")
        self.timeout = runtime.event("timer.armed")
        locks = [runtime.lock(name, state=guards_nothing) for name in ("work", "timer", "user")]
        self.callback_lock = runtime.lock("callback", state=lambda: self.enabled)
        self.work_lock, self.timer_lock, self.user = locks

    # The driver's tasks.

    def callback(self) -> None:
        """Read the channel when it has been written, or is polled."""
        while True:
            self.runtime.retain_only()
            self.channel.callback.wait()
            self.channel.callback.clear()
            with self.callback_lock:
                if self.enabled:
                    self.on_channel()

    def on_channel(self) -> None:
        """Take one request, unless one is under way."""
        if self.state.get() not in (INIT, READY):
            return
        number = self.channel.read()
        if number is None:
            return
        self.state.set(HOSTMSG)
        self.work.set()
        self.timeout.set()

    def worker(self) -> None:
        """Hand the request to the daemon."""
        while True:
            self.runtime.retain_only()
            self.work.wait()
            with self.work_lock:
                if self.work.is_set():
                    self.work.clear()
                    self.send_key()

    def send_key(self) -> None:
        """HOSTMSG_RECEIVED -> USERSPACE_REQ."""
        if self.state.get() != HOSTMSG:
            return
        self.state.set(REQ)
        self.hand_out(self.channel.current_request())

    def hand_out(self, number: int) -> None:
        """Leave the request for the daemon, if the one before was read."""
        if self.outmsg.compare_and_set(_NOBODY, number):
            self.readable.set()
        elif self.cancel_timer():
            self.channel.respond(None)
            self.state.set(READY)

    def timer(self) -> None:
        """Fire at any time after it was armed."""
        while True:
            self.runtime.retain_only()
            self.timeout.wait()
            with self.timer_lock:
                if self.timeout.is_set():
                    self.timeout.clear()
                    self.on_timeout()

    def on_timeout(self) -> None:
        """Answer with a failure, and poll."""
        self.channel.respond(None)
        self.poll()

    def poll(self) -> None:
        """Set READY, then read the channel."""
        self.state.set(READY)
        self.channel.callback.set()

    def cancel_timer(self) -> bool:
        """Cancel the time-out; return whether it was armed, after it has run if it runs."""
        with self.timer_lock:
            armed = self.timeout.is_set()
            self.timeout.clear()
            return armed

    def cancel_work(self) -> None:
        """Cancel the hand-over."""
        with self.work_lock:
            self.work.clear()

    # User space.

    def daemon(self) -> None:
        """Read a request, reply; end when the reply is refused, and be started again."""
        while True:
            self.runtime.retain_only()
            self.readable.wait()
            with self.user:
                self.readable.clear()
                number = self.outmsg.exchange(_NOBODY)
            self.runtime.retain_only(number)
            if number == _NOBODY:
                continue
            with self.user:
                if not self.on_reply(number):
                    self.restart_daemon()

    def on_reply(self, number: int) -> bool:
        """Take the daemon's reply to request `number`; False: EINVAL."""
        if self.state.get() not in (REQ, RECV):
            return False
        self.state.set(RECV)
        if self.cancel_timer():
            self.channel.respond(number)
            self.poll()
        return True

    def restart_daemon(self) -> None:
        """Close the daemon's device; another one opens it and registers."""
        if self.cancel_timer():
            self.channel.respond(None)
        self.state.set(INIT)
        self.outmsg.set(_NOBODY)
        self.poll()

    # Hibernation.

    def hibernate(self) -> None:
        """Freeze user space, suspend the drivers, resume them, thaw user space."""
        with self.user:
            self.suspend()
            self.resume()

    def suspend(self) -> None:
        """Cancel what may run, close the channel."""
        self.cancel_timer()
        self.cancel_work()
        self.close_channel()

    def close_channel(self) -> None:
        """Switch the callback off, and close."""
        with self.callback_lock:
            self.enabled = False
        self.channel.close()

    def resume(self) -> None:
        """Open the channel."""
        with self.callback_lock:
            self.enabled = True
        self.channel.reopen()


class MailsPatch(Before):
    """The mail's patch: the channel is polled whether or not the time-out could be cancelled."""

    def on_reply(self, number: int) -> bool:
        """See `Before.on_reply`."""
        if self.state.get() not in (REQ, RECV):
            return False
        self.state.set(RECV)
        if self.cancel_timer():
            self.channel.respond(number)
        self.poll()
        return True


class Merged(Before):
    """What was merged: first the callback is switched off, then all is cancelled, and the state is READY."""

    def suspend(self) -> None:
        """See `Before.suspend`."""
        with self.callback_lock:
            self.enabled = False
        self.cancel_timer()
        self.cancel_work()
        self.state.set(READY)
        self.channel.close()


class BlockedReplies(Merged):
    """A reviewer's idea: replies block in the driver until it has resumed, and then it polls.

    With user space frozen nothing is left to block: a reply comes after the resume anyway.
    """

    def resume(self) -> None:
        """See `Before.resume`."""
        super().resume()
        self.poll()


class StateSuspended(Merged):
    """A reviewer's idea: while the state is SUSPENDED nothing is accepted; the resume polls."""

    def suspend(self) -> None:
        """See `Before.suspend`."""
        self.state.set(SUSPENDED)
        self.cancel_timer()
        self.cancel_work()
        self.close_channel()

    def resume(self) -> None:
        """See `Before.resume`."""
        super().resume()
        self.poll()


class CompareAndSet(Merged):
    """As merged, but every change of the state is a compare-and-set, and who wins it answers and polls."""

    def send_key(self) -> None:
        """See `Before.send_key`."""
        if self.state.compare_and_set(HOSTMSG, REQ):
            self.hand_out(self.channel.current_request())

    def on_timeout(self) -> None:
        """See `Before.on_timeout`."""
        for before in (HOSTMSG, REQ):
            if self.state.compare_and_set(before, RECV):
                self.channel.respond(None)
                self.poll()
                return

    def on_reply(self, number: int) -> bool:
        """See `Before.on_reply`."""
        if not self.state.compare_and_set(REQ, RECV):
            return False
        self.timeout.clear()
        self.channel.respond(number)
        self.poll()
        return True


_NOBODY = -1

DRIVERS: Mapping[str, type[Before]] = {
    "before": Before,
    "mail": MailsPatch,
    "merged": Merged,
    "blocked-replies": BlockedReplies,
    "suspended-state": StateSuspended,
    "compare-and-set": CompareAndSet,
}

VARIANTS: Mapping[str, Variant] = {
    "before": Variant("Linux's driver before the mail: a late reply leaves the channel unread"),
    "mail": Variant("the mail's patch: it polls whether or not the time-out could be cancelled"),
    "merged": Variant("what was merged: before a suspend the callback is off and the state READY"),
    "blocked-replies": Variant("a reviewer's idea: replies block until the resume"),
    "suspended-state": Variant("a reviewer's idea: a state SUSPENDED"),
    "compare-and-set": Variant("as merged, with a compare-and-set for every change of the state"),
}


def historical_world(runtime: ExploreRuntime, kind: type[Before], size: Size) -> World:
    """Return the world of a driver: host, callback, worker, timer, daemon, and the hibernation."""
    channel = Channel(runtime)
    driver = kind(runtime, channel)

    def host() -> None:
        for number in range(size.requests):
            runtime.retain_only(number)
            while not channel.ask(number):
                channel.changed.wait()
            while not channel.has_ended(number):
                channel.changed.wait()

    tasks = {
        "host": host,
        "callback": driver.callback,
        "worker": driver.worker,
        "timer": driver.timer,
        "daemon": driver.daemon,
    }
    if size.event == "hibernate":
        tasks["hibernate"] = driver.hibernate
    for name, task in tasks.items():
        runtime.spawn(name, task)

    def found() -> list[str]:
        state = driver.state.peek()
        stuck = [] if state == READY else [f"stuck in {state}"]
        if not stuck and len(channel.ended) < size.requests:
            stuck = ["READY, and the channel is not read"]
        return stuck + sorted(channel.wrong)

    def invariant() -> None:
        if channel.wrong and not size.tolerant:
            raise AssertionError("; ".join(sorted(channel.wrong)))

    def check() -> None:
        if found() and not size.tolerant:
            raise AssertionError("; ".join(found()))

    return World(
        check, invariant=invariant, remembers=False, final=lambda: tuple(found()), timers=False
    )
