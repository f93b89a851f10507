"""The exploring runtime and its first strategies, on worlds small enough to count by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from worlds import Counter, Racy

from hfsched.explore.cycles import LivelockError
from hfsched.explore.execution import Outcome, Result, execute, search
from hfsched.explore.races import RaceError
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.schedule import Replay, Schedule
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.runtime.base import ChannelClosedError, guards_nothing
from hfsched.scenarios.mailbox import MailboxScenario


def finals(scenario: Counter, strategy: Exhaustive) -> tuple[Result, set[object]]:
    found: set[object] = set()

    def on_end(outcome: Outcome) -> None:
        if not outcome.pruned:
            found.add(outcome.final)

    return search(scenario, strategy, on_end=on_end), found


@pytest.mark.parametrize("strategy", [RandomWalk(3), Exhaustive(), Exhaustive(1)])
def test_a_lost_update_is_found(strategy: RandomWalk | Exhaustive) -> None:
    result = search(Counter(), strategy)
    assert result.failure is not None
    assert "an update was lost" in str(result.failure.failure)


def test_no_update_is_lost_without_a_preemption() -> None:
    result = search(Counter(), Exhaustive(0))
    assert result.complete
    assert result.failure is None


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("sleep", [True, False])
def test_the_lock_is_proved(*, cache: bool, sleep: bool) -> None:
    result, found = finals(Counter(locked=True, tasks=3), Exhaustive(cache=cache, sleep=sleep))
    assert result.complete
    assert result.failure is None
    assert found == {3}


def test_sleep_sets_and_the_cache_spare_executions() -> None:
    plain = search(Counter(locked=True, tasks=3), Exhaustive(cache=False, sleep=False))
    spared = search(Counter(locked=True, tasks=3), Exhaustive())
    assert spared.executions * 5 < plain.executions


def test_the_same_seed_is_the_same_schedule() -> None:
    one, two = (execute(Counter(locked=True), RandomWalk(7), tracing=True) for _ in range(2))
    assert one.trace == two.trace
    assert one.trace_hash == two.trace_hash


def test_a_shared_value_that_nothing_orders_is_a_race() -> None:
    outcome = execute(Racy(), RandomWalk(1))
    assert isinstance(outcome.failure, RaceError)


@pytest.mark.parametrize("blind", [True, False])
def test_another_partys_lock_orders_accesses_unless_it_is_blind(*, blind: bool) -> None:
    class Hidden:
        name = "hidden"

        def build(self, runtime: ExploreRuntime) -> World:
            flag = runtime.shared("flag", value=False)
            lock = runtime.lock("hypervisor", state=guards_nothing)

            def write() -> None:
                with lock:
                    pass
                flag.value = True
                with lock:
                    pass

            runtime.spawn("a", write)
            runtime.spawn("b", write)
            if blind:
                runtime.declare_unordered("hyper*")
            return World()

    ordered = Replay(Schedule())  # one after the other: the lock orders them
    outcome = execute(Hidden(), ordered)
    assert isinstance(outcome.failure, RaceError) is blind


def test_guarded_state_that_changes_without_its_lock_is_found() -> None:
    class UnguardedChangeError:
        name = "torn"

        def build(self, runtime: ExploreRuntime) -> World:
            box = [0]
            lock = runtime.lock("box", state=lambda: tuple(box))

            def work() -> None:
                with lock:
                    box[0] += 1
                box[0] += 1
                with lock:
                    pass

            runtime.spawn("a", work)
            return World()

    result = search(UnguardedChangeError(), Exhaustive())
    assert result.failure is not None
    assert "while no task held it" in str(result.failure.failure)


def test_a_timer_hides_a_sleep_that_its_absence_shows() -> None:
    @dataclass
    class Sleeper:
        timers: bool
        name: str = "sleeper"

        def build(self, runtime: ExploreRuntime) -> World:
            event = runtime.event("never")
            woken: list[bool] = []
            runtime.spawn("a", lambda: woken.append(event.wait(10)))

            def check() -> None:
                assert woken, "it sleeps for ever"

            return World(check, timers=self.timers)

    assert search(Sleeper(timers=True), Exhaustive()).failure is None
    assert search(Sleeper(timers=False), Exhaustive()).failure is not None


@pytest.mark.parametrize("polite", [True, False])
def test_two_that_wait_for_each_other_for_ever_are_a_livelock(*, polite: bool) -> None:
    """Each yields while the other's flag is up; with a third who lowers one, they get through."""

    class Polite:
        name = "polite"

        def build(self, runtime: ExploreRuntime) -> World:
            flags = [runtime.cell(f"flag.{n}", value=True) for n in range(2)]

            def wait(own: int, other: int) -> None:
                while flags[other].get():
                    runtime.retain_only()
                    runtime.checkpoint("yield")
                flags[own].set(False)

            runtime.spawn("a", lambda: wait(0, 1))
            runtime.spawn("b", lambda: wait(1, 0))
            if not polite:
                runtime.spawn("c", lambda: flags[0].set(False))
            return World()

    result = search(Polite(), Exhaustive())
    if polite:
        assert result.failure is not None
        assert isinstance(result.failure.failure, LivelockError)
    else:
        assert result.complete
        assert result.failure is None


