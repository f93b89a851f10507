"""A spawner, or a child, that hangs is replaced; one that is slow is waited for."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

from hfsched.runtime.threads import ThreadRuntime, progress

from .offspring import answered, spawner_of, started, stop
from .times import later

if TYPE_CHECKING:
    import pytest

    from hfsched.runtime.base import End, Process


def test_a_stopped_spawner_is_replaced(spawning_rt: ThreadRuntime) -> None:
    process, end = started(spawning_rt)
    stop(spawning_rt, process, end)
    pid = spawner_of(spawning_rt)
    os.kill(pid, signal.SIGSTOP)
    process, end = started(spawning_rt)
    assert answered(spawning_rt, end)
    assert spawner_of(spawning_rt) != pid
    stop(spawning_rt, process, end)


def test_a_spawner_that_uses_no_processor_time_is_replaced(
    spawning_rt: ThreadRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, end = started(spawning_rt)
    stop(spawning_rt, process, end)
    pid = spawner_of(spawning_rt)
    monkeypatch.setattr(progress, "STOPPED_AFTER", progress.STALLED_AFTER)
    monkeypatch.setattr(progress, "STALLED_AFTER", 200_000_000)
    os.kill(pid, signal.SIGSTOP)
    process, end = started(spawning_rt)
    assert answered(spawning_rt, end)
    assert spawner_of(spawning_rt) != pid
    stop(spawning_rt, process, end)


def test_a_slow_spawner_is_waited_for(
    spawning_rt: ThreadRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a millisecond now and then, and that is progress."""
    monkeypatch.setattr(progress, "STOPPED_AFTER", 150_000_000)
    monkeypatch.setattr(progress, "STALLED_AFTER", 600_000_000)
    process, end = started(spawning_rt)
    stop(spawning_rt, process, end)
    pid, over = spawner_of(spawning_rt), threading.Event()

    def starve() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(0.02)
            os.kill(pid, signal.SIGCONT)
            over.wait(0.0005)

    starver = spawning_rt.spawn("starver", starve)
    process, end = started(spawning_rt)
    assert answered(spawning_rt, end)
    over.set()
    assert starver.join(later(spawning_rt))
    assert spawner_of(spawning_rt) == pid
    stop(spawning_rt, process, end)


def test_a_stopped_spawner_that_cannot_be_replaced_is_waited_for(
    spawning_rt: ThreadRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "STOPPED_AFTER", 100_000_000)
    process, end = started(spawning_rt)
    stop(spawning_rt, process, end)
    spawning_rt.forbid_exec()
    pid = spawner_of(spawning_rt)
    os.kill(pid, signal.SIGSTOP)
    looks = count_looks(monkeypatch)
    got: list[tuple[Process, End]] = []
    starter = spawning_rt.spawn("starter", lambda: got.append(started(spawning_rt)))
    while looks[0] < 4:  # each is 0.1 s later
        spawning_rt.checkpoint("until it has been stopped for long")
    assert not got
    os.kill(pid, signal.SIGCONT)
    assert starter.join(later(spawning_rt))
    assert answered(spawning_rt, got[0][1])
    stop(spawning_rt, *got[0])


def test_the_runtime_closes_while_a_stopped_spawner_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = ThreadRuntime()
    stop(runtime, *started(runtime))
    runtime.forbid_exec()
    os.kill(spawner_of(runtime), signal.SIGSTOP)
    looks, why = count_looks(monkeypatch), [""]

    def start() -> None:
        try:
            started(runtime)
        except OSError as exc:
            why[0] = str(exc.strerror)

    starter = runtime.spawn("starter", start)
    while looks[0] < 2:
        runtime.checkpoint("until it is waited for")
    runtime.close()
    assert starter.join(later(runtime))
    assert why == ["the runtime is closed"]


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of looks at a child that is waited for, which goes on."""
    looks, is_stopped = [0], progress._is_stopped

    def count(pid: int) -> bool:
        looks[0] += 1
        return is_stopped(pid)

    monkeypatch.setattr(progress, "_is_stopped", count)
    return looks
