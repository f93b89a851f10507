"""A nudge during a suspension ends the wait for the resumption once, and not the wait after it."""

from __future__ import annotations

import pytest
from scripted import ParkedError, ScriptedEvent, ScriptedRuntime

from hfsched.mailbox.quiescence import Entry, Quiescence


class CountedEvent(ScriptedEvent):
    """An event that counts its clearings."""

    cleared = 0

    def clear(self) -> None:
        super().clear()
        self.cleared += 1


class CountedRuntime(ScriptedRuntime):
    """A runtime whose events count their clearings."""

    def event(self, name: str) -> CountedEvent:
        made = CountedEvent(self, name)
        self.everything.append(made)
        return made


def resumed(runtime: CountedRuntime) -> CountedEvent:
    (event,) = (each for each in runtime.everything if each.name == "g.resumed")
    assert isinstance(event, CountedEvent)
    return event


def test_a_host_sender_that_was_nudged_waits_again() -> None:
    quiescence = Quiescence(ScriptedRuntime(), "g")
    quiescence.suspend()
    assert quiescence.begin_send() is Entry.SUSPENDED
    quiescence.nudge()
    assert quiescence.wait_resumed(0)
    assert quiescence.begin_send() is Entry.SUSPENDED
    with pytest.raises(ParkedError):
        quiescence.wait_resumed()


def test_only_a_nudge_is_taken_back() -> None:
    runtime = CountedRuntime()
    quiescence = Quiescence(runtime, "g")
    event = resumed(runtime)
    quiescence.suspend()
    assert event.cleared == 1
    quiescence.before_wait()
    assert event.cleared == 1, "it was not nudged"
    quiescence.nudge()
    quiescence.before_wait()
    assert event.cleared == 2
    quiescence.before_wait()
    assert event.cleared == 2, "the nudge was taken back already"
