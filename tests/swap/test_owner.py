"""Main's side: the order of an enable, and monitors that die, say nothing, or talk nonsense."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from hfsched.errors import UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.client import supervisor as keeper
from hfsched.swap.client.client import Owner
from hfsched.swap.client.errors import LostError, SwapError
from hfsched.swap.client.supervisor import STARTS
from hfsched.swap.core.resources import Resources
from hfsched.swap.protocol.messages import State

from . import programs
from .fakes import FakeMember, Harness, Plan

SECOND = 1_000_000_000
ENABLE = ["suspend", "enable", "zap 0", "zapped 0", "zap 1", "zapped 1", "resume"]


class Standstill:
    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.error: Exception | None = None

    def suspend(self, deadline: int | None = None) -> None:
        self.harness.note("suspend")
        if self.error is not None:
            raise self.error

    def resume(self) -> None:
        self.harness.note("resume")


class World:
    """An owner with a static member 0 and a dynamic member 1; `log` is what came after that."""

    def __init__(self, *plans: Plan, patience: int | None = 20 * SECOND) -> None:
        self.harness = Harness(*plans)
        self.standstill = Standstill(self.harness)
        self.lost: list[str] = []
        self.owner = Owner(
            self.harness,
            self.harness.monitor,
            self.standstill,
            patience=patience,
            on_lost=self.lost.append,
        )
        self.members = [
            FakeMember(0, self.harness.note),
            FakeMember(1, self.harness.note, dynamic=True),
        ]

    def start(self) -> World:
        self.owner.start()
        for member in self.members:
            self.owner.add(member)
        self.harness.log.clear()
        return self

    @property
    def log(self) -> list[str]:
        return self.harness.log

    def wait_until(self, state: State) -> None:
        deadline = self.harness.now() + 20 * SECOND
        while (found := self.owner.status().state) is not state:
            assert self.harness.now() < deadline, f"it is {found}, and never {state}"

    def close(self) -> None:
        """End the owner, and with it whatever monitor there is: a killed one would get a successor."""
        with suppress(SwapError):
            self.owner.close(self.harness.now() + SECOND // 10, discard=True)
        assert self.owner.join(self.harness.now() + 20 * SECOND), "the owner's task goes on"


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        world.close()


@pytest.fixture
def world(worlds: list[World]) -> World:
    worlds.append(World())
    return worlds[0].start()


def begin(worlds: list[World], *plans: Plan) -> World:
    worlds.append(World(*plans))
    return worlds[-1].start()


def test_an_enable_suspends_marks_zaps_and_resumes_in_this_order(world: World) -> None:
    assert world.owner.enable() == 1500
    assert world.log == ENABLE
    assert world.owner.status().state is State.PENDING


def test_pages_go_out_and_come_back(world: World) -> None:
    world.owner.enable()
    world.owner.trim()
    world.wait_until(State.PENDING)
    world.owner.swap_out()
    world.wait_until(State.ACTIVE)
    assert world.owner.status().metrics.file == 1500
    world.owner.disable(slow_file_cleanup=True)
    world.wait_until(State.READY)
    assert world.harness.pages.releases == [True]


def test_a_machine_that_cannot_be_suspended_is_left_alone(world: World) -> None:
    world.standstill.error = SwapError("no")
    with pytest.raises(SwapError, match="no"):
        world.owner.enable()
    assert world.log == ["suspend"]


def test_an_enable_that_is_refused_is_undone(world: World) -> None:
    world.harness.pages.stage_error = UserError("no uffd for these pages")
    with pytest.raises(SwapError, match="enable: no uffd for these pages"):
        world.owner.enable()
    assert world.log == ["suspend", "enable", "disable", "resume"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_member_that_cannot_zap_undoes_the_enable(world: World, number: int) -> None:
    world.members[number].error = PermissionError(1, "not here")
    with pytest.raises(SwapError, match=f"enable: member {number}: .*not here"):
        world.owner.enable()
    assert world.log[-2:] == ["disable", "resume"]
    world.wait_until(State.READY)
    assert world.harness.pages.resident == 1500


def test_a_dynamic_member_that_is_dead_is_collected_on_the_way(world: World) -> None:
    world.members[1].error = ProcessLookupError(3, "no such process")
    world.harness.gone.append(1)
    world.owner.enable()
    assert world.log == [*ENABLE[:5], "collect", "resume"]
    assert world.owner.status().members == 1
    world.log.clear()
    world.owner.enable()
    assert "zap 1" not in world.log


def test_a_static_member_must_be_there(world: World) -> None:
    world.members[0].error = ProcessLookupError(3, "no such process")
    with pytest.raises(SwapError, match="member 0"):
        world.owner.enable()
    assert "collect" not in world.log
    assert world.log[-2:] == ["disable", "resume"]


def test_a_refusal_says_why_and_changes_nothing(world: World) -> None:
    with pytest.raises(SwapError, match=r"^out: it begins only when swap is pending"):
        world.owner.swap_out()
    with pytest.raises(SwapError, match=r"^register: there is a member 0 already"):
        world.owner.add(world.members[0])


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
    assert world.owner.enable() == 1500
    assert world.owner.status().state is State.PENDING
    world.owner.swap_out()
    world.harness.wait_for("out")
    world.owner.disable()
    world.wait_until(State.READY)
    world.owner.close()
    assert world.log.count("take-over") == 1
    assert world.harness.pages.resident == 1500


def test_a_death_that_nobody_asks_about_is_noticed(worlds: list[World]) -> None:
    world = begin(worlds, Plan("status", "after"))
    world.owner.status()
    world.harness.wait_for("register 1 zapped")
    assert world.log == ["status", "begin", "take-over", "register 0 zapped", "register 1 zapped"]


def test_who_takes_over_is_told_who_has_zapped(worlds: list[World]) -> None:
    world = begin(worlds, Plan("zapped", "after"))
    world.owner.enable()
    assert "register 0 zapped" in world.log
    assert "register 1" in world.log
    assert world.log.count("enable") == 2  # who takes over has unstaged what was marked
    assert world.owner.status().state is State.PENDING


@pytest.mark.parametrize("promise", ["trim", "out", "disable"])
def test_a_move_that_was_accepted_is_asked_for_again(worlds: list[World], promise: str) -> None:
    world = begin(worlds, Plan(promise, "after"))
    world.owner.enable()
    if promise == "trim":
        world.owner.trim()
    elif promise == "out":
        world.owner.swap_out()
    else:
        world.owner.disable()
    world.harness.wait_for(promise, 2)
    ends = {"trim": State.PENDING, "out": State.ACTIVE, "disable": State.READY}
    world.wait_until(ends[promise])


def test_an_enable_takes_a_promise_back(worlds: list[World]) -> None:
    world = begin(worlds, Plan("collect", "after"))
    world.owner.enable()
    world.owner.swap_out()
    world.wait_until(State.ACTIVE)
    world.owner.enable()
    world.owner.collect()
    world.harness.wait_for("register 1 zapped")
    assert world.owner.status().state is State.ACTIVE  # nothing was left to stage
    assert world.log.count("out") == 1


@pytest.mark.parametrize(("number", "dead", "told"), [(0, False, 1), (0, True, 0), (1, False, 0)])
def test_a_member_that_a_new_monitor_refuses_is_let_go(
    worlds: list[World], number: int, dead: bool, told: int
) -> None:
    world = begin(worlds, Plan("status", "before"))
    world.members[number].dead = dead
    world.harness.refuses.add(number)
    assert world.owner.status().members == 1
    assert len(world.lost) == told


def test_a_request_that_kills_every_monitor_is_an_error(worlds: list[World]) -> None:
    world = begin(worlds, *[Plan("trim", "before")] * 3)
    with pytest.raises(SwapError, match="trim: 3 monitors have died of it"):
        world.owner.trim()
    assert world.owner.status().state is State.READY
    assert not world.lost


def test_without_a_monitor_everything_is_an_error_and_the_status_says_so(
    worlds: list[World],
) -> None:
    world = begin(worlds, Plan("status", "before"), *[Plan("begin", "before")] * STARTS)
    status = world.owner.status()
    assert status.state is State.FAILED
    assert status.error == "swap: the monitor does not start: 10 have died"
    assert world.lost == [status.error]
    with pytest.raises(LostError):
        world.owner.enable()
    assert world.log[-1] == "resume"
    assert world.owner.status().state is State.FAILED


def test_a_monitor_that_cannot_begin_is_said(worlds: list[World]) -> None:
    worlds.append(World())
    worlds[0].harness.cannot_begin = OSError(24, "too many open files")
    with pytest.raises(LostError, match=r"does not start: begin: OSError: .*too many open files"):
        worlds[0].start()


def test_a_monitor_is_a_process_that_gets_the_same_descriptors_as_its_successor() -> None:
    runtime = ThreadRuntime()
    reader, writer = os.pipe()
    standstill = Standstill(Harness())
    owner = Owner(runtime, programs.monitor, standstill, Resources(("log",), (writer,)))
    owner.start()
    process = owner._keeper._process
    assert process is not None
    assert owner.status().state is State.READY
    process.kill()
    assert process.join(runtime.now() + 20 * SECOND)
    assert owner.status().state is State.READY
    owner.close()
    os.close(writer)
    assert os.read(reader, 9) == b"FT"
    os.close(reader)


# Time.


def test_an_answer_that_is_too_late_is_not_taken_for_another(worlds: list[World]) -> None:
    world = begin(worlds, Plan("trim", "deaf"))
    world.owner.enable()
    with pytest.raises(SwapError, match="trim: the monitor did not answer in time"):
        world.owner.trim(world.harness.now() + SECOND // 20)
    world.wait_until(State.PENDING)
    assert world.owner.collect() == ()
    assert "begin" not in world.log


def test_requests_come_one_at_a_time(worlds: list[World]) -> None:
    world = begin(worlds, Plan("trim", "deaf"))
    world.owner.enable()
    soon = world.harness.now() + SECOND

    def trim() -> None:
        with pytest.raises(SwapError, match="in time"):
            world.owner.trim(soon)

    first = threading.Thread(target=trim)
    first.start()
    world.harness.wait_for("trim")
    with pytest.raises(SwapError, match="status: another request did not end in time"):
        world.owner.status(world.harness.now() + SECOND // 20)
    assert world.owner.status().members == 2  # and this one waited
    first.join()


# The end.


def test_close_brings_everything_back_and_ends_the_monitor(world: World) -> None:
    world.owner.enable()
    world.owner.swap_out()
    world.owner.close()
    assert world.harness.pages.resident == 1500
    assert world.harness.monitors[0].join(world.harness.now() + 20 * SECOND)
    for request in (world.owner.status, world.owner.close, world.owner.enable):
        with pytest.raises(SwapError, match="swap has ended"):
            request()
    assert not world.lost
    assert "begin" not in world.log


def test_close_that_fails_leaves_all_as_it_was(world: World) -> None:
    world.owner.enable()
    world.harness.pages.problem = "swap file: input/output error"
    with pytest.raises(SwapError, match="input/output error"):
        world.owner.close()
    assert world.owner.status().state is State.PENDING
    world.harness.pages.problem = None
    world.owner.close()


def test_monitors_that_die_again_and_again_before_they_serve_are_replaced(
    worlds: list[World],
) -> None:
    """Somebody kills every one that starts; they are many, and no machine ends of that."""
    world = begin(worlds, Plan("status", "before"), *[Plan("begin", "before")] * (STARTS - 1))
    assert world.owner.status().state is State.READY
    assert world.log.count("begin") == STARTS
    assert not world.lost


@pytest.mark.parametrize("when", ["deaf", "before", "mad"])
def test_where_nothing_is_to_be_kept_a_monitor_that_says_nothing_is_ended(
    worlds: list[World], when: str
) -> None:
    world = begin(worlds, Plan("exit", when))
    world.owner.close(world.harness.now() + SECOND // 20, discard=True)
    assert world.owner.join(world.harness.now() + 20 * SECOND)
    assert world.harness.monitors[0].join(world.harness.now() + 20 * SECOND)
    assert "begin" not in world.log


# What main itself may lack.


def test_a_monitor_starts_once_there_is_room_for_a_process_again(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "START_AGAIN", SECOND // 1000)
    world = begin(worlds, Plan("status", "before"))
    world.harness.no_process += [OSError(errno.EAGAIN, "try again")] * 5
    assert world.owner.status().state is State.READY
    assert world.harness.no_process == []
    assert not world.lost


def test_without_room_for_a_process_the_monitor_is_lost_and_nothing_else(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch, descriptors: Callable[[], int]
) -> None:
    monkeypatch.setattr(keeper, "START_AGAIN", SECOND // 1000)
    worlds.append(World())
    world = worlds[0]
    world.harness.no_process += [OSError(errno.EMFILE, "too many open files")] * STARTS
    before = descriptors()
    with pytest.raises(LostError, match=r"^swap: the monitor does not start: too many open files$"):
        world.owner.start()
    assert descriptors() == before
    assert world.owner.status().state is State.FAILED


def test_a_request_that_cannot_be_sent_is_an_error_and_the_next_one_is_sent(world: World) -> None:
    member = FakeMember(2, world.harness.note)
    member.fds = (1 << 20,)  # none is open there
    with pytest.raises(SwapError, match=r"^register: Bad file descriptor$"):
        world.owner.add(member)
    assert world.owner.status().members == 2
    member.fds = ()
    world.owner.add(member)
    assert world.owner.status().members == 3
    assert "begin" not in world.log


class Silent:
    """An owner, without patience of its own, whose monitor is a process that is stopped."""

    def __init__(self) -> None:
        self.runtime = ThreadRuntime()
        self._pipe = os.pipe()
        self.standstill = Standstill(Harness())
        self.owner = Owner(
            self.runtime,
            programs.monitor,
            self.standstill,
            Resources(("log",), (self._pipe[1],)),
            patience=None,
        )
        self.owner.start()
        process = self.owner._keeper._process
        assert process is not None
        self._pid = process._popen.pid  # type: ignore[attr-defined]
        os.kill(self._pid, signal.SIGSTOP)

    def goes_on(self) -> State:
        """Let it run; return its state when it has come to the end of what it was asked."""
        os.kill(self._pid, signal.SIGCONT)
        deadline = self.runtime.now() + 20 * SECOND
        state = self.owner.status(deadline).state
        while state is State.SWAPPING_IN:
            state = self.owner.status(deadline).state
        self.owner.close(deadline)
        assert self.owner.join(deadline)
        assert self.owner._keeper.takeovers == 0
        for fd in self._pipe:
            os.close(fd)
        return state


def within_reason(act: Callable[[], None]) -> bool:
    """Do something in a thread; tell whether it came to its end."""
    ended = threading.Event()

    def run() -> None:
        act()
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    return ended.wait(20)


def test_a_silent_monitor_may_be_asked_for_ever_each_time_to_the_deadline() -> None:
    silent = Silent()

    def ask() -> None:
        for _ in range(2000):
            with pytest.raises(SwapError, match=r"^status: the monitor did not answer in time$"):
                silent.owner.status(silent.runtime.now())

    ended = within_reason(ask)
    assert silent.goes_on() is State.READY
    assert ended, "it waited beyond its deadline"


def test_no_guest_stands_still_beyond_the_deadline_for_a_silent_monitor() -> None:
    silent = Silent()

    def enable() -> None:
        with pytest.raises(SwapError, match=r"^enable: the monitor did not answer in time$"):
            silent.owner.enable(silent.runtime.now() + SECOND // 20)

    ended = within_reason(enable)
    log = silent.standstill.harness.log[:]
    assert silent.goes_on() is State.READY, "what came too late was not undone"
    assert ended
    assert log == ["suspend", "resume"]
