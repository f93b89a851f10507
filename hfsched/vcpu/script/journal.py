"""What a script guest was given since its CPU's reset, recorded, and given to it once more.

A Python generator cannot be copied.  It can be made anew and run to the same place, if it is given the
same: that is what `Cpu.restore` does with the journal of the CPU that was saved.  A journal is a list of
`Entry`, in the order in which things happened, those of interrupt handlers that have ended included.

What a guest takes in besides what is sent to it (memory by `Cpu.read`, the time by `Cpu.arm`) is
recorded and given back; what it writes to memory is not written again.  So a guest that is to be saved
may depend on nothing else: no clock, random numbers or files of Python, and no objects that it shares
with other CPUs or with the host.  Where a guest does otherwise, by yielding, reading or writing
something else than was recorded, `Diverged` is raised.

A journal grows as long as the CPU runs: by 30 to 60 bytes for a hypercall, and by what is read from
memory.  It begins anew with each reset of the CPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias, TypeVar
from zlib import crc32

import msgspec

from hfsched.vcpu.engine import Conduit
from hfsched.vcpu.script.actions import Abort, Action, Hvc, Load, Store

__all__ = [
    "BEGAN",
    "RAISED",
    "RETURNED",
    "Diverged",
    "Entry",
    "Journal",
    "Kind",
    "Number",
    "Outcome",
    "Replay",
    "Tape",
    "action_of",
    "number",
]

T = TypeVar("T", bytes, int)
Kind: TypeAlias = Literal["guest", "handler", "mask"]
Number: TypeAlias = int | str
"""An int, as its decimal digits where 64 bits are not enough for it."""

Outcome: TypeAlias = list[Number]
"""What a run came to: an action's code and numbers, or `BEGAN`, `RETURNED` or `RAISED`."""

BEGAN, RETURNED, RAISED = "began", "returned", "raised"


class Diverged(BaseException):
    """The guest does something else than was recorded.  No `Exception`: a guest may catch those."""


class Entry(msgspec.Struct, array_like=True):
    """A program that begins (`sent` is "guest" or "handler"), or a generator's run to its next action.

    `sent`: None starts it, numbers are sent to it, an address is raised in it as `Abort`; "mask" is no run
    at all: the hypervisor masked the timer.  `inputs` are what it took in meanwhile (None: the attempt
    raised an exception), `check` a checksum of what it asked for and wrote.
    """

    sent: list[int] | int | Kind | None
    inputs: list[bytes | int | None]
    check: int
    outcome: Outcome


class Tape(Protocol):
    """What stands between a guest and the rest of the world while its code runs."""

    def take(self, what: bytes, get: Callable[[], T]) -> T:
        """Return what the guest takes in: what `get` returns, or what it returned when recorded."""

    def give(self, address: int, data: bytes) -> bool:
        """Note what the guest writes; return whether it is to be written."""


class Journal:
    """Records; the entries are kept encoded."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._data = bytearray()
        self._count = 0
        self._inputs: list[bytes | int | None] = []
        self._check = 0

    def clear(self) -> None:
        """Forget all entries."""
        self._data = bytearray()
        self._count = 0
        self._inputs = []
        self._check = 0

    def take(self, what: bytes, get: Callable[[], T]) -> T:
        """See `Tape.take`."""
        self._check = crc32(what, self._check)
        try:
            value = get()
        except BaseException:
            self._inputs.append(None)
            raise
        self._inputs.append(value)
        return value

    def give(self, address: int, data: bytes) -> bool:
        """See `Tape.give`."""
        self._check = _sum(self._check, address, data)
        return True

    def add(self, sent: Sequence[int] | Abort | Kind | None, outcome: Outcome) -> None:
        """End an entry with what was taken in and written since the last."""
        given = sent.address if isinstance(sent, Abort) else sent
        entry = Entry(
            given if given is None or isinstance(given, int | str) else list(given),
            self._inputs,
            self._check,
            outcome,
        )
        self._encoder.encode_into(entry, self._data, -1)
        self._count += 1
        self._inputs = []
        self._check = 0

    def encoded(self) -> bytes:
        """Return all entries as one MessagePack array."""
        return b"\xdd" + self._count.to_bytes(4, "big") + self._data

    def load(self, entries: list[Entry]) -> None:
        """Begin with these entries."""
        self.clear()
        for entry in entries:
            self._encoder.encode_into(entry, self._data, -1)
        self._count = len(entries)


class Replay:
    """Gives a guest what one entry recorded."""

    def __init__(self, entry: Entry) -> None:
        self._inputs = deque(entry.inputs)
        self._entry = entry
        self._check = 0
        self._wrong: str | None = None  # a guest may catch even `Diverged`

    def take(self, what: bytes, get: Callable[[], T]) -> T:
        """See `Tape.take`."""
        self._check = crc32(what, self._check)
        if not self._inputs:
            self._wrong = "it reads more than it did"
            raise Diverged(self._wrong)
        value = self._inputs.popleft()
        if value is None:
            get()  # raises again, unless the guest asks for something else now
            self._wrong = "a read that failed succeeds"
            raise Diverged(self._wrong)
        return value  # type: ignore[return-value]  # what it was recorded as

    def give(self, address: int, data: bytes) -> bool:
        """See `Tape.give`."""
        self._check = _sum(self._check, address, data)
        return False

    def end(self, outcome: Outcome) -> None:
        """Compare; raises `Diverged`."""
        if self._wrong is not None:
            raise Diverged(self._wrong)
        if outcome != self._entry.outcome:
            raise Diverged(f"it {_words(outcome)}, where it {_words(self._entry.outcome)} before")
        if self._inputs:
            raise Diverged("it reads less than it did")
        if self._check != self._entry.check:
            raise Diverged("it reads or writes other addresses, or writes something else")


def action_of(action: Action) -> Outcome:
    """Return an action as an outcome; what is none has the name of its type."""
    if isinstance(action, Hvc):
        code = "hvc" if action.conduit is Conduit.HVC else "smc"
        return [code, *action.args]
    numbers: tuple[int, ...] = ()
    if isinstance(action, Load):
        numbers = (action.address, action.size)
    elif isinstance(action, Store):
        numbers = (action.address, action.value, action.size)
    return [type(action).__name__.lower(), *map(number, numbers)]


def number(value: int) -> Number:
    """Return an int as MessagePack can have it."""
    return value if -(1 << 63) <= value < 1 << 64 else str(value)


def _words(outcome: Outcome) -> str:
    code, *numbers = outcome
    if code in (BEGAN, RETURNED, RAISED):
        return str(code)
    shown = (f"{each:#x}" if isinstance(each, int) else each for each in numbers)
    return f"yielded {code}({', '.join(shown)})"


def _sum(before: int, address: int, data: bytes) -> int:
    return crc32(data, crc32(b"%d" % address, before))
