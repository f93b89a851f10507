"""Plain state that is announced, or reachable, before it is written.

Each function takes the runtime and whether it is correct: the correct twin writes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from msgspec import Struct

from hfsched.explore.runtime import ExploreRuntime
from hfsched.memory.guestmemory import GuestMemory
from hfsched.scenarios.memory import HeapRam

BASE = 0x4000_0000


def announced(
    runtime: ExploreRuntime,
    correct: bool,
    write: Callable[[], object],
    read: Callable[[], object],
) -> None:
    """Let one task write and set an event (in this order if correct), and another wait and read."""
    ready = runtime.event("ready")

    def writer() -> None:
        if correct:
            write()
            ready.set()
        else:
            ready.set()
            write()

    def reader() -> None:
        ready.wait()
        read()

    runtime.spawn("writer", writer)
    runtime.spawn("reader", reader)


class Request:
    """A request and its result, as the driver has them."""

    def __init__(self) -> None:
        self.result: int | None = None


def attribute(runtime: ExploreRuntime, correct: bool) -> None:
    request = Request()

    def write() -> None:
        request.result = 3

    announced(runtime, correct, write, lambda: request.result is not None and request.result + 1)


class Record(Struct):
    words: tuple[int, ...] = ()


def attribute_of_struct(runtime: ExploreRuntime, correct: bool) -> None:
    record = Record()

    def write() -> None:
        record.words = (1, 2)

    announced(runtime, correct, write, lambda: record == Record((1, 2)))


def item(runtime: ExploreRuntime, correct: bool) -> None:
    box: list[int | None] = [None]

    def write() -> None:
        box[0] = 1

    announced(runtime, correct, write, lambda: box[0])


def item_of_dict_read_in_c(runtime: ExploreRuntime, correct: bool) -> None:
    sizes = {"a": 1}
    announced(runtime, correct, lambda: sizes.update(b=2), lambda: sum(sizes.values()))


def deque_iterated(runtime: ExploreRuntime, correct: bool) -> None:
    queue: deque[bytes] = deque()
    announced(runtime, correct, lambda: queue.append(b"x"), lambda: [len(each) for each in queue])


def set_by_a_bound_method(runtime: ExploreRuntime, correct: bool) -> None:
    members: set[int] = set()
    add = members.add  # a callback, as the driver has them
    announced(runtime, correct, lambda: list(map(add, (1, 2))), lambda: sorted(members))


def closure_cell(runtime: ExploreRuntime, correct: bool) -> None:
    answer: bytes | None = None

    def write() -> None:
        nonlocal answer
        answer = b"answer"

    announced(runtime, correct, write, lambda: answer)


_configured: dict[str, int] | None = None


def module_global(runtime: ExploreRuntime, correct: bool) -> None:
    def write() -> None:
        globals()["_configured"] = {"vcpus": 2}

    announced(runtime, correct, write, lambda: _configured)


def guest_memory(runtime: ExploreRuntime, correct: bool) -> None:
    """The payload of a message is copied after the mailbox is announced to be full."""
    memory = GuestMemory.whole(HeapRam("g", 0x2000), BASE)
    announced(
        runtime,
        correct,
        lambda: memory.write(BASE + 0x1000, b"payload"),
        lambda: memory.read(BASE + 0x1004, 8),
    )


@dataclass
class Entry:
    state: str = "free"


def one_object_by_two_names(runtime: ExploreRuntime, correct: bool) -> None:
    entries = [Entry(), Entry()]
    first = entries[0]
    announced(
        runtime,
        correct,
        lambda: vars(first).update(state="taken"),
        lambda: replace(entries[0], state="freed"),
    )


PROGRAMS = (
    attribute,
    attribute_of_struct,
    item,
    item_of_dict_read_in_c,
    deque_iterated,
    set_by_a_bound_method,
    closure_cell,
    module_global,
    guest_memory,
    one_object_by_two_names,
)
