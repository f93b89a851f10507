"""While moves are held no page is moved and commands are refused, whatever becomes of the monitor."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from progress import QUIET

from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.messages import (
    Disable,
    Done,
    Enable,
    Exit,
    GoOn,
    Hold,
    Refused,
    Stage,
    State,
    SwapOut,
    Trim,
    Zapped,
)

from .clientworld import World, begin
from .fakes import Machine, Plan, register

WHY = "the snapshot monday is being taken"


def state(machine: Machine) -> State:
    return machine.controller.state


@pytest.mark.parametrize("move", [Trim(), SwapOut(), Disable()])
def test_a_move_waits_and_goes_on(move: Trim | SwapOut | Disable) -> None:
    machine = Machine()
    answer = machine.controller.answer
    answer(register(0))
    machine.controller._enable()
    machine.controller._zapped(Hold(), 0)
    machine.pages.staged = 5000
    answer(move)
    machine.controller.work()
    before = state(machine), machine.pages.staged
    assert answer(Hold()) == Done()
    assert machine.controller.due is None
    machine.work()
    assert (state(machine), machine.pages.staged) == before
    assert answer(GoOn()) == Done()
    machine.work()
    assert state(machine) is not before[0]


def test_an_exit_ends_it() -> None:
    machine = Machine()
    machine.controller.answer(register(0))
    machine.controller._enable()
    machine.controller.answer(Hold())
    machine.controller.answer(Exit())
    machine.work()
    assert machine.controller.ended


def test_pages_are_staged_meanwhile_and_that_is_no_move() -> None:
    machine = Machine()
    answer = machine.controller.answer
    answer(register(0))
    assert answer(Stage()) == Refused(text="stage: pages may be moved: swap is ready")
    answer(Hold())
    refused = answer(Enable())
    assert isinstance(refused, Refused)
    assert refused.text.endswith("no page may be moved: a snapshot is being taken")
    assert answer(Stage()) == Done(pages=1500)
    assert state(machine) is State.ENABLING
    assert answer(Zapped(member=0)) == Done()
    assert state(machine) is State.PENDING
    status = machine.controller.status()
    assert (status.moved, status.transition.pages) == ((), 0)


@pytest.mark.parametrize("zapped", [False, True])
def test_it_ends_as_it_began(*, zapped: bool) -> None:
    machine = Machine()
    answer = machine.controller.answer
    answer(register(0))

    def stage() -> None:
        answer(Hold())
        answer(Stage())
        if zapped:
            answer(Zapped(member=0))

    stage()
    assert answer(GoOn(unstage=True, release=True)) == Done()
    assert state(machine) is State.READY
    assert machine.pages.releases == [False]
    machine.pages.away = 100  # of what follows
    stage()
    assert answer(GoOn(unstage=True)) == Done()
    assert (state(machine), machine.pages.staged) == (State.ACTIVE, 0)
    stage()
    assert answer(GoOn(unstage=True, release=True)) == Done()
    assert state(machine) is State.ACTIVE, "what is out stays out"
    stage()
    assert answer(GoOn()) == Done()
    assert state(machine) is (State.PENDING if zapped else State.ENABLING)


def test_a_move_that_waits_is_not_undone() -> None:
    machine = Machine()
    answer = machine.controller.answer
    for request in (register(0), Enable(), Zapped(member=0), Disable(), Hold()):
        answer(request)
    assert isinstance(answer(Stage()), Refused)
    answer(GoOn(unstage=True, release=True))
    assert state(machine) is State.SWAPPING_IN
    machine.work()
    assert state(machine) is State.READY


def test_memory_that_cannot_be_staged_stays(worlds: list[World]) -> None:
    world = begin(worlds)
    world.runtime.pages.stage_error = OSError(5, "bad")
    world.client.hold(WHY)
    with pytest.raises(SwapError, match=r"^stage: .*bad$"):
        world.client.enabling.stage_running(None)
    world.client.go_on(unstage=True, release=True)
    assert world.client.status().state is State.READY


def test_main_alone_zaps_while_guests_run_and_all_do_at_the_instant(world: World) -> None:
    client = world.client
    client.hold(WHY)
    world.log.clear()
    assert client.enabling.stage_running(None) == 1500
    assert world.log == ["stage", "zap 0", "zapped 0"]
    assert client.status().state is State.ENABLING
    world.log.clear()
    client.enabling.unmap(None)
    assert world.log == ["hold", "zap 0", "zap 1"]
    client.enabling.settle(None)
    assert client.status().state is State.PENDING
    world.log.clear()
    client.enabling.settle(None)
    assert world.log == ["status"]


def test_a_member_that_dies_at_the_instant_is_left_out(world: World) -> None:
    client = world.client
    client.hold(WHY)
    client.enabling.stage_running(None)
    world.members[1].error = ProcessLookupError(3, "gone")
    with pytest.raises(SwapError, match=r"^stage: member 1: .*gone$"):
        client.enabling.unmap(None)  # it lives, as far as the monitor knows
    world.runtime.gone.append(1)
    client.enabling.unmap(None)
    client.enabling.settle(None)
    assert client.status().members == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_name", ["stage", "zapped"])
def test_a_monitor_that_dies_of_staging_is_followed_by_another(
    worlds: list[World], request_name: str, when: str
) -> None:
    world = begin(worlds, Plan(request_name, when))
    client = world.client
    client.hold(WHY)
    client.enabling.stage_running(None)
    client.enabling.unmap(None)
    client.enabling.settle(None)
    assert client.status().state is State.PENDING
    assert world.log.count("hold") == 3
    client.go_on(unstage=True, release=True)
    assert client.status().state is State.READY


def test_an_internal_error_brings_everything_in_when_it_goes_on(worlds: list[World]) -> None:
    world = begin(worlds)
    world.client.hold(WHY)
    world.client.enabling.stage_running(None)
    assert world.runtime.pages.staged
    world.runtime.pages.bugs = 1
    with pytest.raises(SwapError, match="the monitor has failed"):
        world.client.enabling.stage_running(None)
    assert world.client.status().state is State.SWAPPING_IN
    assert world.runtime.pages.staged
    world.client.go_on(unstage=True, release=True)
    world.wait_until(State.READY)
    assert not world.runtime.pages.staged


@pytest.mark.parametrize("command", ["enable", "trim", "out", "disable", "discard"])
def test_commands_are_refused_by_name_and_accepted_after_it(world: World, command: str) -> None:
    client = world.client
    client.enable()
    commands: dict[str, Callable[[], object]] = {
        "enable": client.enable,
        "trim": client.trim,
        "out": client.swap_out,
        "disable": client.disable,
        "discard": lambda: client.discard(0, 5),
    }
    client.hold(WHY)
    world.log.clear()
    with pytest.raises(SwapError, match=f"^{command}: {WHY}$"):
        commands[command]()
    with pytest.raises(SwapError, match=f"^hold: {WHY}$"):
        client.hold("another one")
    assert client.status().state is State.PENDING
    assert "suspend" not in world.log
    assert command not in world.log
    client.go_on()
    commands[command]()
    assert command in world.log


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_next_monitor_is_held_too(worlds: list[World], when: str) -> None:
    world = begin(worlds, Plan("status", when))
    client = world.client
    client.enable()
    world.runtime.pages.staged = 5000
    client.hold(WHY)
    client.status()
    world.runtime.wait_for("hold", 2)
    with pytest.raises(SwapError, match=f"^out: {WHY}$"):
        client.swap_out()
    client.go_on()
    client.swap_out()
    world.wait_until(State.ACTIVE)


def test_a_move_is_not_done_again_by_the_next_monitor_before_it_goes_on(
    worlds: list[World],
) -> None:
    world = begin(worlds, Plan("collect", "before"))
    client = world.client
    client.enable()
    world.runtime.pages.staged = 5000
    world.runtime.pages.held_up = True  # it has moved nothing yet
    client.swap_out()
    client.hold(WHY)
    world.runtime.pages.held_up = False
    client.collect()
    assert client.status().state is State.SWAPPING_OUT
    assert world.runtime.pages.staged == 5000
    assert world.log.index("hold") < len(world.log) - 1 - world.log[::-1].index("out")
    client.go_on()
    world.wait_until(State.ACTIVE)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_name", ["hold", "go-on"])
def test_a_monitor_may_die_of_it(worlds: list[World], request_name: str, when: str) -> None:
    world = begin(worlds, Plan(request_name, when))
    client = world.client
    client.enable()
    world.runtime.pages.staged = 5000
    client.hold(WHY)
    client.go_on()
    client.swap_out()
    world.wait_until(State.ACTIVE)


def test_a_monitor_that_does_not_answer_holds_nothing(worlds: list[World]) -> None:
    world = begin(worlds, Plan("hold", "deaf"))
    client = world.client
    with pytest.raises(SwapError, match=r"^hold: the monitor did not answer in time$"):
        client.hold(WHY, world.runtime.now() + 50_000_000)
    client.enable()
    client.swap_out()
    world.wait_until(State.ACTIVE)


def test_it_waits_for_the_end_of_an_enable(world: World) -> None:
    go, began = threading.Event(), threading.Event()
    member = world.members[0]
    zap = member.zap

    def slowly() -> None:
        began.set()
        assert go.wait(QUIET)
        zap()

    member.zap = slowly  # type: ignore[method-assign]
    enabling = threading.Thread(target=world.client.enable)
    enabling.start()
    assert began.wait(QUIET)
    with pytest.raises(SwapError, match=r"^hold: an enable did not end in time$"):
        world.client.hold(WHY, world.runtime.now() + 20_000_000)
    holding = threading.Thread(target=world.client.hold, args=(WHY,))
    holding.start()
    go.set()
    enabling.join(QUIET)
    holding.join(QUIET)
    assert world.log.index("hold") > world.log.index("zapped 1")
    assert world.client.status().state is State.PENDING
