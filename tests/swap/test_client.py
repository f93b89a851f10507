"""Main's side: the order of an enable; monitors that die, do not answer, or answer invalidly."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import pytest
from progress import QUIET, QUIET_NS, until

from hfsched.errors import UserError
from hfsched.runtime.base import End, Process
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.client import client, supervisor
from hfsched.swap.client.client import MonitorClient
from hfsched.swap.client.errors import LostError, SwapError
from hfsched.swap.client.supervisor import STARTS
from hfsched.swap.core.resources import Resources
from hfsched.swap.protocol.messages import State

from . import programs
from .children import pid_of
from .fakes import FakeMember, FakeRuntime, Plan

SECOND = 1_000_000_000
ENABLE = ["suspend", "enable", "zap 0", "zapped 0", "zap 1", "zapped 1", "resume"]


class Suspendable:
    def __init__(self, runtime: FakeRuntime) -> None:
        self.runtime = runtime
        self.error: Exception | None = None

    def suspend(self, deadline: int | None = None) -> None:
        self.runtime.note("suspend")
        if self.error is not None:
            raise self.error

    def resume(self) -> None:
        self.runtime.note("resume")


class World:
    """A client with a static member 0 and a dynamic member 1; `log` has the events after that."""

    def __init__(
        self,
        *plans: Plan,
        default_timeout: int | None = QUIET_NS,
        runtime: FakeRuntime | None = None,
    ) -> None:
        self.runtime = runtime or FakeRuntime(*plans)
        self.suspendable = Suspendable(self.runtime)
        self.lost: list[str] = []
        self.client = MonitorClient(
            self.runtime,
            self.runtime.monitor,
            self.suspendable,
            default_timeout=default_timeout,
            on_lost=self.lost.append,
        )
        self.members = [
            FakeMember(0, self.runtime.note),
            FakeMember(1, self.runtime.note, dynamic=True),
        ]

    def start(self) -> World:
        self.client.start()
        for member in self.members:
            self.client.add(member)
        self.runtime.log.clear()
        return self

    @property
    def log(self) -> list[str]:
        return self.runtime.log

    def wait_until(self, state: State) -> None:
        until(lambda: self.client.status().state, lambda found: found is state)

    def close(self) -> None:
        """End the client and its monitor; a killed monitor would be replaced."""
        with suppress(SwapError):
            self.client.close(self.runtime.now() + SECOND // 10, discard=True)
        assert self.client.join(self.runtime.now() + QUIET_NS), "the client's task does not end"


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
    assert world.client.enable() == 1500
    assert world.log == ENABLE
    assert world.client.status().state is State.PENDING


def test_pages_go_out_and_come_back(world: World) -> None:
    world.client.enable()
    world.client.trim()
    world.wait_until(State.PENDING)
    world.client.swap_out()
    world.wait_until(State.ACTIVE)
    assert world.client.status().metrics.file == 1500
    world.client.disable(slow_file_cleanup=True)
    world.wait_until(State.READY)
    assert world.runtime.pages.releases == [True]


def test_a_machine_that_cannot_be_suspended_is_left_alone(world: World) -> None:
    world.suspendable.error = SwapError("no")
    with pytest.raises(SwapError, match="no"):
        world.client.enable()
    assert world.log == ["suspend"]


def test_an_enable_that_is_refused_is_undone(world: World) -> None:
    world.runtime.pages.stage_error = UserError("no uffd for these pages")
    with pytest.raises(SwapError, match="enable: no uffd for these pages"):
        world.client.enable()
    assert world.log == ["suspend", "enable", "disable", "resume"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_member_that_cannot_zap_undoes_the_enable(world: World, number: int) -> None:
    world.members[number].error = PermissionError(1, "not here")
    with pytest.raises(SwapError, match=f"enable: member {number}: .*not here"):
        world.client.enable()
    assert world.log[-2:] == ["disable", "resume"]
    world.wait_until(State.READY)
    assert world.runtime.pages.resident == 1500


@pytest.mark.parametrize("number", [0, 1])
def test_a_member_that_still_maps_memory_undoes_the_enable(world: World, number: int) -> None:
    world.members[number].mapped = 0x7000
    with pytest.raises(SwapError, match=rf"^enable: member {number}: it has .* maps 0x7000$"):
        world.client.enable()
    assert world.log[-2:] == ["disable", "resume"]
    world.wait_until(State.READY)
    world.members[number].mapped = None
    world.client.enable()


def test_a_page_that_a_fault_has_taken_back_may_be_mapped(world: World) -> None:
    world.members[0].mapped = 0x7000
    looks = [True, True, False]  # it is being taken back when it is looked at first
    world.client._staged = lambda _page: looks.pop(0) if looks else False
    assert world.client.enable() == 1500
    assert looks == []


def test_a_dynamic_member_that_is_dead_is_collected_on_the_way(world: World) -> None:
    world.members[1].error = ProcessLookupError(3, "no such process")
    world.runtime.gone.append(1)
    world.client.enable()
    assert world.log == [*ENABLE[:5], "collect", "resume"]
    assert world.client.status().members == 1
    world.log.clear()
    world.client.enable()
    assert "zap 1" not in world.log


def test_a_static_member_must_be_there(world: World) -> None:
    world.members[0].error = ProcessLookupError(3, "no such process")
    with pytest.raises(SwapError, match="member 0"):
        world.client.enable()
    assert "collect" not in world.log
    assert world.log[-2:] == ["disable", "resume"]


def test_a_refusal_names_its_cause_and_has_no_effect(world: World) -> None:
    with pytest.raises(SwapError, match=r"^out: nothing is staged"):
        world.client.swap_out()
    with pytest.raises(SwapError, match=r"^register: member 0 exists already"):
        world.client.add(world.members[0])


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

    def process(self, name: str, main: Callable[..., None], ends: Sequence[End]) -> Process:
        if not self.go.is_set():
            self.note("starts")
        assert self.go.wait(QUIET)
        return super().process(name, main, ends)


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


# Time.


def test_an_answer_that_is_too_late_is_not_taken_for_another(worlds: list[World]) -> None:
    world = begin(worlds, Plan("trim", "deaf"))
    world.client.enable()
    with pytest.raises(SwapError, match="trim: the monitor did not answer in time"):
        world.client.trim(world.runtime.now() + SECOND // 20)
    world.wait_until(State.PENDING)
    assert world.client.collect() == ()
    assert "begin" not in world.log


def test_requests_come_one_at_a_time(worlds: list[World]) -> None:
    world = begin(worlds, Plan("trim", "deaf"))
    world.client.enable()
    soon = world.runtime.now() + SECOND

    def trim() -> None:
        with pytest.raises(SwapError, match="in time"):
            world.client.trim(soon)

    first = threading.Thread(target=trim)
    first.start()
    world.runtime.wait_for("trim")
    with pytest.raises(SwapError, match="status: another request did not end in time"):
        world.client.status(world.runtime.now() + SECOND // 20)
    assert world.client.status().members == 2  # and this one waited
    first.join()


# The end.


def test_close_brings_everything_back_and_ends_the_monitor(world: World) -> None:
    world.client.enable()
    world.client.swap_out()
    world.client.close()
    assert world.runtime.pages.resident == 1500
    assert world.runtime.monitors[0].join(world.runtime.now() + QUIET_NS)
    for request in (world.client.status, world.client.close, world.client.enable):
        with pytest.raises(SwapError, match="swap has ended"):
            request()
    assert not world.lost
    assert "begin" not in world.log


def test_close_that_fails_leaves_all_as_it_was(world: World) -> None:
    world.client.enable()
    world.runtime.pages.problem = "swap file: input/output error"
    with pytest.raises(SwapError, match="input/output error"):
        world.client.close()
    assert world.client.status().state is State.PENDING
    world.runtime.pages.problem = None
    world.client.close()


def test_monitors_that_die_again_and_again_before_they_serve_are_replaced(
    worlds: list[World],
) -> None:
    """Many monitors in a row are killed after their start; the machine does not end."""
    world = begin(worlds, Plan("status", "before"), *[Plan("begin", "before")] * (STARTS - 1))
    assert world.client.status().state is State.READY
    assert world.log.count("begin") == STARTS
    assert not world.lost


@pytest.mark.parametrize("when", ["deaf", "before", "mad"])
def test_discarding_ends_a_monitor_that_does_not_answer(worlds: list[World], when: str) -> None:
    world = begin(worlds, Plan("exit", when))
    world.client.close(world.runtime.now() + SECOND // 20, discard=True)
    assert world.client.join(world.runtime.now() + QUIET_NS)
    assert world.runtime.monitors[0].join(world.runtime.now() + QUIET_NS)
    assert "begin" not in world.log


# What main itself may lack.


def test_a_monitor_starts_once_there_is_room_for_a_process_again(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "START_AGAIN", SECOND // 1000)
    world = begin(worlds, Plan("status", "before"))
    world.runtime.no_process += [OSError(errno.EAGAIN, "try again")] * 5
    assert world.client.status().state is State.READY
    assert world.runtime.no_process == []
    assert not world.lost


def test_without_room_for_a_process_the_monitor_is_lost_and_nothing_else(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch, descriptors: Callable[[], int]
) -> None:
    monkeypatch.setattr(supervisor, "START_AGAIN", SECOND // 1000)
    worlds.append(World())
    world = worlds[0]
    world.runtime.no_process += [OSError(errno.EMFILE, "too many open files")] * STARTS
    before = descriptors()
    with pytest.raises(LostError, match=r"^swap: the monitor does not start: too many open files$"):
        world.client.start()
    assert descriptors() == before
    assert world.client.status().state is State.FAILED


def test_a_request_that_cannot_be_sent_is_an_error_and_the_next_one_is_sent(world: World) -> None:
    member = FakeMember(2, world.runtime.note)
    member.fds = (1 << 20,)  # none is open there
    with pytest.raises(SwapError, match=r"^register: Bad file descriptor$"):
        world.client.add(member)
    assert world.client.status().members == 2
    member.fds = ()
    world.client.add(member)
    assert world.client.status().members == 3
    assert "begin" not in world.log


class Stopped:
    """A client without a default timeout, whose monitor is a stopped process (SIGSTOP)."""

    def __init__(self) -> None:
        self.runtime = ThreadRuntime()
        self._pipe = os.pipe()
        self.suspendable = Suspendable(FakeRuntime())
        self.client = MonitorClient(
            self.runtime,
            programs.monitor,
            self.suspendable,
            Resources(("log",), (self._pipe[1],)),
            default_timeout=None,
        )
        self.client.start()
        process = self.client.supervisor._process
        assert process is not None
        self._pid = pid_of(process)
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> State:
        """Let it run; return its state when it has come to the end of what it was asked."""
        os.kill(self._pid, signal.SIGCONT)
        deadline = self.runtime.now() + QUIET_NS
        state = self.client.status(deadline).state
        while state is State.SWAPPING_IN:
            state = self.client.status(deadline).state
        self.client.close(deadline)
        assert self.client.join(deadline)
        assert self.client.supervisor.takeovers == 0
        for fd in self._pipe:
            os.close(fd)
        return state


def within_reason(act: Callable[[], None]) -> bool:
    """Do something in a thread; return whether it ended."""
    ended = threading.Event()

    def run() -> None:
        act()
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    return ended.wait(QUIET)


def test_each_request_to_a_stopped_monitor_ends_at_its_deadline() -> None:
    stopped = Stopped()

    def ask() -> None:
        for _ in range(2000):
            with pytest.raises(SwapError, match=r"^status: the monitor did not answer in time$"):
                stopped.client.status(stopped.runtime.now())

    ended = within_reason(ask)
    assert stopped.resume() is State.READY
    assert ended, "it waited beyond its deadline"


def test_no_guest_is_suspended_beyond_the_deadline_by_a_stopped_monitor() -> None:
    stopped = Stopped()

    def enable() -> None:
        with pytest.raises(SwapError, match=r"^enable: the monitor did not answer in time$"):
            stopped.client.enable(stopped.runtime.now() + SECOND // 20)

    ended = within_reason(enable)
    log = stopped.suspendable.runtime.log[:]
    assert stopped.resume() is State.READY, "the late answer was not undone"
    assert ended
    assert log == ["suspend", "resume"]
