"""A task that blocks outside the runtime is named, and the search ends."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import HOLDS, said

from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.runtime.threads import stalls

TOP = Path(__file__).resolve().parents[2]
BEGINS = "task {} does not come back to the runtime: it blocks or spins outside it, at "


def _lock(runtime: ExploreRuntime) -> World:
    lock = threading.Lock()

    def work() -> None:
        with lock:
            runtime.checkpoint("inside")

    runtime.spawn("a", work)
    runtime.spawn("b", work)
    return World()


def _event(runtime: ExploreRuntime) -> World:
    event = threading.Event()
    runtime.spawn("a", lambda: (event.wait(), None)[1])
    runtime.spawn("b", event.set)
    return World()


def _condition(runtime: ExploreRuntime) -> World:
    condition = threading.Condition()

    def wait() -> None:
        with condition:
            condition.wait()

    runtime.spawn("a", wait)
    return World()


def _queue(runtime: ExploreRuntime) -> World:
    jobs: queue.Queue[int] = queue.Queue()
    runtime.spawn("a", lambda: (jobs.get(), None)[1])
    runtime.spawn("b", lambda: jobs.put(1))
    return World()


def _swallow(runtime: ExploreRuntime) -> World:
    """The code catches what it can."""
    event = threading.Event()

    def wait() -> None:
        try:
            event.wait()
        except Exception:  # noqa: BLE001 - as careless code does
            runtime.checkpoint("as if nothing was")

    runtime.spawn("a", wait)
    return World()


@pytest.mark.parametrize(
    ("make", "task", "where"),
    [
        (_lock, "b", ": with lock:"),
        (_event, "a", "(in threading.Event.wait)"),
        (_condition, "a", ": condition.wait() (in threading.Condition.wait)"),
        (_queue, "a", "(in queue.Queue.get)"),
        (_swallow, "a", ": event.wait() (in threading.Event.wait)"),
    ],
)
@pytest.mark.parametrize("strategy", ["exhaustive", "pos"])
def test_what_blocks_is_named_with_its_line(
    make: Callable[[ExploreRuntime], World], task: str, where: str, strategy: str
) -> None:
    found = said(make, strategy, 50)
    if (make, strategy) in ((_event, "pos"), (_queue, "pos")):
        assert found.startswith(BEGINS.format("a"))
        return
    assert found.startswith((BEGINS.format(task), BEGINS.format("a"))), found
    assert "test_watchdog.py:" in found
    assert found.endswith(where)


def test_a_task_that_spins_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "SPIN", 300_000_000)
    box = [False]

    def make(runtime: ExploreRuntime) -> World:
        def spin() -> None:
            while not box[0]:
                pass

        runtime.spawn("spinner", spin)
        return World()

    assert said(make).startswith(BEGINS.format("spinner") + "test_watchdog.py:")


def test_a_step_that_takes_its_time_is_no_such_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses a processor for longer than a blocked one would be given."""
    monkeypatch.setattr(stalls, "PATIENCE", 2)

    def make(runtime: ExploreRuntime) -> World:
        def compute() -> None:
            end = time.thread_time() + 3 * stalls.TICK
            while time.thread_time() < end:
                sum(range(1000))

        runtime.spawn("a", compute)
        return World()

    assert said(make) == HOLDS


MINE = """
import threading
from hfsched.explore import World, test

@test(strategy="exhaustive")
def held(runtime):
    lock = threading.Lock()
    def work():
        with lock:
            runtime.checkpoint("inside")
    for name in "ab":
        runtime.spawn(name, work)
    return World()
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_command_ends_and_says_so(tmp_path: Path, jobs: int) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    done = subprocess.run(
        [sys.executable, "-m", "hfsched", "fuzz", "mine.py::held", "--strategy", "exhaustive",
         "--budget", "40s", "--jobs", str(jobs)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "blocks or spins outside it, at mine.py:9: with lock:" in done.stdout


def test_an_explorer_in_another_thread_ends_its_process(tmp_path: Path) -> None:
    """No signal can interrupt it there: the words are the last of the process."""
    (tmp_path / "mine.py").write_text(MINE)
    code = (
        "import threading, mine\n"
        "from hfsched.explore.execution import search\n"
        "from hfsched.explore.strategies.exhaustive import Exhaustive\n"
        "it = threading.Thread(target=lambda: search(mine.held.hfsched_scenario(), Exhaustive()))\n"
        "it.start()\n"
        "it.join()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{TOP}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "task b does not come back to the runtime" in done.stderr
    assert "mine.py:9: with lock:" in done.stderr
