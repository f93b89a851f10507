"""What a story says: lanes, order, arrows, and where it went wrong."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hfsched.explore.execution import execute
from hfsched.explore.explain.no_return import Replayed, point_of_no_return
from hfsched.explore.explain.recorder import Recorder
from hfsched.explore.explain.story import (
    FAILED_HERE,
    NO_RETURN,
    RecordedScenario,
    Story,
    record_story,
)
from hfsched.explore.registry import find
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.walk import RandomWalk

from .conftest import failing, story_of


@dataclass
class Counter:
    """Two tasks that add in two steps; without a lock an update can be lost."""

    name: str = "counter"
    text: str = "an update was lost"

    def build(self, runtime: ExploreRuntime) -> World:
        cell = runtime.cell("n", 0)

        def add() -> None:
            cell.set(cell.get() + 1)

        for number in range(2):
            runtime.spawn(f"add.{number}", add)

        def check() -> None:
            assert cell.get() == 2, self.text

        return World(check)


def places(story: Story, *words: str) -> list[int]:
    """Return the step that says each of `words` (lane, then text), in their order."""
    found = []
    steps = iter(story.steps)
    for word in words:
        lane, _, text = word.partition(": ")
        found.append(
            next(step.index for step in steps if step.lane == lane and text in step.description)
        )
    return found


def test_the_lost_wake_up_reads_in_order(upstream: Story) -> None:
    assert upstream.lanes == ("host.0", "thread g.0", "hypervisor", "guest g.0")
    places(
        upstream,
        "guest g.0: MSG_WAIT",
        "hypervisor: waits for a message",
        "host.0: send 2 bytes to g: sent",
        "host.0: reads g.0.waiting: False",
        "host.0: inject MAILBOX_READABLE into g.0: not enabled",
        "thread g.0: g.0.waiting = True",
        "thread g.0: reads g.0.abort_sleep: False",
        "thread g.0: sleeps, waiting for g.0.thread",
    )
    assert len(upstream.steps) <= 40
    assert upstream.failure == "lost wake-up: unread message, all vCPUs asleep"
    assert "thread g.0 sleeps" in upstream.steps[-1].text


def test_it_went_wrong_where_the_flag_was_read(upstream: Story) -> None:
    (wrong,) = [step for step in upstream.steps if step.marked]
    assert wrong.marked == NO_RETURN
    assert wrong.text == "reads g.0.waiting: False"
    assert wrong.lane == "host.0"


def test_its_one_preemption_is_shown_before_that(upstream: Story) -> None:
    assert upstream.preemptions == 1
    (switch,) = [step for step in upstream.steps if step.preemption]
    (wrong,) = [step for step in upstream.steps if step.marked]
    assert switch.preemption == "preemption: host.0 runs instead of thread g.0"
    assert switch.index <= wrong.index


def test_arrows_go_from_who_acts_to_whom(upstream: Story) -> None:
    arrows = {step.arrow.label: step.arrow for step in upstream.steps if step.arrow is not None}
    assert (arrows["RUN g.0"].source, arrows["RUN g.0"].target) == ("thread g.0", "hypervisor")
    assert (arrows["FFA_MSG_WAIT"].source, arrows["FFA_MSG_WAIT"].target) == (
        "guest g.0",
        "hypervisor",
    )
    sent = arrows["send 2 bytes to g: sent"]
    assert (sent.source, sent.target) == ("host.0", "hypervisor")
    assert all(arrow.source in upstream.lanes for arrow in arrows.values())
    assert all(arrow.target in upstream.lanes for arrow in arrows.values())


def test_the_state_beside_is_the_state_after_the_step(upstream: Story) -> None:
    assert {"g mailbox", "g.0.waiting", "g.0 pending"} <= set(upstream.columns)
    sent = [step for step in upstream.steps if step.description.startswith("send 2")][-1]
    assert sent.state["g mailbox"] == "received"
    assert "g mailbox" in sent.changed
    assert "g mailbox" not in upstream.steps[-1].changed
    assert upstream.steps[-1].state["g mailbox"] == "received"


def test_the_mirror_is_beside_the_driver_that_ships() -> None:
    for seed in range(20):
        scenario = find("mailbox,receiver=echo,vcpus=1,messages=2")
        story = record_story(scenario, RandomWalk(seed))
        assert story.failure is None
        assert not any(step.marked for step in story.steps)
        assert "g.0 mirror" in story.columns
        assert story.steps[-1].state["g mailbox"] == "empty"
        places(story, "host.0: send", "hypervisor: a message of 2 bytes", "guest g.0: RX_RELEASE")


def test_calls_are_told_with_their_arguments_by_the_names_of_the_dialect() -> None:
    scenario = find("mailbox,receiver=trusty,messages=1,guests=1,boot=true")
    recorded = [
        step.arrow.label for step in record_story(scenario, RandomWalk(1)).steps if step.arrow
    ]
    assert "HF_INTERRUPT_ENABLE intid=MAILBOX_WRITABLE on=1" in recorded
    assert "HF_INTERRUPT_ENABLE intid=9 on=1" in recorded
    assert "FFA_MSG_SEND sender=s0 receiver=g size=2 notify=1" in recorded
    assert "FFA_RX_RELEASE" in recorded
    assert "a message of 2 bytes from s0" in recorded


def test_a_scenario_that_knows_of_no_stories_has_one() -> None:
    story = story_of(Counter())
    assert story.lanes == ("add.0", "add.1")
    assert story.columns == ("n",)
    description = [(step.lane, step.text) for step in story.steps]
    assert description == [
        ("add.0", "reads n: 0"),
        ("add.1", "reads n: 0"),
        ("add.1", "n = 1"),
        ("add.0", "n = 1"),
        ("", "all tasks have ended"),
    ]
    assert [step.state["n"] for step in story.steps] == ["0", "0", "1", "1", "1"]
    assert [step.index for step in story.steps if step.marked] == [2]


def test_notes_and_words_to_watch_are_the_scenarios_own() -> None:
    class Post:
        name = "post"

        def build(self, runtime: ExploreRuntime) -> World:
            boxes: list[str] = []

            def work() -> None:
                runtime.checkpoint("a letter")
                boxes.append("letter")
                runtime.note("posts a letter", to="box")

            runtime.spawn("writer", work)
            return World(watch=lambda: {"letters": str(len(boxes))})

    story = record_story(Post(), RandomWalk(1))
    (step, end) = story.steps
    assert story.lanes == ("writer", "box")
    assert step.arrow is not None
    assert (step.arrow.source, step.arrow.target) == ("writer", "box")
    assert step.arrow.label == "posts a letter"
    assert end.state == {}  # what never changes while it is recorded needs no column


def test_a_task_that_raises_is_the_end_and_has_its_traceback() -> None:
    class Broken:
        name = "broken"

        def build(self, runtime: ExploreRuntime) -> World:
            def work() -> None:
                runtime.checkpoint("so far")
                raise ValueError("no such thing")

            runtime.spawn("worker", work)
            return World()

    story = record_story(Broken(), RandomWalk(1))
    assert story.failure == "ValueError: no such thing"
    assert "Traceback" in story.detail
    assert story.steps[-1].text == "raises ValueError"
    assert story.steps[-1].marked == FAILED_HERE  # no decision is to blame


def test_processes_channels_choices_and_time_have_their_steps() -> None:
    class Parts:
        name = "parts"

        def build(self, runtime: ExploreRuntime) -> World:
            here, there = runtime.channel("c")

            def child(_: ExploreRuntime, end: object) -> None:
                there.send(b"hello")

            def parent() -> None:
                here.recv()
                runtime.choose("door", 2)
                runtime.sleep_until(5)

            runtime.process("child", child, [there])
            runtime.spawn("parent", parent)
            return World()

    story = record_story(Parts(), RandomWalk(4))
    description = "\n".join(f"{step.lane}: {step.description}" for step in story.steps)
    for words in (
        "child: sends b'hello' to c.left",
        "parent: receives b'hello' from c.left",
        "parent: chooses door: ",
        "parent: sleeps until 5 ns",
        "clock: time passes",
        "parent: wakes up",
    ):
        assert words in description


@pytest.mark.parametrize("seed", range(5))
def test_a_story_changes_nothing(seed: int) -> None:
    """The schedule recorded is the schedule that runs without a recorder."""
    scenario = find("mailbox,receiver=trusty,vcpus=1,messages=1")
    plain = execute(scenario, RandomWalk(seed), tracing=True)
    recorder = Recorder(RandomWalk(seed))
    recorded = execute(RecordedScenario(scenario, recorder), recorder, tracing=True)
    assert recorder.rows
    assert recorded.trace == plain.trace
    assert recorded.trace_hash == plain.trace_hash


def test_the_point_of_no_return_is_the_first() -> None:
    scenario = Counter()
    decisions = failing(scenario, 1)
    assert decisions is not None
    turning = point_of_no_return(scenario, decisions)
    assert turning is not None
    good = [
        execute(scenario, Replayed(decisions[:turning], RandomWalk(seed))).failure is None
        for seed in range(50)
    ]
    assert any(good)
    bad = [
        execute(scenario, Replayed(decisions[: turning + 1], RandomWalk(seed))).failure is None
        for seed in range(50)
    ]
    assert not any(bad)


def test_a_broken_invariant_is_told_after_the_step_that_broke_it() -> None:
    class Guarded:
        name = "guarded"

        def build(self, runtime: ExploreRuntime) -> World:
            cell = runtime.cell("n", 0)

            def work() -> None:
                cell.set(1)
                cell.set(7)
                cell.set(2)

            def hold() -> None:
                assert cell.get() < 5, "n has grown too large"

            runtime.spawn("worker", work)
            return World(invariant=hold)

    story = record_story(Guarded(), RandomWalk(1))
    assert story.failure is not None
    assert story.failure.startswith("n has grown too large")
    assert [step.description for step in story.steps[-2:]] == [
        "n = 7",
        "the invariant does not hold",
    ]


class Spinning:
    """One spins until the other tells it to stop, which it does only if it looks in time."""

    name = "spinning"

    def build(self, runtime: ExploreRuntime) -> World:
        turn = runtime.cell("turn", 0)
        stop = runtime.cell("stop", value=False)

        def spin() -> None:
            while not stop.get():
                turn.set(1 - turn.get())

        def other() -> None:
            if turn.get() == 0:
                stop.set(True)

        runtime.spawn("spin", spin)
        runtime.spawn("other", other)
        return World()


def test_a_livelock_goes_round_once() -> None:
    story = next(
        story
        for seed in range(50)
        if (story := record_story(Spinning(), RandomWalk(seed))).failure is not None
    )
    assert len(story.steps) < 40
    assert story.points > 10_000
    (wrong,) = [step for step in story.steps if step.marked]
    assert wrong.text == "reads turn: 1"
    assert wrong.lane == "other"
    again, end = story.steps[-2:]
    assert again.text.startswith("the last 6 steps repeat ")
    assert end.text == "stopped: step limit exceeded"
    assert end.index > 10_000


def test_a_very_long_story_keeps_its_beginning_its_end_and_its_mark() -> None:
    class Long:
        name = "long"

        def build(self, runtime: ExploreRuntime) -> World:
            cell = runtime.cell("n", 0)
            doors: list[int] = []

            def work() -> None:
                for number in range(2000):
                    cell.set(number)
                    if number == 1000:
                        doors.append(runtime.choose("door", 2))

            def check() -> None:
                assert doors == [0], "it went through the other door"

            runtime.spawn("worker", work)
            return World(check)

    story = next(
        story
        for seed in range(50)
        if (story := record_story(Long(), RandomWalk(seed))).failure is not None
    )
    assert len(story.steps) < 500
    assert story.steps[0].text == "n = 0"
    assert any("steps are hidden here" in step.text for step in story.steps)
    assert [step.text for step in story.steps if step.marked] == ["chooses door: 1 of 2"]
    assert story.steps[-2].text == "n = 1999"
