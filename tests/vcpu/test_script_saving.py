"""Script guests that are saved and restored: made anew, and given what they were given before."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.errors import UserError
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Exit, Failed, Hypercall, Kicked, Mmio, Permissions, Timer
from hfsched.vcpu.engine import Wfi as WfiExit
from hfsched.vcpu.script import (
    Abort,
    Action,
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

BASE = 0x8000_0000
SIZE = 4 * 4096
OUTSIDE = BASE + SIZE


class Clock(ThreadRuntime):
    def __init__(self, time: int = 1000) -> None:
        super().__init__()
        self.time = time

    def now(self) -> int:
        return self.time


def machine(*programs: Program, vcpus: int = 1, time: int = 1000) -> ScriptSpace:
    space = ScriptEngine(Clock(time), recording=True).space("vm", vcpus)
    space.map(BASE, Ram("vm", SIZE), 0, SIZE, Permissions.RWX)
    for program in programs:
        space.address_of(program)
    return space


def start(program: Program, arg: int = 0) -> Cpu:
    space = machine(program)
    cpu = space.vcpu(0)
    cpu.reset(space.address_of(program), arg)
    return cpu


def copy(cpu: Cpu, program: Program, *others: Program, time: int = 1000) -> Cpu:
    """Return another machine's CPU, restored, with the first one's memory."""
    space = machine(program, *others, time=time)
    space.ram.write(0, cpu._space.ram.read(0, SIZE))
    restored = space.vcpu(0)
    restored.restore(cpu.save())
    restored.set_irq(cpu._line.get())
    return restored


def refusal(cpu: Cpu, program: Program) -> str:
    """Return why a CPU cannot be restored, without the VM's name."""
    restored = machine(program).vcpu(0)
    with pytest.raises(UserError) as caught:
        restored.restore(cpu.save())
    assert restored.enter() == Failed("it could not be restored")
    return str(caught.value).removeprefix("vm vm: vCPU 0: its guest is not deterministic: ")


# A guest that does all that a guest can.

Part = Generator[Action, tuple[int, ...], int]


def ask(number: int) -> Part:
    regs = yield Hvc(0x8400_0069, number)
    return regs[2]


def add_up(cpu: Cpu, numbers: list[int]) -> Part:
    total = 0
    for number in numbers:
        total += yield from ask(number)
        yield Store(cpu.base + 8 * number, total)
        (read,) = yield Load(cpu.base + 8 * number)
        total = read + int.from_bytes(cpu.read(cpu.base + 0x800, 2), "little")
    return total


def ring(cpu: Cpu) -> Guest:
    """Handle an interrupt: by a call, and a note in memory."""
    regs = yield Hvc(0xFF04)
    cpu.write(cpu.base + 0x1000, bytes([regs[0] & 0xFF, *cpu.read(cpu.base + 0x1000, 7)]))
    yield Step()


def everything(cpu: Cpu) -> Guest:
    cpu.handler = ring
    cpu.write(cpu.base + 0x800, cpu.arg.to_bytes(2, "little"))
    total = yield from add_up(cpu, [1, 2, 3])
    cpu.masked = False
    yield Step()
    cpu.arm(500)
    while True:
        yield Wfi()
        try:
            yield Store(OUTSIDE, total)
            (seen,) = yield Load(OUTSIDE, 4)
        except Abort as abort:
            seen = abort.address
        wide = yield Smc(*range(seen & 0xFF, (seen & 0xFF) + 18))
        cpu.write(cpu.base + 0x900, sum(wide).to_bytes(16, "little"))
        cpu.arm(30 if total % 2 else None)
        total += sum(wide) % 1000


def answer(cpu: Cpu, event: Exit, number: int) -> None:
    """Play the hypervisor: the `number`-th exit of a guest has this answer."""
    cpu._runtime.time += 37  # type: ignore[attr-defined]
    if isinstance(event, Hypercall):
        if number % 7 == 3:
            cpu.reply(tuple(range(number, number + 18)))
        else:
            cpu.reply((0x8400_0061, 0, number, number * number))
    elif isinstance(event, Mmio):
        if number % 3:
            cpu.complete_mmio(number)
        else:
            cpu.inject_abort()
    elif isinstance(event, Timer):
        cpu.mask_timer()
    cpu.set_irq(number % 5 in (1, 2))
    if number % 11 == 10:
        cpu.kick()


def run(cpu: Cpu, numbers: Iterator[int]) -> list[object]:
    """Run a guest and return all that is seen of it from outside."""
    seen: list[object] = []
    for number in numbers:
        event = cpu.enter()
        seen.append((event, cpu.registers()))
        answer(cpu, event, number)
    return [*seen, cpu.state_key(), cpu._space.ram.read(0, SIZE)]


