"""Scenarios: mapping the mailbox, messages, waiters, direct messages."""

from __future__ import annotations

from fidelity_words import (
    DEBUG_LOG,
    ENABLE,
    GET,
    HIGH,
    ID_GET,
    INJECT,
    JUNK,
    MAP,
    PARTITION_INFO,
    POLL,
    REQUEST,
    RESPONSE,
    RUN,
    RX_RELEASE,
    SEND,
    UNMAP,
    VERSION,
    WAIT,
    WAITER,
    WAYS,
    WRITABLE,
    YIELD,
    fill,
    map_mailbox,
    run,
    scenario,
    send,
)
from probescript import PRIMARY, RX, SIZE, SPARE, TX, Kind, Scenario, base_of

from hfsched.abi.ffa import CONVENTION_64, FfaId, PsciId

_BASE = base_of(2)
_TX, _RX = _BASE + TX, _BASE + RX


def mapping() -> Scenario:
    s = scenario("map the mailbox")
    for pages in (0, 2, 0x3F, 0x40, 0xFFFF_FFFF, HIGH, HIGH | 2):
        s.hvc(2, MAP, _TX, _RX, pages)
    for tx, rx in ((1, 0), (0, 1), (8, 8), (0x800, 0), (0, 0x800)):
        s.hvc(2, MAP, _TX + tx, _RX + rx, 1)
    s.hvc(2, MAP, _TX, _TX, 1)
    s.hvc(2, MAP, 0, 0, 1)
    outside = [0, 0x1000, 0x0800_0000, 0x0900_0000, 0x4000_0000, _BASE - 0x1000, _BASE + SIZE]
    outside += [0x8000_0000, 1 << 36, 1 << 39, 1 << 40, 1 << 44, 1 << 47, 1 << 48, 1 << 52, 1 << 63]
    outside += [HIGH * HIGH - 0x1000]
    for address in outside:
        s.hvc(2, MAP, address, _RX, 1)
        s.hvc(2, MAP, _TX, address, 1)
    s.hvc(2, MAP, _TX | 1 << 48, _RX | 1 << 48, 1)
    s.hvc(2, RX_RELEASE)
    s.hvc(2, POLL)
    s.hvc(2, PARTITION_INFO)
    send(s, 2, 1, 8)
    send(s, 2, 3, 8)
    s.hvc(2, MAP, _TX, _RX, 1, *JUNK[4:])
    s.hvc(2, MAP, _TX, _RX, 1)
    s.hvc(2, MAP, _BASE + SPARE, _BASE + SPARE + 0x1000, 1)
    s.hvc(2, MAP, 0, 1, 7)
    for conduit, convention in WAYS:
        s.row(2, conduit, FfaId.RXTX_MAP | convention, _TX, _RX, 1)
        s.row(2, conduit, RX_RELEASE | convention)
        s.row(2, conduit, POLL | convention, *JUNK[1:])
    return s


def mapping_by_32_bits() -> Scenario:
    s = scenario("map the mailbox, 32 bits")
    s.smc(2, FfaId.RXTX_MAP, _TX, _RX, HIGH | 1)
    s.smc(2, FfaId.RXTX_MAP, _TX, _RX, 1)
    s.row(2, Kind.STORE, _RX, 5, 1)
    s.row(2, Kind.STORE, _TX, 5, 1)
    s.row(2, Kind.LOAD, _RX)
    s.row(2, Kind.LOAD, _TX)
    s.row(2, Kind.EXECUTE, _RX)
    s.row(2, Kind.EXECUTE, _TX)
    return s


def unmapping() -> Scenario:
    s = scenario("unmap the mailbox")
    for owner in (0, 2, 2 << 16, 1 << 16, 3 << 16, 0xFFFF << 16, HIGH):
        s.hvc(2, UNMAP, owner)
    map_mailbox(s, 2)
    for conduit, convention in WAYS:
        s.row(2, conduit, UNMAP | convention, 1 << 16, *JUNK[2:])
        s.row(2, conduit, UNMAP | convention, 3 << 16)
        s.row(2, conduit, UNMAP | convention, 0xFFFF_FFFF)
    for value, owner in enumerate((2 << 16, 0)):
        s.hvc(2, UNMAP, owner)
        s.row(2, Kind.STORE, _RX, value, 1)
        s.hvc(2, MAP, _TX, _RX, 1, value)
    return s


