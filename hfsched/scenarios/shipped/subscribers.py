"""Subscribers to a machine's events that come, take what there is, and go, while events are published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from hfsched.control.events import Event, Hub, Subscription, Suspended, SwapChanged
from hfsched.explore.objects import XEvent
from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.scenario import World

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["SubscribersScenario"]


class _ClearsLate(Hub):
    """Notes that there is no subscriber when it has let go of the lock, and one may have come."""

    def unsubscribe(self, subscription: Subscription) -> None:
        super().unsubscribe(subscription)
        with self.lock:
            key: Any = self.key()
        if not key[0]:  # no queue
            self.watched.clear()


@dataclass(frozen=True)
class SubscribersScenario:
    """`publishers` publish `events` each, and `subscribers` subscribe until they have all of them.

    Each event is a holder's, between reports of one state of swap, which is no news the second time.  Of
    the subscribers `visitors` go again at once, `rounds` times.  Every subscriber gets every event once and
    in its publisher's order, no state of swap twice, and `watched` is set as long as it is there.
    """

    publishers: int = 1
    events: int = 1
    subscribers: int = 1
    visitors: int = 1
    rounds: int = 1
    variant: str = ""

    variants: ClassVar[Mapping[str, Variant]] = {
        "clears-late": Variant("the last subscriber's leave is noted after another has come"),
    }

    def __post_init__(self) -> None:
        check_ranges(
            self,
            ("publishers", 1, 4),
            ("events", 1, 4),
            ("subscribers", 0, 4),
            ("visitors", 0, 4),
            ("rounds", 1, 4),
        )

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("subscribers", self)

    def small(self) -> SubscribersScenario:
        """Return the size whose every interleaving a race pass runs."""
        return replace(self, publishers=1, events=1, subscribers=1, visitors=0, rounds=1)

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the hub, and who publishes and subscribes."""
        hub = (_ClearsLate if self.variant else Hub)(runtime)
        through: list[str] = []
        runtime.declare_records(through, reason="what the oracles compare")

        def publish(publisher: int) -> None:
            for number in range(self.events):
                runtime.retain_only(number)
                hub.publish(Suspended(holder=f"{publisher}.{number}"))
                hub.publish(SwapChanged(state="ready"))
            through.append(f"publisher.{publisher}")

        def subscribe(name: str) -> None:
            subscription = hub.subscribe()
            assert hub.watched.is_set(), f"{name} is there, and nothing follows swap"
            heard: list[Event] = []
            while not self._has_all(heard):
                runtime.retain_only(tuple(heard))
                assert runtime.select([subscription.filled])
                heard += subscription.take()
                self._check(name, heard)
            assert hub.watched.is_set(), f"{name} is there, and nothing follows swap any more"
            subscription.close()
            through.append(name)

        def visit(name: str) -> None:
            for count in range(self.rounds):
                runtime.retain_only(count)
                subscription = hub.subscribe()
                assert hub.watched.is_set(), f"{name} is there, and nothing follows swap"
                self._check(name, subscription.take())
                subscription.close()
            through.append(name)

        names = []
        for what, body, count in (
            ("subscriber", subscribe, self.subscribers),
            ("visitor", visit, self.visitors),
        ):
            for number in range(count):
                names.append(f"{what}.{number}")
                runtime.spawn(names[-1], partial(body, names[-1]))
        for number in range(self.publishers):
            names.append(f"publisher.{number}")
            runtime.spawn(names[-1], partial(publish, number))

        def check() -> None:
            missing = sorted({*names} - {*through})
            assert not missing, f"{', '.join(missing)} waits for ever"
            assert isinstance(hub.watched, XEvent)
            assert not hub.watched.peek(), "swap is followed, and nobody is there"

        return World(check, timers=False)

    def _has_all(self, heard: list[Event]) -> bool:
        holders = [each for each in heard if isinstance(each, Suspended)]
        return len(holders) == self.publishers * self.events

    def _check(self, name: str, heard: list[Event]) -> None:
        """Check that no event came twice, or before an earlier one of its publisher."""
        holders = [each.holder for each in heard if isinstance(each, Suspended)]
        assert len({*holders}) == len(holders), f"{name} gets an event twice: {holders}"
        for publisher in range(self.publishers):
            own = [each for each in holders if each.startswith(f"{publisher}.")]
            assert own == sorted(own), f"{name} gets events in another order: {own}"
        states = [each for each in heard if isinstance(each, SwapChanged)]
        assert len(states) <= 1, f"{name} is told the same state of swap twice"
