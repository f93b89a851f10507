"""What a generation of the guest ABI is made of.

A `Dialect` is a table from function ids to operations of the hypervisor, with a decoder for the
arguments of each, and encoders for what the hypervisor answers.  The hypervisor knows operations
and answers, and no id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Protocol, TypeAlias

from msgspec import Struct

__all__ = ["Args", "Call", "Dialect", "Error", "Op", "Power", "Regs", "Show", "describe", "find"]

Regs: TypeAlias = tuple[int, ...]
"""Values for x0, x1, ...; the registers beyond stay as they are."""

Args: TypeAlias = tuple[int, ...]


class Op(Enum):
    """The operations of the hypervisor that a guest can ask for, with their decoded arguments."""

    VERSION = auto()  # (requested,)
    FEATURES = auto()  # (function id,)
    ID_GET = auto()  # ()
    PARTITION_INFO_GET = auto()  # (four words of a UUID)
    RXTX_MAP = auto()  # (TX address, RX address, pages)
    RXTX_UNMAP = auto()  # (owner << 16: 0 at a virtual instance,)
    RX_RELEASE = auto()  # ()
    MSG_SEND = auto()  # (sender, receiver, size in bytes, notify 0 or 1)
    MSG_WAIT = auto()  # ()
    MSG_POLL = auto()  # ()
    YIELD = auto()  # ()
    RUN = auto()  # (VM, vCPU)
    DIRECT_REQUEST = auto()  # (sender, receiver)
    DIRECT_RESPONSE = auto()  # (sender, receiver, w3, ..., w7)
    NOT_SUPPORTED = auto()  # (): known to the specification, not to this hypervisor
    WRITABLE_GET = auto()  # ()
    WAITER_GET = auto()  # (VM,)
    INTERRUPT_ENABLE = auto()  # (interrupt id, on)
    INTERRUPT_GET = auto()  # ()
    INTERRUPT_INJECT = auto()  # (VM, vCPU, interrupt id)
    DEBUG_LOG = auto()  # (character,)
    PSCI_VERSION = auto()  # ()
    PSCI_FEATURES = auto()  # (function id,)
    CPU_SUSPEND = auto()  # ()
    CPU_OFF = auto()  # ()
    CPU_ON = auto()  # (vCPU, entry address, context)
    AFFINITY_INFO = auto()  # (vCPU, lowest affinity level)
    PSCI_NOT_SUPPORTED = auto()  # ()


class Error(Enum):
    """Why the hypervisor refuses, in no dialect's numbers."""

    NOT_SUPPORTED = auto()
    INVALID_PARAMETERS = auto()
    NO_MEMORY = auto()
    BUSY = auto()
    INTERRUPTED = auto()
    DENIED = auto()
    RETRY = auto()
    ABORTED = auto()


class Power(Enum):
    """Answers of the power calls."""

    SUCCESS = auto()
    OFF = auto()
    NOT_SUPPORTED = auto()
    INVALID_PARAMETERS = auto()
    DENIED = auto()
    ALREADY_ON = auto()


class Call(Struct, frozen=True):
    """One function id: what it asks for, how its arguments are read, and by which instructions.

    `name` is the specification's, and `arguments` name what `decode` returns, in its order.  `decode`
    gets x0 to x(registers - 1) as unsigned 64-bit numbers and returns the arguments that `Op` has.
    Engines read the first eight at every hypercall, the others for a call that says so here.
    """

    name: str
    op: Op
    arguments: tuple[str, ...]
    decode: Callable[[Regs], Args]
    smc: bool  # known by SMC
    registers: int = 8  # 8 to 18
    hvc: bool = True  # known by HVC
    exact: bool = False  # x0 is the id in all 64 bits; else its upper half does not count


Show: TypeAlias = Callable[[str, int], str]
"""Returns an argument's value, given its name in `Call.arguments` or `Dialect.answer`, in words."""


class Dialect(Protocol):
    """One generation of the ABI.  Every encoder returns `Regs`.

    `registers`: how many argument registers its calls and answers use at most, 8 to 18.
    """

    name: str
    registers: int
    calls: Mapping[int, Call]  # by id; `find` says which values of x0 mean one
    unknown: Regs  # the answer to an id that is not in `calls`

    def __hash__(self) -> int: ...

    def answer(self, regs: Regs, show: Show) -> str:
        """Return in words what a call returned.

        `show` is asked for "sender" (a VM's id) and "intid".
        """

    def success(self, w2: int = 0) -> Regs: ...
    def error(self, error: Error) -> Regs: ...
    def version(self, requested: int) -> Regs: ...
    def features(self, function: int) -> Regs: ...
    def message(self, sender: int, receiver: int, size: int) -> Regs:
        """Encode a message that has arrived (the answer of a wait or a poll)."""

    def direct_request(self, sender: int, receiver: int, words: Args) -> Regs: ...
    def interrupted_response(self) -> Regs:
        """Encode what a direct response returns when an interrupt ended the wait after it."""

    def value(self, value: int) -> Regs:
        """Encode a plain number, -1 included (Hafnium's own calls)."""

    def invalid_intid(self) -> Regs: ...
    def psci_version(self) -> Regs: ...
    def psci_features(self, function: int) -> Regs: ...
    def power(self, power: Power) -> Regs: ...
    def partition_info(self, partitions: list[tuple[int, int]]) -> bytes:
        """Encode {VM id, vCPUs} descriptors as RX holds them."""


def find(calls: Mapping[int, Call], x0: int) -> int | None:
    """Return the id that `x0` means in `calls`, by whichever instruction, or None."""
    call = calls.get(x0 & 0xFFFF_FFFF)
    if call is None or (call.exact and x0 >> 32):
        return None
    return x0 & 0xFFFF_FFFF


def describe(call: Call, regs: Regs, show: Show) -> str:
    """Return a call in words: its name, and its arguments as ``name=value``.

    `regs` are x0 to x(call.registers - 1).
    """
    values = zip(call.arguments, call.decode(regs), strict=True)
    return " ".join([call.name, *(f"{name}={show(name, value)}" for name, value in values)])
