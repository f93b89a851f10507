"""Monitors that die, do not start, or fail and say why."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence

import pytest
from progress import QUIET, QUIET_NS

from hfsched.runtime.base import End, Process
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.client import client, supervisor
from hfsched.swap.client.client import MonitorClient
from hfsched.swap.client.errors import LostError, SwapError
from hfsched.swap.client.supervisor import STARTS
from hfsched.swap.core.resources import Resources
from hfsched.swap.protocol.messages import State

from . import programs
from .clientworld import SECOND, Suspendable, World, begin
from .fakes import FakeRuntime, Plan

# Deaths.


DEATHS = [
    (request, when)
    for request in ("enable", "zapped", "out", "disable", "status", "exit")
    for when in ("before", "after", "mad")
    # The first is its end; the second may have been done already, and is refused then.
    if (request, when) not in (("exit", "after"), ("out", "mad"))
]


@pytest.mark.parametrize(("request_", "when"), DEATHS)
def test_a_monitor_may_die_of_any_request(worlds: list[World], request_: str, when: str) -> None:
    world = begin(worlds, Plan(request_, when))
    assert world.client.enable() == 1500
    assert world.client.status().state is State.PENDING
    world.client.swap_out()
    world.runtime.wait_for("out")
    world.client.disable()
    world.wait_until(State.READY)
    world.client.close()
    assert world.log.count("take-over") == 1
    assert world.runtime.pages.resident == 1500


def test_a_death_between_requests_is_noticed(worlds: list[World]) -> None:
    world = begin(worlds, Plan("status", "after"))
    world.client.status()
    world.runtime.wait_for("register 1 zapped")
    assert world.log == ["status", "begin", "take-over", "register 0 zapped", "register 1 zapped"]


def test_a_successor_is_told_which_members_have_zapped(worlds: list[World]) -> None:
    world = begin(worlds, Plan("zapped", "after"))
    world.client.enable()
    assert "register 0 zapped" in world.log
    assert "register 1" in world.log
    assert world.log.count("enable") == 2  # the successor has unstaged what was marked
    assert world.client.status().state is State.PENDING


@pytest.mark.parametrize("move", ["trim", "out", "disable"])
def test_a_move_that_was_accepted_is_asked_for_again(worlds: list[World], move: str) -> None:
    world = begin(worlds, Plan(move, "after"))
    world.client.enable()
    if move == "trim":
        world.client.trim()
    elif move == "out":
        world.client.swap_out()
    else:
        world.client.disable()
    world.runtime.wait_for(move, 2)
    ends = {"trim": State.PENDING, "out": State.ACTIVE, "disable": State.READY}
    world.wait_until(ends[move])


def test_an_enable_cancels_the_accepted_move(worlds: list[World]) -> None:
    world = begin(worlds, Plan("collect", "after"))
    world.client.enable()
    world.client.swap_out()
    world.wait_until(State.ACTIVE)
    world.client.enable()
    world.client.collect()
    world.runtime.wait_for("register 1 zapped")
    assert world.client.status().state is State.ACTIVE  # nothing was left to stage
    assert world.log.count("out") == 1


@pytest.mark.parametrize(("number", "dead", "lost"), [(0, False, 1), (0, True, 0), (1, False, 0)])
def test_a_member_that_a_new_monitor_refuses_is_removed(
    worlds: list[World], number: int, dead: bool, lost: int
) -> None:
    world = begin(worlds, Plan("status", "before"))
    world.members[number].dead = dead
    world.runtime.refuses.add(number)
    assert world.client.status().members == 1
    assert len(world.lost) == lost


def test_a_request_that_kills_every_monitor_is_an_error(worlds: list[World]) -> None:
    world = begin(worlds, *[Plan("trim", "before")] * 3)
    with pytest.raises(SwapError, match="trim: 3 monitors have died of it"):
        world.client.trim()
    assert world.client.status().state is State.READY
    assert not world.lost


def test_a_monitor_is_replaced_for_as_long_as_it_takes(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START_AGAIN", SECOND // 1000)
    world = begin(worlds, Plan("status", "before"), *[Plan("begin", "before")] * 5 * STARTS)
    assert world.client.status().state is State.READY
    assert not world.lost


def test_a_first_monitor_that_does_not_start_is_an_error_and_every_request_too(
    worlds: list[World],
) -> None:
    worlds.append(World(*[Plan("begin", "before")] * STARTS))
    world = worlds[0]
    with pytest.raises(
        LostError, match=r"^swap: the monitor does not start: it died before it served faults$"
    ) as error:
        world.client.start()
    status = world.client.status()
    assert (status.state, status.error) == (State.FAILED, str(error.value))
    with pytest.raises(LostError):
        world.client.enable()
    assert world.log[-1] == "resume"


def test_a_request_keeps_its_deadline_while_a_monitor_is_being_started(
    worlds: list[World],
) -> None:
    world = begin(worlds, Plan("status", "before"), Plan("begin", "deaf"))
    with pytest.raises(
        SwapError, match=r"^status: a monitor is being started, and does not serve yet$"
    ):
        world.client.status(world.runtime.now() + SECOND // 50)
    with pytest.raises(SwapError, match=r"^disable: a monitor is being started, and does not"):
        world.client.disable(deadline=world.runtime.now() + SECOND // 50)
    assert len(world.runtime.monitors) == 2  # it is waited for, however long it takes
    world.runtime.monitors[1].kill()
    assert world.client.status().state is State.READY
    assert not world.lost


class Slow(FakeRuntime):
    """While `go` is not set, the start of a process does not end."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def process(
        self, name: str, main: Callable[..., None], ends: Sequence[End], *, outlives: bool = False
    ) -> Process:
        if not self.go.is_set():
            self.note("starts")
        assert self.go.wait(QUIET)
        return super().process(name, main, ends, outlives=outlives)