def sending() -> Scenario:
    """To whom, as whom, how much: to a primary that never releases, and to a VM without mailbox."""
    s = scenario("send: who and how much", (1, 1))
    send(s, 2, 1, 8)  # no mailbox yet
    send(s, 2, 3, 8)
    send(s, 2, 2, 8)
    send(s, 2, 1, 4097)
    map_mailbox(s, 2)
    for receiver in (
        0,
        2,
        4,
        5,
        16,
        17,
        18,
        0x7FFF,
        0x8000,
        0x8001,
        0x8002,
        0x9000,
        0xFFFE,
        0xFFFF,
    ):
        send(s, 2, receiver, 8)
        if receiver != 0x8000:  # the TEE: Hafnium panics
            send(s, 2, receiver, 8, 1)
    for sender in (0, 1, 3, 4, 0x8000, 0xFFFF):
        for receiver in (1, 2, 3):
            s.hvc(2, SEND, sender << 16 | receiver, 0, 8)
    for size in (4097, 8192, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, HIGH | 4097):
        for receiver in (1, 2, 3, 4):
            send(s, 2, receiver, size)
    for attributes in (0, 1, 2, 3, 0xFFFF_FFFE, 0xFFFF_FFFF, HIGH):
        send(s, 2, 3, 8, attributes)  # it has no mailbox
    for conduit, convention in WAYS:
        s.row(2, conduit, SEND | convention, 2 << 16 | 3, 0, 8, 0)
        s.row(2, conduit, SEND | convention, 2 << 16 | 3, *JUNK[2:3], 8, 0, *JUNK[5:])
    s.hvc(2, SEND, HIGH | 2 << 16 | 3, 0, 8)
    s.hvc(2, WRITABLE)
    send(s, 2, 1, 8)
    run(s)
    for attributes in (0, 1, 0):  # the primary has not released
        send(s, 2, 1, 8, attributes)
    send(s, 2, 1, 4097)
    s.hvc(2, WRITABLE)
    return s


def sizes() -> Scenario:
    """What arrives at the primary, of each size."""
    s = scenario("send: sizes")
    map_mailbox(s, 2)
    fill(s, 2, 0x1111_0000, 512)
    for size in (0, 1, 7, 8, 9, 63, 64, 4095, 4096, HIGH | 16):
        send(s, 2, 1, size, 2 if size == 7 else 0)
        s.row(1, Kind.LOAD, base_of(PRIMARY) + RX)
        s.hvc(1, RX_RELEASE)
        run(s)
    for conduit, convention in WAYS:
        s.row(2, conduit, SEND | convention, 2 << 16 | 1, 0, 16, 0)
        s.hvc(1, RX_RELEASE)
        s.hvc(1, RX_RELEASE)
        run(s)
    return s


def receiving() -> Scenario:
    """MSG_WAIT and MSG_POLL; messages of the primary, by RUN and by polling."""
    s = scenario("receive", enter=False)
    fill(s, 1, 0x2222_0000)
    send(s, 1, 2, 24)  # no mailbox
    run(s)
    s.hvc(2, POLL)
    s.hvc(2, WAIT)
    run(s)
    run(s)
    s.hvc(1, INJECT, 2, 0, 8)  # not enabled there
    run(s)
    s.hvc(1, INJECT, 2, 0, 64)
    send(s, 1, 3, 24)
    send(s, 1, 2, 24)
    run(s)
    return s


