"""The monitor's state machine: each request in each state, and moves that end or do not."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from hfsched.errors import UserError
from hfsched.swap.monitor.controller import CLEAN_EVERY, WAIT
from hfsched.swap.pages.store import ShortageError
from hfsched.swap.protocol.messages import (
    Begin,
    Collect,
    Collected,
    Disable,
    Done,
    Enable,
    Exit,
    Failed,
    GetStatus,
    Give,
    MonitorRequest,
    Refused,
    State,
    Status,
    SwapOut,
    Transition,
    Trim,
    Zapped,
)

from .fakes import Machine, register

READY, ENABLING, PENDING = State.READY, State.ENABLING, State.PENDING
TRIMMING, OUT, ACTIVE = State.TRIMMING, State.SWAPPING_OUT, State.ACTIVE
IN = State.SWAPPING_IN
STATES = [state for state in State if state is not State.FAILED]  # that one is main's alone


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.controller.answer(register(0))
    return made


def bring_to(machine: Machine, state: State) -> None:
    """Bring a machine with one member into a state."""
    answer = machine.controller.answer
    if state is READY:
        return
    answer(Enable())
    if state is ENABLING:
        return
    answer(Zapped(member=0))
    if state is TRIMMING:
        answer(Trim())
    elif state in (OUT, ACTIVE, IN):
        answer(SwapOut())
        if state is not OUT:
            machine.work()
    if state is IN:
        answer(Disable())
    assert machine.controller.state is state


# The state that a request leads to; None: it is refused, and nothing changes.
REQUESTS: dict[str, MonitorRequest] = {
    "enable": Enable(),
    "zapped": Zapped(member=0),
    "trim": Trim(),
    "out": SwapOut(),
    "disable": Disable(),
    "status": GetStatus(),
    "collect": Collect(),
    "register": register(1),
    "late": register(1, zapped=False),
    "again": register(0),
    "begin": Begin(fresh=True, resources=()),
    "give": Give(resources=("table",)),
}
ROWS: dict[State, dict[str, State | None]] = {
    READY: {"enable": ENABLING, "zapped": None, "trim": None, "out": None, "late": READY},
    ENABLING: {"enable": ENABLING, "zapped": PENDING, "trim": None, "out": None},
    PENDING: {"enable": ENABLING, "trim": TRIMMING, "out": OUT, "late": ENABLING},
    TRIMMING: {"enable": ENABLING, "trim": None, "out": None, "late": ENABLING},
    OUT: {"enable": ENABLING, "trim": None, "out": None, "late": ENABLING},
    ACTIVE: {"enable": ENABLING, "trim": None, "out": None, "late": ACTIVE},
    IN: {"enable": ENABLING, "zapped": None, "trim": None, "out": None, "late": IN},
}
for state, row in ROWS.items():
    usual = dict.fromkeys(REQUESTS, state)
    never = {"again": None, "begin": None, "give": None}
    always: dict[str, State | None] = {"status": state, "collect": state}
    disabled = {"disable": READY if state is READY else IN}
    ROWS[state] = usual | disabled | row | never | always


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("state", STATES)
def test_what_each_request_does_in_each_state(machine: Machine, state: State, name: str) -> None:
    bring_to(machine, state)
    before = machine.controller.key()
    expected = ROWS[state][name]
    answer = machine.controller.answer(REQUESTS[name])
    assert isinstance(answer, Refused) == (expected is None), answer
    if expected is None:
        assert machine.controller.key() == before
        assert isinstance(answer, Refused)
        assert answer.text.isprintable()
        assert answer.text.startswith(f"{REQUESTS[name].__struct_config__.tag}: ")
    else:
        assert machine.controller.state is expected


@pytest.mark.parametrize("state", STATES)
def test_exit_brings_everything_back_first(machine: Machine, state: State) -> None:
    bring_to(machine, state)
    answer = machine.controller.answer(Exit())
    while answer is None:
        assert not machine.controller.ended
        assert isinstance(machine.controller.answer(Enable()), Refused)
        assert isinstance(machine.controller.answer(Exit()), Refused)
        answer = machine.controller.work()
    assert answer == Done()
    assert machine.controller.ended
    assert machine.pages.resident == 1500


def test_a_move_is_done_in_chunks_and_a_request_comes_between_any_two(machine: Machine) -> None:
    bring_to(machine, PENDING)
    machine.time = 1_000_000
    machine.controller.answer(SwapOut())
    assert machine.controller.due == 0
    machine.controller.work()
    machine.time = 9_000_000
    status = machine.controller.answer(GetStatus())
    assert isinstance(status, Status)
    assert status.state is OUT
    assert status.transition == Transition(512, 8)
    assert (status.metrics.staged, status.metrics.file) == (988, 512)
    assert status.metrics.events == {"faults": 3}
    assert status.members == 1
    machine.work()
    assert machine.controller.state is ACTIVE
    assert machine.controller.due is None
    machine.time = 99_000_000
    assert machine.controller.status().transition == Transition(1500, 8)


@pytest.mark.parametrize("state", [TRIMMING, OUT, IN])
def test_enable_aborts_a_move_and_starts_over(machine: Machine, state: State) -> None:
    bring_to(machine, state)
    machine.controller.work()
    before = machine.pages.staged, machine.pages.away
    answer = machine.controller.answer(Enable())
    assert answer == Done(pages=machine.pages.staged)
    assert machine.controller.due is None
    assert machine.pages.away == before[1]
    machine.controller.answer(Zapped(member=0))
    machine.controller.answer(SwapOut())
    machine.work()
    assert machine.controller.state is ACTIVE
    assert machine.pages.away == 1500


@pytest.mark.parametrize("state", [ENABLING, PENDING, TRIMMING, OUT, ACTIVE, IN])
def test_disable_brings_everything_back(machine: Machine, state: State) -> None:
    bring_to(machine, state)
    assert machine.controller.answer(Disable()) == Done()
    machine.work()
    assert machine.controller.state is READY
    assert machine.pages.resident == 1500
    assert machine.pages.releases == [False]


def test_pages_move_only_when_every_member_has_zapped(machine: Machine) -> None:
    machine.controller.answer(register(1, dynamic=True))
    machine.controller.answer(Enable())
    machine.controller.answer(Zapped(member=1))
    assert machine.controller.state is ENABLING
    assert isinstance(machine.controller.answer(SwapOut()), Refused)
    assert isinstance(machine.controller.answer(Zapped(member=2)), Refused)
    machine.controller.answer(Zapped(member=0))
    assert machine.controller.state is PENDING
    machine.controller.answer(Enable())
    machine.controller.answer(Zapped(member=0))
    assert machine.controller.state is ENABLING  # the second time counts anew


def test_without_members_no_zap_is_needed() -> None:
    machine = Machine()
    machine.controller.answer(Enable())
    assert machine.controller.state is PENDING


def test_a_dead_dynamic_member_is_collected_and_not_waited_for(machine: Machine) -> None:
    machine.controller.answer(register(1, dynamic=True))
    machine.controller.answer(register(2, dynamic=True))
    machine.controller.answer(Enable())
    machine.controller.answer(Zapped(member=0))
    machine.controller.answer(Zapped(member=2))
    machine.members.gone = [1]
    assert machine.controller.answer(Collect()) == Collected(members=(1,))
    assert machine.members.there == [0, 2]
    assert machine.controller.state is PENDING
    assert machine.controller.answer(Collect()) == Collected(members=())


@pytest.mark.parametrize("state", STATES)
def test_a_static_member_that_has_died_is_collected_and_everything_comes_back(
    machine: Machine, state: State
) -> None:
    bring_to(machine, state)
    machine.controller.answer(register(1, dynamic=True))
    machine.members.gone = [0, 1]
    assert machine.controller.answer(Collect()) == Collected(members=(0, 1))
    assert machine.controller.answer(Disable()) == Done()
    machine.work()
    assert machine.controller.state is READY
    assert machine.pages.resident == 1500


@pytest.mark.parametrize(
    ("state", "after"), [(TRIMMING, PENDING), (OUT, PENDING), (IN, ACTIVE), (ENABLING, ENABLING)]
)
def test_a_move_that_fails_leaves_the_pages_and_reports_why(
    machine: Machine, state: State, after: State
) -> None:
    bring_to(machine, state)
    if state is ENABLING:
        machine.controller.answer(Disable())
    machine.pages.problem = "swap file: no space left on device"
    machine.work()
    status = machine.controller.status()
    assert (status.state, status.error) == (after, "swap file: no space left on device")
    machine.pages.problem = None
    machine.controller.answer(Disable())
    assert machine.controller.status().error == ""
    machine.work()
    assert machine.pages.resident == 1500


@pytest.mark.parametrize(
    ("state", "after"),
    [(READY, READY), (PENDING, PENDING), (ACTIVE, ACTIVE), (OUT, PENDING), (IN, ACTIVE)],
)
def test_an_enable_that_fails_ends_a_move_and_nothing_else(
    machine: Machine, state: State, after: State
) -> None:
    bring_to(machine, state)
    for error in (UserError("no uffd"), OSError(28, "no room")):
        machine.pages.stage_error = error
        answer = machine.controller.answer(Enable())
        assert isinstance(answer, Refused)
        assert machine.controller.state is after
    assert machine.controller.due is None


def test_a_register_that_fails_is_refused(machine: Machine) -> None:
    machine.members.error = ProcessLookupError(3, "no such process")
    answer = machine.controller.answer(register(1))
    assert isinstance(answer, Refused)
    assert "no such process" in answer.text
    assert machine.controller.status().members == 1


def test_exit_that_fails_is_refused_and_the_monitor_continues(machine: Machine) -> None:
    bring_to(machine, ACTIVE)
    machine.pages.problem = "swap file: input/output error"
    assert machine.controller.answer(Exit()) is None
    assert machine.controller.work() == Refused(text="swap file: input/output error")
    assert not machine.controller.ended
    assert machine.controller.state is ACTIVE
    machine.pages.problem = None
    machine.controller.answer(Exit())
    machine.work()
    assert machine.controller.ended


@pytest.mark.parametrize("request_", [GetStatus(), Enable(), Exit()], ids=str)
def test_a_bug_ends_the_monitor_with_the_reason(machine: Machine, request_: MonitorRequest) -> None:
    machine.pages.error = RuntimeError("slot 3 is used twice")
    answer = machine.controller.answer(request_)
    if answer is None:
        answer = machine.controller.work()
    if isinstance(request_, Exit):
        assert answer == Done()  # nothing was out
    else:
        assert answer == Failed(text="RuntimeError: slot 3 is used twice")
    assert machine.controller.ended


@pytest.mark.parametrize("state", [TRIMMING, OUT, IN])
def test_a_bug_in_a_move_ends_the_monitor_with_the_reason(machine: Machine, state: State) -> None:
    bring_to(machine, state)
    machine.pages.error = RuntimeError("slot 3 is used twice")
    assert machine.controller.work() == Failed(text="RuntimeError: slot 3 is used twice")
    assert machine.controller.ended


def test_a_request_that_memory_is_short_for_may_come_again(machine: Machine) -> None:
    machine.pages.stage_error = ShortageError("swap: staging guest memory: no memory")
    answer = machine.controller.answer(Enable())
    assert answer == Refused(text="enable: swap: staging guest memory: no memory", again=True)
    machine.pages.stage_error = OSError(errno.EIO, "input/output error")
    answer = machine.controller.answer(Enable())
    assert isinstance(answer, Refused)
    assert not answer.again
    assert machine.controller.state is READY


def test_the_last_moves_are_in_the_status(machine: Machine) -> None:
    bring_to(machine, ACTIVE)
    machine.controller.answer(Enable())
    machine.controller.answer(Disable())
    machine.time += 5_000_000
    machine.work()
    told = [
        (each.number, each.move, each.state, each.error)
        for each in machine.controller.status().moved
    ]
    assert told == [
        (1, "enable", PENDING, ""),
        (2, "out", ACTIVE, ""),
        (3, "enable", ENABLING, "ended for disable"),
        (4, "disable", READY, ""),
    ]
    assert machine.controller.status().moved[-1].pages == 1500
    for _ in range(20):
        machine.controller.answer(Enable())
        machine.controller.answer(Zapped(member=0))
    moved = machine.controller.status().moved
    assert [each.number for each in moved] == list(range(9, 25))


def test_a_move_that_fails_is_among_the_last_moves(machine: Machine) -> None:
    bring_to(machine, OUT)
    machine.pages.problem = "swap file: no space left on device"
    machine.work()
    last = machine.controller.status().moved[-1]
    assert (last.move, last.state, last.error) == ("out", PENDING, machine.pages.problem)


def test_faults_that_wait_hold_a_move_up_for_a_moment(machine: Machine) -> None:
    bring_to(machine, OUT)
    machine.pages.held_up = True
    machine.time = 5_000
    machine.controller.work()
    assert machine.controller.due == 5_000 + WAIT
    machine.pages.held_up = False
    machine.time += WAIT
    machine.work()
    assert machine.controller.state is ACTIVE


def test_the_file_is_given_back_little_by_little(machine: Machine) -> None:
    bring_to(machine, ACTIVE)
    machine.controller.answer(Disable(slow_file_cleanup=True))
    machine.work()
    assert machine.controller.state is READY
    sizes = [machine.pages.file]
    while machine.controller.due is not None:
        assert machine.controller.due == machine.time + CLEAN_EVERY
        machine.time += CLEAN_EVERY
        machine.controller.work()
        sizes.append(machine.pages.file)
    assert sizes == [40_000, 23_616, 7_232, 0]


@pytest.mark.parametrize(("request_", "left"), [(Disable(), 0), (Enable(), 40_000)])
def test_a_slow_cleanup_ends_when_it_is_overtaken(
    machine: Machine, request_: MonitorRequest, left: int
) -> None:
    bring_to(machine, ACTIVE)
    machine.controller.answer(Disable(slow_file_cleanup=True))
    machine.work()
    machine.controller.answer(request_)
    assert machine.controller.due is None
    assert machine.pages.file == left


def test_a_file_that_cannot_be_truncated_is_reported_and_retried(machine: Machine) -> None:
    bring_to(machine, ACTIVE)
    machine.pages.release_error = UserError("swap file: truncating it: Input/output error")
    machine.controller.answer(Disable())
    machine.work()
    status = machine.controller.status()
    assert (status.state, status.error) == (READY, str(machine.pages.release_error))
    while machine.controller.due is not None:
        machine.time = machine.controller.due
        machine.controller.work()
    assert machine.pages.file == 0
    assert machine.controller.answer(Enable()) == Done(pages=1500)


@pytest.mark.parametrize("slow", [False, True])
def test_what_a_dead_monitor_did_not_give_back_is_given_back(machine: Machine, slow: bool) -> None:
    """It died between the end of the move and that of the file; main asks for the move again."""
    machine.pages.file = 40_000
    machine.again().answer(Disable(slow_file_cleanup=slow))
    while machine.controller.due is not None:
        machine.time = machine.controller.due
        machine.controller.work()
    assert machine.controller.state is READY
    assert machine.pages.file == 0


@pytest.mark.parametrize(
    ("state", "found"),
    [(READY, READY), (ENABLING, ENABLING), (PENDING, PENDING), (OUT, PENDING), (ACTIVE, ACTIVE)],
)
def test_a_monitor_begins_in_the_state_that_it_finds(
    machine: Machine, state: State, found: State
) -> None:
    bring_to(machine, state)
    if state is OUT:
        machine.controller.work()
    assert machine.again().state is found


@pytest.mark.parametrize(("zapped", "after"), [(True, PENDING), (False, ENABLING)])
def test_a_successor_knows_which_members_have_zapped(
    machine: Machine, zapped: bool, after: State
) -> None:
    bring_to(machine, ENABLING)
    machine.again().answer(register(0, zapped=zapped))
    assert machine.controller.state is after


def gone(machine: Machine) -> bool:
    machine.members.gone = [0]
    return machine.controller.begin_drain()


def test_without_main_and_members_the_monitor_ends(machine: Machine) -> None:
    bring_to(machine, ACTIVE)
    assert not gone(machine)


@pytest.mark.parametrize("act", [lambda m: m.controller.begin_drain(), gone])
def test_a_member_that_outlives_main_gets_its_pages_back(
    machine: Machine, act: Callable[[Machine], bool]
) -> None:
    machine.controller.answer(register(1))
    bring_to(machine, ENABLING)
    machine.controller.answer(Zapped(member=1))
    machine.controller.answer(Zapped(member=0))
    machine.controller.answer(SwapOut())
    machine.work()
    assert act(machine)
    machine.work()
    assert machine.controller.ended
    assert machine.pages.resident == 1500


def test_nothing_is_brought_back_when_nothing_is_away(machine: Machine) -> None:
    assert not machine.controller.begin_drain()