@pytest.mark.parametrize("command", ["trim", "enable", "status"])
def test_a_request_keeps_its_deadline_while_a_process_is_being_started(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """As where the spawner is stopped: the client's task waits for it, beyond all deadlines."""
    monkeypatch.setattr(client, "_LATE", SECOND // 1000)
    runtime = Slow()
    worlds.append(World(runtime=runtime))
    world = worlds[0].start()
    runtime.go.clear()
    runtime.monitors[0].kill()
    runtime.wait_for("starts")
    ask = getattr(world.client, command)
    with pytest.raises(SwapError, match=r"a monitor is being started, and does not serve yet$"):
        ask(deadline=runtime.now() + SECOND // 50)
    with pytest.raises(SwapError, match="another request did not end in time"):
        world.client.trim(deadline=runtime.now() + SECOND // 50)
    runtime.go.set()
    world.wait_until(State.READY)
    assert world.client.enable() == 1500


def test_an_enable_that_is_not_waited_for_is_undone(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor has staged the pages when it dies: a request of its own is under way then."""
    monkeypatch.setattr(client, "_LATE", SECOND // 1000)
    runtime = Slow()
    worlds.append(World(runtime=runtime))
    world = worlds[0].start()
    zap = world.members[0].zap

    def dies() -> None:
        zap()
        runtime.go.clear()
        runtime.monitors[0].kill()
        runtime.wait_for("starts")

    monkeypatch.setattr(world.members[0], "zap", dies)
    with pytest.raises(SwapError, match="zapped: a monitor is being started"):
        world.client.enable(deadline=runtime.now() + SECOND // 10)
    monkeypatch.setattr(world.members[0], "zap", zap)
    runtime.go.set()
    world.wait_until(State.READY)


def test_what_short_descriptors_did_is_reported_at_the_deadline(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START_AGAIN", SECOND // 1000)
    world = begin(worlds, Plan("status", "before"))
    world.runtime.no_process += [OSError(errno.EMFILE, "too many open files")] * 100_000
    with pytest.raises(SwapError, match=r"does not serve yet \(too many open files\)$"):
        world.client.status(world.runtime.now() + SECOND // 20)
    world.runtime.no_process.clear()
    assert world.client.status().state is State.READY


def test_a_monitor_is_set_up_though_no_request_comes(worlds: list[World]) -> None:
    world = begin(worlds)
    world.runtime.monitors[0].kill()
    world.runtime.wait_for("register 1 zapped")
    assert world.log == ["begin", "take-over", "register 0 zapped", "register 1 zapped"]


# Failures: a monitor says why, and ends.


def out(world: World) -> None:
    world.client.enable()
    world.client.swap_out()
    world.wait_until(State.ACTIVE)
    world.log.clear()


def test_after_a_failure_everything_is_brought_in_and_the_move_is_not_repeated(
    world: World,
) -> None:
    world.client.enable()
    world.log.clear()
    world.runtime.pages.bugs = 1
    world.client.trim()
    world.wait_until(State.READY)
    assert world.log.count("disable") == 1
    assert world.log.count("trim") == 1
    assert world.runtime.pages.resident == 1500
    assert world.client.status().error == "RuntimeError: slot 3 is used twice"
    world.client.enable()
    assert world.client.status().error == ""


def test_after_a_second_failure_pages_stay_and_the_next_disable_tries_again(world: World) -> None:
    out(world)
    world.runtime.pages.bugs = 2
    world.client.disable()
    world.runtime.wait_for("take-over", 2)
    status = world.client.status()
    assert (status.state, status.metrics.file) == (State.ACTIVE, 1500)
    assert status.error == "RuntimeError: slot 3 is used twice"
    assert world.log.count("disable") == 2
    world.client.disable()
    world.wait_until(State.READY)
    assert world.runtime.pages.resident == 1500
    assert world.client.status().error == ""


def test_a_request_that_a_monitor_fails_at_is_an_error_and_is_not_repeated(world: World) -> None:
    out(world)
    world.runtime.pages.bugs = 1
    with pytest.raises(SwapError, match=r"^enable: the monitor has failed: RuntimeError: slot 3"):
        world.client.enable()
    world.wait_until(State.READY)
    assert world.log.count("enable") == 1


def test_a_failed_monitor_that_is_to_discard_is_killed(world: World) -> None:
    out(world)
    world.runtime.pages.bugs = 1
    world.client.close(discard=True)


def test_only_enable_is_refused_after_the_death_of_a_static_member(world: World) -> None:
    out(world)
    world.members[0].dead = True
    world.runtime.gone += [0, 1]
    assert world.client.collect() == (0, 1)
    with pytest.raises(SwapError, match=r"^enable: member 0 is dead, and was not allowed to die$"):
        world.client.enable()
    world.client.disable()
    world.wait_until(State.READY)


def test_a_monitor_that_cannot_begin_is_reported(worlds: list[World]) -> None:
    worlds.append(World())
    worlds[0].runtime.cannot_begin = ValueError("resources table")
    with pytest.raises(LostError, match=r"does not start: begin: ValueError: resources table"):
        worlds[0].start()
    assert len(worlds[0].runtime.monitors) == 1


def test_a_monitor_that_descriptors_are_short_for_is_started_again(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START_AGAIN", SECOND // 1000)
    world = begin(worlds)
    world.runtime.cannot_begin = OSError(24, "too many open files")
    world.runtime.monitors[0].kill()
    world.runtime.wait_for("take-over", 2 * STARTS)
    world.runtime.cannot_begin = None
    assert world.client.status().state is State.READY
    assert not world.lost


def test_a_monitor_is_a_process_that_gets_the_same_descriptors_as_its_successor() -> None:
    runtime = ThreadRuntime()
    reader, writer = os.pipe()
    suspendable = Suspendable(FakeRuntime())
    client = MonitorClient(runtime, programs.monitor, suspendable, Resources(("log",), (writer,)))
    client.start()
    process = client.supervisor._process
    assert process is not None
    assert client.status().state is State.READY
    process.kill()
    assert process.join(runtime.now() + QUIET_NS)
    assert client.status().state is State.READY
    client.close()
    os.close(writer)
    assert os.read(reader, 9) == b"FT"
    os.close(reader)
