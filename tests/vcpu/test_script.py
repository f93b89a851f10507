"""The script engine: a guest is a generator; exits, kicks, the line, timers, faults, handlers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from progress import until

from hfsched.errors import InternalError
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import (
    Conduit,
    Exit,
    Failed,
    Hypercall,
    Kicked,
    Mmio,
    Permissions,
    Timer,
)
from hfsched.vcpu.engine import Wfi as WfiExit
from hfsched.vcpu.script import (
    Abort,
    Cpu,
    Guest,
    Hvc,
    Load,
    Program,
    ScriptEngine,
    ScriptSpace,
    Smc,
    Step,
    Store,
    Wfi,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BASE = 0x8000_0000
SIZE = 4 * 4096
REGS = (1, 2, 3, 4, 5, 6, 7, 8)


class Clock(ThreadRuntime):
    def __init__(self) -> None:
        super().__init__()
        self.time = 1000

    def now(self) -> int:
        return self.time


def machine(vcpus: int = 1) -> ScriptSpace:
    space = ScriptEngine(Clock()).space("vm", vcpus)
    space.map(BASE, Ram("vm", SIZE), 0, SIZE, Permissions.RWX)
    return space


def clock(cpu: Cpu) -> Clock:
    assert isinstance(cpu._runtime, Clock)
    return cpu._runtime


def start(program: Program, arg: int = 0) -> Cpu:
    space = machine()
    cpu = space.vcpu(0)
    cpu.reset(space.address_of(program), arg)
    return cpu


def script(*actions: Hvc | Wfi | Step | Load | Store) -> tuple[Cpu, list[object]]:
    """Return a CPU that does these, and what each got (an `Abort` too)."""
    got: list[object] = []

    def guest(cpu: Cpu) -> Guest:
        for action in actions:
            try:
                got.append((yield action))
            except Abort as abort:
                got.append(abort)
        while True:
            yield Wfi()

    return start(guest), got


# Hypercalls


@pytest.mark.parametrize(("kind", "conduit"), [(Hvc, Conduit.HVC), (Smc, Conduit.SMC)])
def test_a_call_leaves_with_x0_to_x7_and_gets_what_was_replied(
    kind: type[Hvc], conduit: Conduit
) -> None:
    cpu, got = script(kind(7, -1, 1 << 64), kind(*REGS))
    assert cpu.enter() == Hypercall(conduit, (7, (1 << 64) - 1, 0, 0, 0, 0, 0, 0))
    cpu.reply((9, -2))
    assert cpu.enter() == Hypercall(conduit, REGS)
    assert got == [(9, (1 << 64) - 2, 0, 0, 0, 0, 0, 0)]


def test_registers_that_are_not_replied_keep_their_values() -> None:
    cpu, got = script(Hvc(*REGS), Hvc(*REGS))
    cpu.enter()
    cpu.reply((0,))
    cpu.enter()
    cpu.enter()
    assert got == [(0, *REGS[1:]), REGS]


# Kicks


def test_a_kick_before_enter_is_not_lost_and_told_once() -> None:
    cpu, _ = script(Hvc(1))
    cpu.kick()
    cpu.kick()
    assert cpu.enter() == Kicked()
    assert isinstance(cpu.enter(), Hypercall)


def test_a_kick_does_not_disturb_a_reply() -> None:
    cpu, got = script(Hvc(1))
    cpu.enter()
    cpu.reply((5, 6))
    cpu.kick()
    assert cpu.enter() == Kicked()
    assert got == []
    assert cpu.enter() == WfiExit()
    assert got == [(5, 6, 0, 0, 0, 0, 0, 0)]


def test_a_kick_is_seen_between_steps() -> None:
    def guest(cpu: Cpu) -> Guest:
        cpu.kick()
        yield Step()
        yield Hvc(1)

    cpu = start(guest)
    assert cpu.enter() == Kicked()
    assert isinstance(cpu.enter(), Hypercall)


# Interrupts


@pytest.mark.parametrize("masked", [False, True])
def test_wfi_is_over_at_once_while_the_line_is_up(*, masked: bool) -> None:
    def guest(cpu: Cpu) -> Guest:
        cpu.masked = masked
        yield Wfi()
        yield Hvc(1)

    cpu = start(guest)
    cpu.set_irq(True)
    assert isinstance(cpu.enter(), Hypercall)
    cpu = start(guest)
    assert cpu.enter() == WfiExit()
    assert isinstance(cpu.enter(), Hypercall)  # entering again repeats it


def handled(body: Callable[[Cpu], Guest], handler: Program, *, masked: bool = False) -> Cpu:
    def guest(cpu: Cpu) -> Guest:
        cpu.handler = handler
        cpu.masked = masked
        yield from body(cpu)

    return start(guest)


def test_a_handler_runs_while_the_line_is_up_and_interrupts_are_not_masked() -> None:
    trace: list[str] = []

    def handler(cpu: Cpu) -> Guest:
        trace.append(f"handler {cpu.masked}")
        yield Hvc(2)
        trace.append("handled")

    def body(cpu: Cpu) -> Guest:
        yield Step()
        trace.append("body")
        yield Hvc(1)
        trace.append("end")
        yield Wfi()

    cpu = handled(body, handler)
    cpu.set_irq(True)
    assert cpu.enter() == Hypercall(Conduit.HVC, (2, 0, 0, 0, 0, 0, 0, 0))
    cpu.set_irq(False)  # as the hypervisor does when the last one was taken
    assert cpu.enter() == Hypercall(Conduit.HVC, (1, 0, 0, 0, 0, 0, 0, 0))
    assert cpu.enter() == WfiExit()
    assert trace == ["handler True", "handled", "body", "end"]


@pytest.mark.parametrize("why", ["masked", "line down"])
def test_a_handler_does_not_run_otherwise(why: str) -> None:
    def handler(cpu: Cpu) -> Guest:
        raise AssertionError
        yield

    def body(cpu: Cpu) -> Guest:
        yield Step()
        yield Hvc(1)

    cpu = handled(body, handler, masked=why == "masked")
    cpu.set_irq(why == "masked")
    assert isinstance(cpu.enter(), Hypercall)


def test_a_handler_leaves_the_registers_of_the_interrupted_call_alone() -> None:
    got: list[object] = []

    def handler(cpu: Cpu) -> Guest:
        got.append((yield Hvc(0xFF04)))

    def body(cpu: Cpu) -> Guest:
        got.append((yield Hvc(*REGS)))
        yield Wfi()

    cpu = handled(body, handler)
    cpu.enter()
    cpu.reply((0x8400_006E, 0x1_0002))
    cpu.set_irq(True)
    assert cpu.enter() == Hypercall(Conduit.HVC, (0xFF04, 0, 0, 0, 0, 0, 0, 0))
    cpu.reply((5,))
    cpu.set_irq(False)
    assert cpu.enter() == WfiExit()
    assert got == [(5, 0, 0, 0, 0, 0, 0, 0), (0x8400_006E, 0x1_0002, *REGS[2:])]


def test_a_handler_leaves_a_loaded_value_alone() -> None:
    got: list[object] = []

    def handler(cpu: Cpu) -> Guest:
        yield Hvc(2)

    def body(cpu: Cpu) -> Guest:
        cpu.write(BASE, b"\x2a")
        cpu.set_irq(True)
        got.append((yield Load(BASE, 1)))
        yield Wfi()

    cpu = handled(body, handler)
    assert isinstance(cpu.enter(), Hypercall)
    cpu.set_irq(False)
    assert cpu.enter() == WfiExit()
    assert got == [(0x2A,)]


def test_an_abort_comes_to_the_guest_whose_access_it_was_not_to_the_handler() -> None:
    got: list[object] = []

    def handler(cpu: Cpu) -> Guest:
        got.append("handler")
        cpu.set_irq(False)
        yield Step()

    def body(cpu: Cpu) -> Guest:
        try:
            yield Load(0)
        except Abort as abort:
            got.append(abort.address)
        yield Step()
        yield Wfi()

    cpu = handled(body, handler)
    assert isinstance(cpu.enter(), Mmio)
    cpu.set_irq(True)  # an interrupt becomes pending while the fault is looked into
    cpu.inject_abort()
    assert cpu.enter() == WfiExit()
    assert sorted(map(str, got)) == ["0", "handler"]


def test_a_handler_whose_line_stays_up_runs_again() -> None:
    runs: list[int] = []

    def handler(cpu: Cpu) -> Guest:
        runs.append(1)
        if len(runs) == 3:
            cpu.set_irq(False)
        yield Step()

    def body(cpu: Cpu) -> Guest:
        yield Wfi()

    cpu = handled(body, handler)
    cpu.set_irq(True)
    cpu.enter()
    assert len(runs) == 3


# Timers


def test_the_timer_fires_while_the_guest_runs_until_it_is_masked() -> None:
    def guest(cpu: Cpu) -> Guest:
        cpu.arm(10)
        yield Hvc(1)
        yield Hvc(2)

    cpu = start(guest)
    assert cpu.timer_remaining() is None
    cpu.enter()
    assert cpu.timer_remaining() == 10
    clock(cpu).time += 9
    assert cpu.timer_remaining() == 1
    clock(cpu).time += 2
    assert cpu.timer_remaining() == 0
    assert cpu.enter() == Timer()
    assert cpu.enter() == Timer()
    cpu.mask_timer()
    assert cpu.timer_remaining() is None
    assert isinstance(cpu.enter(), Hypercall)


def test_a_timer_can_be_armed_again_or_switched_off() -> None:
    cpu, _ = script(Hvc(1))
    cpu.arm(10)
    cpu.mask_timer()
    cpu.arm(20)
    assert cpu.timer_remaining() == 20
    cpu.arm(None)
    assert cpu.timer_remaining() is None


# Memory


def test_loads_and_stores_are_little_endian_and_cut_to_their_size() -> None:
    cpu, got = script(
        Store(BASE + 4, 0x1_2345, 2), Load(BASE + 4, 1), Load(BASE + 4, 4), Load(BASE)
    )
    assert cpu.enter() == WfiExit()
    assert got == [(), (0x45,), (0x2345,), (0x2345_0000_0000,)]
    assert cpu.read(BASE + 4, 2) == b"\x45\x23"


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Load(0x10, 4), Mmio(0x10, 4, write=False, value=0)),
        (Store(BASE + SIZE, 0x1FF, 1), Mmio(BASE + SIZE, 1, write=True, value=0xFF)),
        (Load(BASE + 2 * 4096), Mmio(BASE + 2 * 4096, 8, write=False, value=0)),
        (Store(BASE + 4096, 1), Mmio(BASE + 4096, 8, write=True, value=1)),
        (Store(BASE + 4092, 1), Mmio(BASE + 4096, 8, write=True, value=1)),
    ],
)
def test_what_stage_2_does_not_allow_leaves_as_mmio(action: Load | Store, expected: Exit) -> None:
    cpu, got = script(action, action)
    cpu._space.protect(BASE + 4096, 4096, Permissions.READ)
    cpu._space.unmap(BASE + 2 * 4096, 4096)
    assert cpu.enter() == expected
    cpu.complete_mmio(0x55)
    assert cpu.enter() == expected
    cpu.inject_abort()
    assert cpu.enter() == WfiExit()
    assert got[0] == ((0x55,) if isinstance(action, Load) else ())
    assert isinstance(got[1], Abort)
    assert got[1].address == action.address


def test_an_access_that_was_not_answered_is_tried_again() -> None:
    cpu, got = script(Load(BASE, 1))
    cpu._space.unmap(BASE, 4096)
    assert isinstance(cpu.enter(), Mmio)
    cpu.write(BASE, b"\x07")
    cpu._space.protect(BASE, 4096, Permissions.RWX)  # the mapping is mended
    assert cpu.enter() == WfiExit()
    assert got == [(7,)]


def test_a_space_maps_one_whole_ram() -> None:
    space = machine()
    with pytest.raises(InternalError, match="one whole RAM"):
        space.map(BASE, Ram("other", SIZE), 0, SIZE, Permissions.RWX)
    with pytest.raises(InternalError, match="one whole RAM"):
        space.map(BASE, space.ram, 4096, 4096, Permissions.RWX)
    with pytest.raises(InternalError, match="no memory is mapped"):
        _ = ScriptEngine(Clock()).space("bare", 1).ram


# The beginning and the end


def test_reset_starts_the_program_at_the_address_anew() -> None:
    space = machine()
    cpu = space.vcpu(0)

    def one(cpu: Cpu) -> Guest:
        cpu.handler, cpu.masked = one, False
        cpu.arm(5)
        cpu.mask_timer()
        while True:
            yield Hvc(1, cpu.arg)

    def two(cpu: Cpu) -> Guest:
        state = (cpu.handler, cpu.masked, cpu.timer, cpu.timer_masked)
        assert state == (None, True, None, False)
        yield Hvc(2, cpu.arg)

    entries = [space.address_of(program) for program in (one, two, one)]
    assert entries[0] == entries[2] == BASE
    assert entries[1] not in (entries[0], 0)
    for program, arg in ((0, 7), (1, 8), (0, 9)):
        cpu.reset(entries[program], arg)
        assert cpu.enter() == Hypercall(Conduit.HVC, (program + 1, arg, 0, 0, 0, 0, 0, 0))


def test_each_cpu_names_programs_by_itself_and_any_can_begin_them() -> None:
    space = machine(2)
    named: list[int] = []

    def one(cpu: Cpu) -> Guest:
        yield Hvc(1, cpu.address_of(one))

    def two(cpu: Cpu) -> Guest:
        yield Hvc(2, cpu.address_of(one), cpu.address_of(two), cpu.address_of(one))

    for cpu, program in ((0, one), (1, two)):
        space.vcpu(cpu).reset(space.address_of(program), 0)
        event = space.vcpu(cpu).enter()
        assert isinstance(event, Hypercall)
        named += [address for address in event.args[1:] if address]
    assert named[1] == named[3]
    assert len({*named, space.address_of(one), space.address_of(two)}) == 5
    assert [space.program_at(address) for address in named] == [one, one, two, one]
    space.vcpu(0).reset(named[2], 0)
    assert space.vcpu(0).program_counter() == named[2]
    event = space.vcpu(0).enter()
    assert isinstance(event, Hypercall)
    assert event.args[:2] == (2, named[0])


def test_only_memory_has_permissions() -> None:
    space = machine()
    for ipa, size in ((BASE - 4096, 8192), (BASE + space.ram.size, 4096), (BASE, 1 << 40)):
        with pytest.raises(InternalError, match="is not in its memory"):
            space.protect(ipa, size, Permissions.READ)


def test_one_that_was_never_started_or_has_no_code_is_off() -> None:
    space = machine()
    cpu = space.vcpu(0)
    assert cpu.enter() == Failed("it was never started")
    cpu.reset(0xDEAD, 0)
    assert cpu.enter() == cpu.enter() == Failed("no code at 0xdead")
    space.address_of(lambda cpu: iter(()))  # type: ignore[arg-type, return-value]
    cpu.reset(BASE + 2, 0)  # between two programs
    assert cpu.enter() == Failed("no code at 0x80000002")


def test_a_guest_that_returns_or_raises_is_off_for_good() -> None:
    def returns(cpu: Cpu) -> Guest:
        yield Step()

    def raises(cpu: Cpu) -> Guest:
        yield Step()
        raise KeyError("key")

    cpu = start(returns)
    assert cpu.enter() == cpu.enter() == Failed("the guest function returned")
    cpu = start(raises)
    line = raises.__code__.co_firstlineno + 2
    why = f"the guest function raised KeyError('key') (test_script.py:{line})"
    assert cpu.enter() == cpu.enter() == Failed(why)


def test_something_that_is_no_action_ends_the_guest() -> None:
    def guest(cpu: Cpu) -> Guest:
        yield 42  # type: ignore[misc]

    why = "the guest function yielded 42: it has to yield Hvc, Wfi, Load, ..."
    assert start(guest).enter() == Failed(why)


# Keys


def counting(cpu: Cpu) -> Guest:
    for number in range(4):
        yield Hvc(number % 2)


def test_equal_states_have_equal_keys_and_different_ones_do_not() -> None:
    cpus = [start(counting) for _ in range(2)]
    keys = []
    for _ in range(3):
        keys.append(cpus[0].state_key())
        assert keys[-1] == cpus[1].state_key()
        for cpu in cpus:
            cpu.enter()
            cpu.reply((9,))
    for change in (
        lambda cpu: None,
        lambda cpu: cpu.kick(),
        lambda cpu: cpu.set_irq(True),
        lambda cpu: cpu.arm(10),
        lambda cpu: cpu.mask_timer(),
        lambda cpu: cpu.reply((10,)),
    ):
        change(cpus[0])
        keys.append(cpus[0].state_key())
    assert len(set(keys)) == len(keys)


def test_a_value_that_was_loaded_and_not_yet_received_is_part_of_the_state() -> None:
    def guest(cpu: Cpu) -> Guest:
        cpu.kick()
        yield Load(BASE, 1)

    keys = []
    for value in (b"\x01", b"\x02"):
        cpu = start(guest)
        cpu.write(BASE, value)
        assert cpu.enter() == Kicked()
        cpu.write(BASE, b"\0")
        keys.append(cpu.state_key())
    assert keys[0] != keys[1]


# By turns


def by_turns() -> tuple[Cpu, Cpu, list[str]]:
    """Return two CPUs that execute by turns, and what they do: two steps each, between calls."""
    did: list[str] = []
    space = ScriptEngine(Clock(), by_turns=True).space("vm", 2)
    space.map(BASE, Ram("vm", SIZE), 0, SIZE, Permissions.RWX)

    def guest(cpu: Cpu) -> Guest:
        for _ in range(2):
            did.append(f"{cpu.index}")
            yield Step()
        yield Hvc(1)

    for index in range(2):
        space.vcpu(index).reset(space.address_of(guest), 0)
    return space.vcpu(0), space.vcpu(1), did


def waiting(cpu: Cpu) -> tuple[threading.Thread, list[Exit]]:
    """Return what enters a CPU whose turn is taken, once it waits, and where its exit will be."""
    exits: list[Exit] = []
    thread = threading.Thread(target=lambda: exits.append(cpu.enter()), daemon=True)
    thread.start()
    assert cpu._place is not None
    until(lambda: cpu._place.waits, lambda waits: waits)  # type: ignore[union-attr]
    return thread, exits


def test_who_waits_for_the_turn_executes_nothing_and_can_be_kicked() -> None:
    cpu, other, did = by_turns()
    assert cpu._turn is not None
    with cpu._turn:
        thread, exits = waiting(other)
        assert did == []
        other.kick()
        thread.join()
        assert exits == [Kicked()]
    assert isinstance(other.enter(), Hypercall)
    assert did == ["1", "1"]


def test_who_is_kept_out_goes_on_when_it_is_let_in() -> None:
    cpu, other, did = by_turns()
    assert cpu._turn is not None
    with cpu._turn:
        thread, exits = waiting(other)
        assert other.keep_out()
        assert not cpu.keep_out()  # it does not wait, and is kicked
    assert cpu.enter() == Kicked()
    assert isinstance(cpu.enter(), Hypercall)
    assert did == ["0", "0"]
    other.let_in()
    thread.join()
    assert isinstance(exits[0], Hypercall)
    assert did == ["0", "0", "1", "1"]


def test_who_waits_for_the_turn_can_be_condemned() -> None:
    cpu, other, did = by_turns()
    assert cpu._turn is not None
    with cpu._turn:
        thread, exits = waiting(other)
        other.condemn("no more")
    thread.join()
    assert exits == [Failed("no more")]
    assert did == []