def messages() -> Scenario:
    s = scenario("messages of the primary")
    map_mailbox(s, 2)
    s.hvc(2, ENABLE, 1, 1)
    for conduit, convention in WAYS:
        s.row(2, conduit, POLL | convention)
        s.row(2, conduit, WAIT | convention, *JUNK[1:])
        fill(s, 1, 0x3333_0000)
        run(s)
        send(s, 1, 2, 24)
        send(s, 1, 2, 24)
        send(s, 1, 2, 24, 1)
        run(s)
        s.row(2, Kind.LOAD, _RX)
        s.hvc(2, POLL)
        s.row(2, conduit, RX_RELEASE | convention, *JUNK[1:])
        s.hvc(1, WAITER, 2)
        s.hvc(1, WAITER, 2)
        s.hvc(1, WRITABLE)
        s.hvc(1, WRITABLE)
        run(s)
        s.hvc(2, RX_RELEASE)
        s.hvc(2, YIELD)
        send(s, 1, 2, 4096)
        s.hvc(1, INJECT, 2, 0, 1)
        s.hvc(1, INJECT, 2, 0, 1)
        run(s)
        s.hvc(2, RX_RELEASE)  # received, and not read
        s.hvc(2, PARTITION_INFO)
        s.row(2, Kind.INTERRUPTS)
        s.row(2, conduit, POLL | convention, *JUNK[1:])
        s.hvc(2, RX_RELEASE)
    s.hvc(2, YIELD)
    for size in (4097, 0xFFFF_FFFF):
        send(s, 1, 2, size)
    for size in (0, 1, 4095, 4096, HIGH | 24):
        send(s, 1, 2, size)
        run(s)
        s.hvc(2, WAIT)
        s.row(2, Kind.LOAD, _RX)
        s.hvc(2, RX_RELEASE)
        s.hvc(2, YIELD)
    run(s)
    return s


def between() -> Scenario:
    """Two secondaries: RX full, waiters of a secondary, a message while a message waits."""
    s = scenario("between secondaries", (1, 1))
    map_mailbox(s, 2)
    fill(s, 2, 0x4444_0000)
    send(s, 2, 3, 8)  # VM 3 has no mailbox
    send(s, 2, 3, 8, 1)
    s.hvc(2, WRITABLE)
    s.hvc(2, YIELD)
    run(s, 3)
    map_mailbox(s, 3)  # with a waiter
    s.hvc(1, WAITER, 3)
    s.hvc(1, WAITER, 3)
    run(s)
    s.hvc(2, WRITABLE)
    s.hvc(2, WRITABLE)
    send(s, 2, 3, 40)
    run(s)
    send(s, 2, 3, 40)
    send(s, 2, 3, 40, 1)
    send(s, 2, 3, 40, 1)
    s.hvc(2, WAIT)
    run(s, 3)
    s.hvc(3, POLL)
    s.row(3, Kind.LOAD, base_of(3) + RX)
    s.hvc(1, WAITER, 3)
    s.hvc(3, RX_RELEASE)  # with a waiter
    s.hvc(1, WAITER, 3)
    s.hvc(1, WAITER, 3)
    s.hvc(1, INJECT, 2, 0, 2)
    run(s, 3)
    fill(s, 3, 0x5555_0000)
    send(s, 3, 2, 4096)
    run(s)
    s.hvc(2, WRITABLE)
    s.hvc(2, RX_RELEASE)
    run(s)
    s.hvc(2, POLL)
    s.hvc(2, RX_RELEASE)
    run(s)
    run(s, 3)
    return s


def waiters_of_the_primary() -> Scenario:
    s = scenario("waiters of the primary", (1, 1))
    map_mailbox(s, 2)
    send(s, 2, 1, 8)
    run(s)
    send(s, 2, 1, 8, 1)
    s.hvc(2, YIELD)
    run(s, 3)
    map_mailbox(s, 3)
    send(s, 3, 1, 8, 1)
    send(s, 3, 1, 8, 1)
    s.hvc(3, YIELD)
    s.hvc(1, WAITER, 1)
    s.hvc(1, RX_RELEASE)
    s.hvc(1, WAITER, 1)
    s.hvc(1, WAITER, 1)
    s.hvc(1, WAITER, 1)
    for vm in (0, 2, 3, 4, 0x8000, 0xFFFF, 0x1_0001):
        s.hvc(1, WAITER, vm)
        s.hvc(1, WRITABLE)
    run(s)
    s.hvc(2, WRITABLE)
    s.hvc(2, WRITABLE, *JUNK[1:])
    run(s, 3)
    s.hvc(3, WRITABLE)
    for vm in (0, 1, 2, 3, 0x8000, HIGH | 1):
        s.hvc(3, WAITER, vm, *JUNK[2:])
    return s


