"""What the scenarios share: ids, registers full of junk, the beginning and the end."""

from __future__ import annotations

from probescript import FIRST, PRIMARY, RX, TX, Kind, Scenario, Who, base_of

from hfsched.abi.ffa import CONVENTION_64, FfaId, HfId

VERSION, FEATURES, ID_GET = FfaId.VERSION, FfaId.FEATURES, FfaId.ID_GET
RX_RELEASE, PARTITION_INFO = FfaId.RX_RELEASE, FfaId.PARTITION_INFO_GET
MAP, UNMAP = FfaId.RXTX_MAP | CONVENTION_64, FfaId.RXTX_UNMAP
SEND, POLL, WAIT, YIELD, RUN = (
    FfaId.MSG_SEND,
    FfaId.MSG_POLL,
    FfaId.MSG_WAIT,
    FfaId.YIELD,
    FfaId.RUN,
)
REQUEST, RESPONSE = FfaId.MSG_SEND_DIRECT_REQ, FfaId.MSG_SEND_DIRECT_RESP
ENABLE, GET, INJECT = HfId.INTERRUPT_ENABLE, HfId.INTERRUPT_GET, HfId.INTERRUPT_INJECT
WRITABLE, WAITER, DEBUG_LOG = HfId.MAILBOX_WRITABLE_GET, HfId.MAILBOX_WAITER_GET, HfId.DEBUG_LOG

HIGH = 1 << 32
# In registers that a call does not use: an answer must not depend on them.
JUNK = tuple(0xA_1111_0000 + 0x0101 * i for i in range(8))
WAYS = [(kind, bit) for kind in (Kind.HVC, Kind.SMC) for bit in (0, CONVENTION_64)]


def scenario(name: str, vcpus: tuple[int, ...] = (1,), *, enter: bool = True) -> Scenario:
    """Begin one: the primary maps its mailbox, and runs VM 2."""
    made = Scenario(name, vcpus)
    map_mailbox(made, PRIMARY)
    if enter:
        run(made)
    return made


def map_mailbox(made: Scenario, vm: int) -> None:
    base = base_of(vm)
    made.hvc(vm, MAP, base + TX, base + RX, 1)


def run(made: Scenario, vm: int = FIRST, vcpu: int = 0) -> None:
    made.hvc(PRIMARY, RUN, vm << 16 | vcpu)


def send(made: Scenario, sender: Who | int, receiver: int, size: int, attributes: int = 0) -> None:
    number = sender if isinstance(sender, int) else sender[0]
    made.hvc(sender, SEND, number << 16 | receiver, 0, size, attributes)


def fill(made: Scenario, vm: int, value: int, words: int = 8) -> None:
    """Write a VM's TX: value, value + 1, ..."""
    made.row(vm, Kind.STORE, base_of(vm) + TX, value, words)
