"""Lost updates on plain state: two tasks read, and write what they have computed from it.

Each function takes the runtime and whether it is correct, and spawns the tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from hfsched.explore.runtime import ExploreRuntime
from hfsched.memory.guestmemory import GuestMemory
from hfsched.scenarios.memory import HeapRam

BASE = 0x4000_0000


def both(runtime: ExploreRuntime, correct: bool, act: Any, state: Callable[[], object]) -> None:
    """Spawn two tasks that act, each under a lock of this state if it is to be correct."""
    lock = runtime.lock("lock", state=state)

    def body() -> None:
        if correct:
            with lock:
                act()
        else:
            act()

    for name in "ab":
        runtime.spawn(name, body)


class Counters:
    """Statistics of a port, with slots."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0

    def note(self, size: int) -> None:
        self.messages += 1
        self.bytes += size


def attribute_with_slots(runtime: ExploreRuntime, correct: bool) -> None:
    counters = Counters()
    both(runtime, correct, lambda: counters.note(16), lambda: (counters.messages, counters.bytes))


@dataclass
class Credit:
    left: int = 8


def attribute_by_setattr(runtime: ExploreRuntime, correct: bool) -> None:
    credit = Credit()

    def take() -> None:
        left = getattr(credit, "left")  # noqa: B009 - it is what is tested
        setattr(credit, "left", left - 1)  # noqa: B010

    both(runtime, correct, take, lambda: credit.left)


def item_of_list(runtime: ExploreRuntime, correct: bool) -> None:
    pending = [0, 0]

    def raise_line() -> None:
        pending[1] |= 1 << 4

    both(runtime, correct, raise_line, lambda: pending)


def item_of_dict(runtime: ExploreRuntime, correct: bool) -> None:
    retries: dict[str, int] = {}

    def retry() -> None:
        retries["g"] = retries.get("g", 0) + 1

    both(runtime, correct, retry, lambda: retries)


def deque_turned(runtime: ExploreRuntime, correct: bool) -> None:
    queue = deque([1, 2, 3])

    def turn() -> None:
        first = queue.popleft()
        queue.append(first)

    both(runtime, correct, turn, lambda: queue)


class Waiters:
    def __init__(self) -> None:
        self.ids: frozenset[int] = frozenset()
        self.all: set[int] = set()


def set_replaced(runtime: ExploreRuntime, correct: bool) -> None:
    waiters = Waiters()

    def wait() -> None:
        seen = set(waiters.all)
        seen.add(len(seen))
        waiters.all = seen

    both(runtime, correct, wait, lambda: waiters.all)


def closure_cell(runtime: ExploreRuntime, correct: bool) -> None:
    served = 0

    def serve() -> None:
        nonlocal served
        served += 1

    both(runtime, correct, serve, lambda: served)


_next_id = 1


def module_global(runtime: ExploreRuntime, correct: bool) -> None:
    global _next_id  # noqa: PLW0603 - it is what is tested
    _next_id = 1

    def allocate() -> None:
        global _next_id  # noqa: PLW0603
        _next_id = _next_id + 1

    both(runtime, correct, allocate, lambda: _next_id)


def guest_memory(runtime: ExploreRuntime, correct: bool) -> None:
    memory = GuestMemory.whole(HeapRam("g", 0x2000), BASE)

    def bump() -> None:
        index = int.from_bytes(memory.read(BASE + 0x102, 2), "little")
        memory.write(BASE + 0x102, (index + 1).to_bytes(2, "little"))

    both(runtime, correct, bump, lambda: memory.read(BASE + 0x102, 2))


class Position(Struct):
    head: int = 0


def one_object_by_two_names(runtime: ExploreRuntime, correct: bool) -> None:
    ours = Position()
    lock = runtime.lock("lock", state=lambda: ours.head)
    theirs = {"peer": ours}["peer"]

    def producer() -> None:
        if correct:
            with lock:
                ours.head = ours.head + 1
        else:
            ours.head = ours.head + 1

    def consumer() -> None:
        if correct:
            with lock:
                theirs.head -= 1
        else:
            theirs.head -= 1

    runtime.spawn("producer", producer)
    runtime.spawn("consumer", consumer)


PROGRAMS = (
    attribute_with_slots,
    attribute_by_setattr,
    item_of_list,
    item_of_dict,
    deque_turned,
    set_replaced,
    closure_cell,
    module_global,
    guest_memory,
    one_object_by_two_names,
)
