"""Replays: the same again, or a clear word that it is not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from worlds import (
    UPSTREAM,
    Counter,
    Fickle,
    Polite,
    Racy,
    Spins,
    Values,
    find_failure,
)

from hfsched.errors import UserError
from hfsched.explore.controller import StepsExceededError
from hfsched.explore.cycles import LivelockError
from hfsched.explore.races import RaceError
from hfsched.explore.registry import find
from hfsched.explore.replay import (
    DriftError,
    NondeterminismError,
    confirm,
    failure_text,
    kind,
    replay,
    run,
)
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.schedule import Schedule
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.token import Token, decode, encode

LOST = Schedule(((2, 2),))  # Counter: the second comes in when the first has read


# A token, from its making to its replay.


@pytest.mark.parametrize("strategy", ["random", "pos", "bounded", "exhaustive"])
def test_a_tokens_failure_comes_again(strategy: str) -> None:
    finding = find_failure(find(UPSTREAM), make(strategy, 1))
    scenario, outcome = replay(finding.token)
    assert scenario == find(UPSTREAM)
    assert str(outcome.failure) == str(finding.failure)
    assert outcome.trace_hash == decode(finding.token).trace


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_a_replay_is_the_same_in_another_process_and_hash_seed(seed: str) -> None:
    finding = find_failure(find(UPSTREAM), Exhaustive())
    code = (
        "import sys; from hfsched.explore.replay import replay, failure_text\n"
        "_, outcome = replay(sys.argv[1])\n"
        "print(outcome.trace_hash, outcome.steps, failure_text(outcome.failure))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, finding.token],
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    _, outcome = replay(finding.token)
    assert outcome.failure is not None
    said = failure_text(outcome.failure)
    assert done.stdout == f"{outcome.trace_hash} {outcome.steps} {said}\n"


def test_a_scenario_of_ones_own_may_be_given() -> None:
    finding = find_failure(Counter())
    assert "an update was lost" in str(replay(finding.token, Counter())[1].failure)


def test_a_schedule_may_be_given_with_its_scenario() -> None:
    assert "an update was lost" in str(replay(LOST, Counter())[1].failure)
    assert replay(Schedule(), Counter())[1].failure is None
    with pytest.raises(UserError, match="needs a scenario"):
        replay(LOST)
    with pytest.raises(UserError, match="another scenario or code: decision 0"):
        replay(Schedule(((0, 9),)), Counter())


def test_a_token_of_a_good_end_is_replayed_too() -> None:
    outcome = run(Counter(), Schedule()).outcome
    assert outcome.trace_hash is not None
    token = encode(Token("counter", Schedule(), outcome.trace_hash))
    assert replay(token, Counter())[1].failure is None


def test_an_exception_of_the_code_is_a_failure_with_its_traceback() -> None:
    finding = find_failure(Values(of=4))
    assert isinstance(replay(finding.token, Values(of=4))[1].failure, KeyError)
    assert finding.text == "KeyError: 'the pair'"
    assert "in work" in finding.detail


def test_an_oracles_word_needs_no_traceback() -> None:
    finding = find_failure(find(UPSTREAM))
    assert finding.text == "lost wake-up: unread message, all vCPUs asleep"
    assert not finding.detail


def test_a_run_without_end_is_replayed_to_the_same_step() -> None:
    finding = find_failure(Spins())
    assert isinstance(finding.failure, StepsExceededError)
    assert isinstance(replay(finding.token, Spins())[1].failure, StepsExceededError)


@pytest.mark.parametrize("strategy", [Exhaustive(), Exhaustive(0)])
def test_a_livelock_is_looked_for_again(strategy: Exhaustive) -> None:
    finding = find_failure(Polite(), strategy)
    assert finding.schedule.cycles
    assert isinstance(replay(finding.token, Polite())[1].failure, LivelockError)


def test_a_race_is_looked_for_again() -> None:
    finding = find_failure(Racy())
    assert isinstance(finding.failure, RaceError)
    assert finding.schedule.races
    assert isinstance(replay(finding.token, Racy())[1].failure, RaceError)


# What no longer fits.


def test_code_that_takes_other_steps_has_drifted() -> None:
    token = encode(Token("counter", LOST, "00" * 8))
    with pytest.raises(DriftError, match=r"as the token recorded: trace .* an update was lost"):
        replay(token, Counter())


def test_code_in_which_a_task_cannot_go_on_has_drifted() -> None:
    """With the lock, the second cannot come in between."""
    locked = Counter(locked=True)
    trace = run(locked, Schedule()).outcome.trace_hash
    assert trace is not None
    token = encode(Token("counter", Schedule(((0, 1), (1, 0))), trace))
    with pytest.raises(DriftError, match="decision 1 is for task 0, but clock is not enabled"):
        replay(token, locked)


def test_code_that_ends_before_the_schedule_has_drifted() -> None:
    token = encode(Token("counter", Schedule(((50, 1),)), "00" * 8))
    with pytest.raises(DriftError, match="with 1 of 1 deviations not reached"):
        replay(token, Counter())


def test_code_that_takes_the_same_steps_to_another_end_has_drifted() -> None:
    """The oracle was repaired, or another exception is raised."""
    outcome = run(Counter(), LOST).outcome
    assert outcome.trace_hash is not None
    for end in ("0000", "abcd"):
        token = encode(Token("counter", LOST, outcome.trace_hash, end))
        with pytest.raises(DriftError, match="the steps are the same, but the end differs"):
            replay(token, Counter())


def test_another_scenario_than_the_one_given_is_refused() -> None:
    token = find_failure(Counter()).token
    with pytest.raises(UserError, match="of scenario 'counter', not of 'racy'"):
        replay(token, Racy())


@pytest.mark.parametrize(
    "spec",
    [
        "counter",
        "mailbox+best",
        "mailbox,hosts=-1",
        "mailbox,hosts",
        "no.such.module::A",
        "/no/such.py::A",
        "hfsched.errors::UserError",
        "::A",
        ".a::A",
        "\0.py::A",
        "",
    ],
)
def test_a_scenario_that_is_not_known_here_is_refused_in_one_line(spec: str) -> None:
    with pytest.raises(UserError) as caught:
        replay(encode(Token(spec, Schedule(), "00" * 8)))
    assert "the token's scenario is not known here: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_spec_that_is_not_the_canonical_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"'mailbox,hosts=1' is called 'mailbox' here"):
        replay(encode(Token("mailbox,hosts=1", Schedule(), "00" * 8)))


# What does not repeat.


def test_a_failure_that_repeats_is_confirmed_with_what_was_decided() -> None:
    finding = confirm(Counter(), LOST)
    assert finding.schedule == LOST
    assert finding.preemptions == 1
    assert finding.text.startswith("an update was lost")
    assert finding.text.isprintable()


def test_another_step_is_nondeterminism_and_named() -> None:
    finding = confirm(Fickle(lambda runtime: runtime.checkpoint("three")), Schedule())
    assert isinstance(finding.failure, NondeterminismError)
    assert finding.text == (
        "two runs of the same schedule differ: step 2 was first the end then 'a: checkpoint three'"
    )
    assert not finding.token


def test_a_step_of_another_kind_is_nondeterminism_and_named() -> None:
    builds = iter(range(9))

    class Other:
        name = "other"

        def build(self, runtime: ExploreRuntime) -> World:
            return Counter(tasks=2 + next(builds)).build(runtime)

    finding = confirm(Other(), Schedule())
    assert "step 4 was first the end then 'add.2: get n'" in finding.text


def test_another_failure_after_the_same_steps_is_nondeterminism() -> None:
    def other(_: ExploreRuntime) -> None:
        raise OSError("it breaks")

    finding = confirm(Fickle(other), Schedule())
    assert isinstance(finding.failure, NondeterminismError)
    assert "first ValueError: it fails then OSError: it breaks" in finding.text


def test_an_address_in_the_text_is_no_difference() -> None:
    class Addressed:
        name = "addressed"

        def build(self, runtime: ExploreRuntime) -> World:
            world = Counter().build(runtime)
            kept.append(object())

            def work() -> None:
                raise ValueError(f"{kept[-1]} is wrong")

            runtime.spawn("z", work)
            return world

    kept: list[object] = []
    finding = confirm(Addressed(), Schedule())
    assert isinstance(finding.failure, ValueError)
    assert finding.token


def test_what_failed_once_and_then_no_more_is_nondeterminism() -> None:
    finding = confirm(Counter(), Schedule(), AssertionError("an update was lost"))
    assert isinstance(finding.failure, NondeterminismError)
    assert finding.text == (
        "a schedule that failed (AssertionError: an update was lost) ended differently when repeated: "
        "no failure"
    )


def test_what_fails_twice_in_another_way_than_it_was_found_is_nondeterminism() -> None:
    finding = confirm(Counter(), LOST, ValueError("it was this"))
    assert isinstance(finding.failure, NondeterminismError)


def test_a_recorded_schedule_that_cannot_be_followed_is_nondeterminism() -> None:
    finding = confirm(Counter(), Schedule(((0, 9),)))
    assert isinstance(finding.failure, NondeterminismError)
    assert "could not be repeated: decision 0" in finding.text


def test_kinds_of_failures() -> None:
    assert kind(AssertionError("1 of 3")) == kind(AssertionError("2 of 10"))
    assert kind(ValueError("<A at 0x7fa0>")) == kind(ValueError("<A at 0x10b>"))
    assert kind(AssertionError("lost\nassert x")) == kind(AssertionError("lost\nassert y"))
    assert kind(AssertionError("lost")) != kind(AssertionError("late"))
    assert kind(AssertionError("lost")) != kind(ValueError("lost"))
    assert kind(LivelockError("a and b")) == kind(LivelockError("b and c"))
    assert kind(LivelockError("a and b")) != kind(StepsExceededError("20000 steps"))
