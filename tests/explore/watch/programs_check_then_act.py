"""Checks of plain state that no longer hold when the task acts on them.

Each function takes the runtime and whether it is correct, and spawns the tasks.  The correct twins are
ordered in different ways: by a lock, by an event, by a cell, by a message, by the end of a task.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property, partial
from itertools import islice
from typing import Any

from hfsched.explore.runtime import ExploreRuntime
from hfsched.memory.guestmemory import GuestMemory
from hfsched.scenarios.memory import HeapRam

BASE = 0x4000_0000


class Door:
    """A flag behind a property."""

    def __init__(self) -> None:
        self._open = True
        self.users = 0

    @property
    def is_open(self) -> bool:
        return self._open

    @is_open.setter
    def is_open(self, value: bool) -> None:
        self._open = value


def property_checked(runtime: ExploreRuntime, correct: bool) -> None:
    """A door may be closed while somebody has seen it open."""
    door = Door()
    lock = runtime.lock("lock", state=lambda: (door.is_open, door.users))

    def enter() -> None:
        if correct:
            with lock:
                if door.is_open:
                    door.users += 1
        elif door.is_open:
            door.users += 1

    def close() -> None:
        with lock:
            door.is_open = False

    runtime.spawn("enter", enter)
    runtime.spawn("close", close)


def item_checked(runtime: ExploreRuntime, correct: bool) -> None:
    """The slot of a ring is free, and then taken by two."""
    slots: list[str | None] = [None, None]
    taken = runtime.cell("taken", value=False)

    def claim(name: str) -> None:
        if correct:
            if taken.compare_and_set(False, True):
                slots[0] = name
        elif slots[0] is None:
            slots[0] = name

    for name in "ab":
        runtime.spawn(name, partial(claim, name))


def dict_checked(runtime: ExploreRuntime, correct: bool) -> None:
    """A connection is made once for each name."""
    known: dict[str, object] = {}
    lock = runtime.lock("lock", state=lambda: sorted(known))

    def connect() -> None:
        if "g" not in known:
            known["g"] = object()

    def task() -> None:
        if correct:
            with lock:
                connect()
        else:
            connect()

    for name in "ab":
        runtime.spawn(name, task)


def deque_checked(runtime: ExploreRuntime, correct: bool) -> None:
    """A queue is not empty, and then it is."""
    queue = deque([b"only"])
    lock = runtime.lock("lock", state=lambda: queue)

    def take() -> bytes | None:
        return queue.popleft() if queue else None

    def task() -> None:
        if correct:
            with lock:
                take()
        else:
            take()

    for name in "ab":
        runtime.spawn(name, task)


def set_checked(runtime: ExploreRuntime, correct: bool) -> None:
    """A suspended machine has no holder left, and gets one."""
    holders = {"debugger"}
    over = runtime.event("over")
    log = []

    def resume() -> None:
        if correct:
            over.wait()
        if not holders:
            log.append("resumed")

    def hold() -> None:
        holders.discard("debugger")
        holders.add("swap")
        over.set()

    runtime.spawn("resume", resume)
    runtime.spawn("hold", hold)


def length_checked(runtime: ExploreRuntime, correct: bool) -> None:
    """There is room for one more, seen by two."""
    inbox: list[int] = []
    turn, left = runtime.channel("turn")

    def first() -> None:
        if len(inbox) < 1:
            inbox.append(1)
        turn.send(b"yours")

    def second() -> None:
        if correct:
            left.recv()
        if len(inbox) < 1:
            inbox.append(2)

    runtime.spawn("first", first)
    runtime.spawn("second", second)


def closure_checked(runtime: ExploreRuntime, correct: bool) -> None:
    """A task begins once."""
    begun = False
    lock = runtime.lock("lock", state=lambda: begun)

    def begin() -> None:
        nonlocal begun
        if not begun:
            begun = True

    def task() -> None:
        if correct:
            with lock:
                begin()
        else:
            begin()

    for name in "ab":
        runtime.spawn(name, task)


_shared_ram: HeapRam | None = None


def global_checked(runtime: ExploreRuntime, correct: bool) -> None:
    """A module's object is made at its first use."""
    global _shared_ram  # noqa: PLW0603 - it is what is tested
    _shared_ram = None

    def use() -> Any:
        global _shared_ram  # noqa: PLW0603
        if _shared_ram is None:
            _shared_ram = HeapRam("shared", 0x1000)
        return _shared_ram

    def second() -> None:
        if correct:
            first.join()
        use()

    first = runtime.spawn("first", lambda: use() and None)
    runtime.spawn("second", second)


def memory_checked(runtime: ExploreRuntime, correct: bool) -> None:
    """The lock byte in a page that two VMs share is free."""
    ram = HeapRam("shared", 0x1000)
    own, theirs = GuestMemory.whole(ram, BASE), GuestMemory.whole(ram, 2 * BASE)
    lock = runtime.lock("lock", state=lambda: own.read(BASE + 8, 1))

    def claim(memory: GuestMemory, base: int) -> None:
        if memory.read(base + 8, 1) == b"\0":
            memory.write(base + 8, b"\1")

    def task(memory: GuestMemory, base: int) -> None:
        if correct:
            with lock:
                claim(memory, base)
        else:
            claim(memory, base)

    runtime.spawn("own", lambda: task(own, BASE))
    runtime.spawn("theirs", lambda: task(theirs, 2 * BASE))


class Lazy:
    @cached_property
    def table(self) -> list[int]:
        return list(islice(range(100), 4))


def one_object_by_two_names(runtime: ExploreRuntime, correct: bool) -> None:
    """A table is made at its first use, by two who have it under different names."""
    lazy = Lazy()
    holders = [lazy, lazy]
    lock = runtime.lock("lock", state=lambda: "table" in vars(lazy))

    def task(number: int) -> None:
        if correct:
            with lock:
                assert holders[number].table
        else:
            assert holders[number].table

    for number in range(2):
        runtime.spawn(f"task.{number}", partial(task, number))


PROGRAMS = (
    property_checked,
    item_checked,
    dict_checked,
    deque_checked,
    set_checked,
    length_checked,
    closure_checked,
    global_checked,
    memory_checked,
    one_object_by_two_names,
)