@pytest.mark.parametrize("lets_go", [True, False])
def test_a_lock_that_is_let_go_of_again_and_again_is_got_by_who_waits(*, lets_go: bool) -> None:
    """One polls a flag under a lock; the other needs the lock to raise it."""

    class Polls:
        name = "polls"

        def build(self, runtime: ExploreRuntime) -> World:
            up: list[bool] = []
            lock = runtime.lock("lock", state=lambda: len(up))

            def look() -> bool:
                runtime.checkpoint("look")
                return bool(up)

            def poll() -> None:
                if lets_go:
                    while True:
                        with lock:
                            if look():
                                return
                        runtime.retain_only()
                with lock:
                    while not look():
                        runtime.retain_only()

            def lift() -> None:
                with lock:
                    up.append(True)

            runtime.spawn("a", poll)
            runtime.spawn("b", lift)
            return World()

    result = search(Polls(), Exhaustive())
    if lets_go:
        assert result.complete
        assert result.failure is None
    else:
        assert result.failure is not None
        assert "livelock" in str(result.failure.failure)


def test_a_method_that_is_retained_is_called_only_where_states_are_compared() -> None:
    called: list[int] = []

    class Counts:
        name = "counts"

        def build(self, runtime: ExploreRuntime) -> World:
            box = [0]

            class Box:
                def key(self) -> int:
                    called.append(box[0])
                    return box[0]

            cell = runtime.cell("c", 0)

            def work() -> None:
                for _ in range(2):
                    cell.get()
                    box[0] += 1
                    runtime.retain_only(Box().key)

            runtime.spawn("a", work)
            return World()

    assert search(Counts(), Exhaustive(cache=False)).complete
    assert called == []
    assert search(Counts(), Exhaustive()).complete
    assert called == [1, 2]


def test_a_process_may_die_at_any_point_and_its_peer_reads_the_end() -> None:
    ends: set[tuple[bytes, ...]] = set()

    class Death:
        name = "death"

        def build(self, runtime: ExploreRuntime) -> World:
            here, there = runtime.channel("c")
            got: list[bytes] = []

            def child(_: ExploreRuntime, end: object) -> None:
                assert end is there
                there.send(b"1")
                there.send(b"2")

            def parent() -> None:
                try:
                    while (message := here.recv()) is not None:
                        got.append(message[0])
                except ChannelClosedError:
                    ends.add(tuple(got))

            process = runtime.process("child", child, [there])
            runtime.may_die(process)
            runtime.spawn("parent", parent)
            return World()

    assert search(Death(), Exhaustive()).failure is None
    assert ends == {(), (b"1",), (b"1", b"2")}


@pytest.mark.parametrize("strategy", [RandomWalk(1), Exhaustive(), Exhaustive(1)])
def test_the_lost_wake_up_of_the_upstream_driver_is_found(
    strategy: RandomWalk | Exhaustive,
) -> None:
    result = search(MailboxScenario(variant="upstream"), strategy)
    assert result.failure is not None
    assert "lost wake-up: unread message, all vCPUs asleep" in str(result.failure.failure)


def test_the_lost_wake_up_needs_a_preemption() -> None:
    result = search(MailboxScenario(variant="upstream"), Exhaustive(0))
    assert result.complete
    assert result.failure is None