def test_a_guest_saved_at_any_exit_continues_as_the_original_does() -> None:
    kinds = set()
    frames = set()
    for at in range(60):
        cpu = start(everything, 7)
        run(cpu, iter(range(at)))
        time = cpu._runtime.time  # type: ignore[attr-defined]
        restored = copy(cpu, everything, time=time)
        if cpu._kick.get():
            restored.kick()
        assert restored.state_key() == cpu.state_key(), at
        assert restored.save() == cpu.save(), at
        frames.add(len(cpu._stack))
        rest = run(cpu, iter(range(at, 70)))
        assert run(restored, iter(range(at, 70))) == rest, at
        kinds |= {type(each[0]) for each in rest if isinstance(each, tuple) and len(each) == 2}
    assert frames == {1, 2}, "with a handler on the stack, and without"
    assert kinds >= {Hypercall, WfiExit, Mmio, Timer, Kicked}


def test_a_handler_on_the_stack_ends_and_the_guest_resumes_where_it_was() -> None:
    def guest(cpu: Cpu) -> Guest:
        cpu.handler = ring
        cpu.masked = False
        number = yield from ask(3)
        yield Hvc(1, number)

    cpu = start(guest)
    assert isinstance(cpu.enter(), Hypercall)
    cpu.reply((0, 0, 42))
    cpu.set_irq(True)
    event = cpu.enter()
    assert isinstance(event, Hypercall)
    assert event.args[0] == 0xFF04
    restored = copy(cpu, guest)
    for each in (cpu, restored):
        assert len(each._stack) == 2
        each.set_irq(False)
        each.reply((9,))
        last = each.enter()
        assert isinstance(last, Hypercall)
        assert last.args[:2] == (1, 42)
        assert each.read(BASE + 0x1000, 1) == b"\x09"


def test_what_was_read_is_given_again_and_what_was_written_is_not_written_again() -> None:
    def guest(cpu: Cpu) -> Guest:
        first = cpu.read(cpu.base, 4)
        cpu.write(cpu.base, b"mine")
        yield Step()
        yield Hvc(int.from_bytes(first, "little"))
        yield Hvc(int.from_bytes(first, "little"))

    cpu = start(guest)
    cpu.write(BASE, b"\1\0\0\0")
    cpu.enter()
    cpu.write(BASE, b"host")
    restored = copy(cpu, guest)
    assert restored.read(BASE, 4) == b"host"
    event = restored.enter()
    assert isinstance(event, Hypercall)
    assert event.args[0] == 1


def test_a_timer_has_as_long_to_go_as_it_had() -> None:
    def guest(cpu: Cpu) -> Guest:
        cpu.arm(500)
        while True:
            yield Hvc(cpu.timer or 0)

    cpu = start(guest)
    cpu.enter()
    cpu._runtime.time += 100  # type: ignore[attr-defined]
    restored = copy(cpu, guest, time=1_000_000)
    assert restored.timer_remaining() == cpu.timer_remaining() == 400
    cpu.mask_timer()
    assert copy(cpu, guest).timer_remaining() is None


def test_what_was_set_by_name_and_an_access_that_is_not_answered_are_kept() -> None:
    def guest(cpu: Cpu) -> Guest:
        regs = yield Hvc(1)
        yield Load(OUTSIDE, 4 + 0 * regs[5])
        yield Hvc(*regs)

    cpu = start(guest)
    cpu.enter()
    cpu.set_registers({"x5": 55})
    cpu = copy(cpu, guest)
    assert cpu.enter() == Mmio(OUTSIDE, 4, False, 0)
    cpu = copy(cpu, guest)
    assert cpu.enter() == Mmio(OUTSIDE, 4, False, 0), "it is tried again"
    cpu.complete_mmio(0)
    event = cpu.enter()
    assert isinstance(event, Hypercall)
    assert event.args[5] == 55


def test_further_cpus_are_restored_after_the_one_that_named_their_program() -> None:
    def second(cpu: Cpu) -> Guest:
        yield Hvc(2, cpu.arg)
        yield Hvc(3)

    def first(cpu: Cpu) -> Guest:
        yield Hvc(1, cpu.address_of(second))
        yield Wfi()

    space = machine(first, vcpus=2)
    zero, one = space.vcpu(0), space.vcpu(1)
    zero.reset(space.address_of(first), 0)
    event = zero.enter()
    assert isinstance(event, Hypercall)
    one.reset(event.args[1], 77)
    assert one.enter() == Hypercall(Hvc.conduit, (2, 77, 0, 0, 0, 0, 0, 0))
    saved = [cpu.save() for cpu in (zero, one)]
    space = machine(first, vcpus=2)
    with pytest.raises(UserError, match=r"vCPU 1: .* no program .*second at 0x80000004"):
        space.vcpu(1).restore(saved[1])
    for index, data in enumerate(saved):
        space.vcpu(index).restore(data)
    last = space.vcpu(1).enter()
    assert isinstance(last, Hypercall)
    assert last.args[0] == 3


def test_a_cpu_without_a_guest_is_saved_too() -> None:
    def returns(cpu: Cpu) -> Guest:
        yield Hvc(1)

    never = machine().vcpu(0)
    assert copy(never, returns).enter() == Failed("it was never started")
    cpu = start(returns)
    cpu.enter()
    assert cpu.enter() == Failed("the guest function returned")
    assert copy(cpu, returns).enter() == Failed("the guest function returned")