def running() -> Scenario:
    """RUN, of whom and by whom; INJECT by the primary."""
    s = scenario("run", (1, 1), enter=False)
    for target in (0, 1, 2, 1 << 16, 1 << 16 | 1, 2 << 16 | 1, 2 << 16 | 8, 4 << 16, 0x8000 << 16):
        s.hvc(1, RUN, target)
    s.hvc(1, RUN, 2 << 16 | 0xFFFF)
    s.hvc(1, RUN, 0xFFFF << 16)
    for vm, vcpu, intid in ((0, 0, 1), (1, 0, 1), (4, 0, 1), (2, 1, 1), (2, 0, 64), (2, 0, 9)):
        s.hvc(1, INJECT, vm, vcpu, intid)
    run(s)
    for conduit, convention in WAYS:
        for target in (0, 1 << 16, 2 << 16, 3 << 16, 4 << 16, 0xFFFF << 16):
            s.row(2, conduit, RUN | convention, target, *JUNK[2:])
    for conduit, convention in WAYS:
        s.row(2, conduit, YIELD | convention, *JUNK[1:])
        run(s)
    s.hvc(2, ENABLE, 9, 1)  # injected before
    s.hvc(2, GET)
    s.hvc(2, WAIT)
    run(s)
    for _ in range(2):
        s.hvc(1, INJECT, 2, 0, 9)
    s.hvc(1, INJECT, 2, 0, 10)
    run(s)
    s.hvc(2, WAIT)
    s.row(2, Kind.INTERRUPTS)
    s.hvc(2, GET)
    run(s)
    s.hvc(1, INJECT, 2, 0, 9, 0xF)  # it is off
    return s


def direct() -> Scenario:
    s = scenario("direct messages", (1, 1), enter=False)
    words = (0x31, 0x42, 0x53, 0x64, 0x75)
    s.hvc(1, REQUEST, 1 << 16 | 2, 0, *words)  # it does not wait
    run(s)
    for conduit, convention in WAYS:
        for sender, receiver in ((2, 1), (2, 2), (2, 3), (2, 0), (3, 2), (1, 2), (0, 0)):
            s.row(2, conduit, REQUEST | convention, sender << 16 | receiver, *JUNK[2:])
            s.row(2, conduit, RESPONSE | convention, sender << 16 | receiver, *JUNK[2:])
    s.hvc(2, WAIT)
    s.hvc(1, REQUEST, 1 << 16 | 3, 0, *words)
    s.hvc(1, REQUEST, 1 << 16 | 2, 0x99, *words)
    map_mailbox(s, 2)
    for conduit, convention in WAYS:
        s.row(2, conduit, YIELD | convention)
        s.row(2, conduit, WAIT | convention)
        s.row(2, conduit, POLL | convention)
        for receiver in (1, 2, 3, 4):
            s.row(2, conduit, SEND | convention, 2 << 16 | receiver, 0, 8)
            s.row(2, conduit, RESPONSE | convention, 2 << 16 | receiver + 1, 0, 1)
        s.row(2, conduit, RESPONSE | convention, 3 << 16 | 1, 0, 1)
        s.row(2, conduit, ID_GET | convention)
        s.row(2, conduit, RX_RELEASE | convention)
        s.row(2, conduit, VERSION | convention)
        s.row(2, conduit, PsciId.VERSION | convention)
    s.hvc(2, PARTITION_INFO)
    s.hvc(2, RX_RELEASE)
    s.hvc(2, DEBUG_LOG, 10)
    s.hvc(2, ENABLE, 7, 1)
    s.hvc(2, RESPONSE, 2 << 16 | 1, 0x77, *words)
    s.hvc(1, INJECT, 2, 0, 7)
    run(s)
    s.row(2, Kind.INTERRUPTS)
    s.hvc(2, RESPONSE, 2 << 16 | 1, 0, *words)  # already answered
    s.hvc(2, WAIT)
    for conduit, convention in WAYS:
        s.hvc(1, REQUEST, 1 << 16 | 2, 0, *words)
        s.row(2, conduit, RESPONSE | convention, 2 << 16 | 1, *JUNK[2:])
    s.hvc(1, REQUEST, 1 << 16 | 2, 0, *JUNK[3:])
    s.hvc(2, PsciId.CPU_SUSPEND | CONVENTION_64)
    s.hvc(1, REQUEST, 1 << 16 | 2)
    run(s)
    return s


SCENARIOS = (
    mapping, mapping_by_32_bits, unmapping, sending, sizes, receiving, messages, between,
    waiters_of_the_primary, running, direct,
)  # fmt: skip
