"""What the explorer compares of a script guest: all of its state, or it is refused."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from cases import said

from hfsched.errors import IncomparableError
from hfsched.explore.canonical import NoCanonicalFormError
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.script import Action, Cpu, Guest, Hvc, Program, ScriptEngine
from hfsched.vcpu.script.statekey import frames

BASE, SIZE = 0x8000_0000, 4 * 4096


def start(program: Program) -> Cpu:
    space = ScriptEngine(ThreadRuntime()).space("vm", 1)
    space.map(BASE, Ram("vm", SIZE), 0, SIZE, Permissions.RWX)
    cpu = space.vcpu(0)
    cpu.reset(space.address_of(program), 0)
    return cpu


@dataclass
class Fields:
    number: int


class Keyed:
    def __init__(self, number: int) -> None:
        self.number = number

    def key(self) -> int:
        return self.number


class Keyless:
    def __init__(self, number: int) -> None:
        self.number = number


def holding(value: object) -> Program:
    def guest(_: Cpu) -> Guest:
        held = value
        yield Hvc(0)
        del held

    return guest


def enclosing(number: int) -> Callable[[], int]:
    return lambda: number


def counted(number: int) -> Iterator[tuple[int, str]]:
    each = enumerate("abc")
    for _ in range(number):
        next(each)
    return each


def begun(number: int) -> Generator[int, None, None]:
    each = (item for item in range(3))
    for _ in range(number):
        next(each)
    return each


@pytest.mark.parametrize(
    "make",
    [
        Fields,
        Keyed,
        enclosing,
        counted,
        begun,
        lambda number: [number],
        lambda number: {"a": number},
        lambda number: {number},
        lambda number: deque([number]),
        lambda number: deque(maxlen=1 + number),
        lambda number: iter(deque([number])),
        lambda number: bytearray([number]),
        lambda number: partial(print, number),
        lambda number: Keyed(number).key,
        lambda number: [1].append if number else [2].append,
        lambda number: (1,) if number else [1],
    ],
)
def test_a_local_is_part_of_the_state(make: Callable[[int], object]) -> None:
    keys = []
    for number in (0, 0, 1):
        cpu = start(holding(make(number)))
        cpu.enter()
        keys.append(cpu.state_key())
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


@pytest.mark.parametrize("over", [(0, 0, 0), [0, 0, 0], bytes(3), "aaa"])
def test_how_far_a_loop_is_belongs_to_the_state(over: Any) -> None:
    """Its iterator is no local, and what it gives is always the same."""

    def inner() -> Generator[Action, tuple[int, ...], None]:
        for _ in over:
            yield Hvc(0)

    def guest(_: Cpu) -> Guest:
        yield from inner()

    cpu = start(guest)
    keys = []
    for _ in range(3):
        cpu.enter()
        keys.append(cpu.state_key())
        cpu.reply((0,))
    assert len(set(keys)) == 3


def test_what_a_handler_encloses_belongs_to_the_state() -> None:
    def handle(_log: list[int], _: Cpu) -> Guest:
        yield Hvc(0)

    keys = []
    for number in (0, 0, 1):
        cpu = start(holding(None))
        cpu.handler = partial(handle, [number])
        keys.append(cpu.state_key())
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (Keyless(1), "a Keyless has no key"),
        ([(Keyless(1),)], "a Keyless has no key"),
        ({1: Fields(Keyless(1))}, "a Keyless has no key"),  # type: ignore[arg-type]
        (enclosing(Keyless(1)), "a Keyless has no key"),  # type: ignore[arg-type]
        (memoryview(b""), "a memoryview has no key"),
        (threading.Lock(), "a lock has no key"),
    ],
)
def test_a_local_that_cannot_be_compared_is_refused_by_its_name(value: object, what: str) -> None:
    cpu = start(holding(value))
    cpu.enter()
    place = "holding.<locals>.guest: local variable held: "
    with pytest.raises(IncomparableError) as refused:
        cpu.state_key()
    assert str(refused.value).startswith(place + what)


def test_a_local_that_contains_itself_is_refused() -> None:
    ring: list[object] = []
    ring.append(ring)
    cpu = start(holding(ring))
    cpu.enter()
    with pytest.raises(IncomparableError, match="held: a list that is nested too deeply"):
        cpu.state_key()


def test_a_handler_and_a_loop_that_cannot_be_compared_are_refused() -> None:
    class Items:
        def __iter__(self) -> Items:
            return self

        def __next__(self) -> int:
            return 0

    def guest(_: Cpu) -> Guest:
        for _each in Items():
            yield Hvc(0)

    cpu = start(guest)
    cpu.enter()
    with pytest.raises(IncomparableError, match=r"guest: the iterator of a loop: a .*Items has no"):
        cpu.state_key()
    cpu = start(holding(None))
    cpu.handler = partial(holding, Keyless(1))  # type: ignore[assignment]
    with pytest.raises(IncomparableError, match=r"^the interrupt handler of vm\.0: a Keyless"):
        cpu.state_key()


def test_a_search_is_refused_that_would_leave_a_local_out() -> None:
    """As it is for a lock or a cell: see tests/explore/test_unsound_once.py."""

    def make(runtime: ExploreRuntime) -> World:
        guest = holding(Keyless(1))(None)  # type: ignore[arg-type]
        next(guest)
        for name in "ab":
            runtime.spawn(name, lambda: runtime.checkpoint("here"))
        runtime.attach("a", lambda: frames(guest))
        return World()

    with pytest.raises(NoCanonicalFormError) as refused:
        said(make)
    assert str(refused.value).startswith(
        "what a has attached: holding.<locals>.guest: local variable held: a Keyless has no key"
    )