def test_a_reset_begins_the_journal_anew() -> None:
    def endless(cpu: Cpu) -> Guest:
        while True:
            yield Hvc(1)

    cpu = start(endless)
    fresh = len(cpu.save())
    for _ in range(100):
        cpu.enter()
    assert len(cpu.save()) > 2 * fresh
    cpu.reset(BASE, 0)
    assert len(cpu.save()) == fresh


def test_a_hypercall_costs_60_bytes_at_most() -> None:
    def waits(cpu: Cpu) -> Guest:
        while True:
            yield Hvc(0x8400_006B)

    cpu = start(waits)
    cpu.enter()
    before = len(cpu.save())
    for _ in range(1000):
        cpu.reply((0x8400_006E, 0x1_0002, 0, 64, 0, 0, 0, 0))
        cpu.enter()
    assert len(cpu.save()) - before <= 1000 * 60


# Guests that are not deterministic.


def different(change: Callable[[Cpu, int], int]) -> Program:
    """Return a guest that calls with what `change` returns, each time that it is made."""
    made = count()

    def guest(cpu: Cpu) -> Guest:
        number = next(made)
        yield Hvc(change(cpu, number))
        yield Hvc(5)

    return guest


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda cpu, number: number + 1,
            (
                "step 1 of 3: it yielded hvc(0x2, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0), where it"
                " yielded hvc(0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0) before"
            ),
        ),
        (lambda cpu, number: 0 // (1 - number), "step 1 of 3: it raised, where it yielded hvc(0x0"),
        (lambda cpu, number: sum(cpu.read(BASE, number)), "it reads or writes other addresses"),
        (
            lambda cpu, number: len([cpu.read(BASE, 1) for _ in range(number)]) * 0,
            "it reads more than it did",
        ),
        (
            lambda cpu, number: len([cpu.read(BASE, 1) for _ in range(1 - number)]) * 0,
            "it reads less than it did",
        ),
        (
            lambda cpu, number: cpu.write(BASE, bytes([number])) or 0,
            "it reads or writes other addresses, or writes something else",
        ),
    ],
)
def test_what_differs_is_said(change: Callable[[Cpu, int], int], why: str) -> None:
    guest = different(change)
    cpu = start(guest)
    cpu.enter()
    cpu.enter()
    assert why in refusal(cpu, guest)


def test_a_guest_that_catches_everything_is_found_all_the_same() -> None:
    def swallows(cpu: Cpu, number: int) -> int:
        try:
            return len([cpu.read(BASE, 1) for _ in range(number)]) * 0
        except BaseException:  # noqa: BLE001
            return 0

    guest = different(swallows)
    cpu = start(guest)
    cpu.enter()
    assert "it reads more than it did" in refusal(cpu, guest)


def test_a_guest_that_ends_sooner_or_sets_no_handler_any_more() -> None:
    made = count()

    def sooner(cpu: Cpu) -> Guest:
        if next(made):
            return
        yield Hvc(1)

    cpu = start(sooner)
    cpu.enter()
    assert refusal(cpu, sooner).startswith("step 1 of 2: it returned, where it yielded hvc(0x1")

    def forgets(cpu: Cpu) -> Guest:
        cpu.handler = None if next(made) > 2 else ring
        cpu.masked = False
        yield Step()
        yield Hvc(1)

    cpu = start(forgets)
    cpu.set_irq(True)
    cpu.enter()
    assert "it has no interrupt handler" in refusal(cpu, forgets)


def test_a_failed_read_fails_again() -> None:
    def guest(cpu: Cpu) -> Guest:
        try:
            cpu.read(cpu.base + SIZE, 1)
        except Exception:  # noqa: BLE001
            yield Hvc(1)
        yield Hvc(2)

    cpu = start(guest)
    cpu.enter()
    event = copy(cpu, guest).enter()
    assert isinstance(event, Hypercall)
    assert event.args[0] == 2


# What is refused.


def test_another_program_at_the_address_is_refused() -> None:
    def other(cpu: Cpu) -> Guest:
        yield Hvc(0x8400_0069, 1)

    cpu = start(everything)
    cpu.enter()
    assert refusal(cpu, other) == "there is no program everything at 0x80000000"


def test_an_engine_that_does_not_record_refuses() -> None:
    space = ScriptEngine(Clock()).space("vm", 1)
    for attempt in (space.vcpu(0).save, lambda: space.vcpu(0).restore(b"")):
        with pytest.raises(UserError, match=r"engine script .* recording=True"):
            attempt()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_restored_or_refused(data: st.DataObject) -> None:
    cpu = start(everything, 7)
    run(cpu, iter(range(6)))
    saved = bytearray(cpu.save())
    for _ in range(data.draw(st.integers(1, 4))):
        saved[data.draw(st.integers(0, len(saved) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(saved[: data.draw(st.integers(0, len(saved)))])
    refused: list[str] = []
    for each in (bytes(saved), cut, data.draw(st.binary(max_size=40))):
        restored = machine(everything).vcpu(0)
        try:
            restored.restore(each)
        except UserError as error:
            refused.append(str(error))
            assert restored.enter() == Failed("it could not be restored")
        else:
            restored.enter()
    assert all(text.startswith("vm vm: vCPU 0: ") for text in refused)
