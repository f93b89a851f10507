"""Main's side: the order of an enable; monitors that do not answer, or answer invalidly."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable

import pytest
from processes import stop
from progress import QUIET, QUIET_NS

from hfsched.errors import UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.client import supervisor
from hfsched.swap.client.client import MonitorClient
from hfsched.swap.client.errors import LostError, SwapError
from hfsched.swap.client.supervisor import STARTS
from hfsched.swap.core.resources import Resources
from hfsched.swap.protocol.messages import State

from . import programs
from .children import pid_of
from .clientworld import SECOND, Suspendable, World, begin
from .fakes import FakeMember, FakeRuntime, Plan

ENABLE = ["suspend", "enable", "zap 0", "zapped 0", "zap 1", "zapped 1", "resume"]


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
    world.client.enabling._staged = lambda _page: looks.pop(0) if looks else False
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
        stop(self._pid)

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
