"""Scenarios: sharing memory, which this hypervisor refuses as a whole."""

from __future__ import annotations

from fidelity_words import (
    HIGH,
    JUNK,
    RX_RELEASE,
    WAYS,
    YIELD,
    map_mailbox,
    run,
    scenario,
)
from probescript import RX, SPARE, TX, Kind, Scenario, base_of

from hfsched.abi.ffa import FfaId

SHARING = (
    FfaId.MEM_DONATE, FfaId.MEM_LEND, FfaId.MEM_SHARE, FfaId.MEM_RETRIEVE_REQ, FfaId.MEM_RELINQUISH,
    FfaId.MEM_RECLAIM, FfaId.MEM_FRAG_RX, FfaId.MEM_FRAG_TX,
)  # fmt: skip
_SIZE = 80  # bytes of a descriptor of one range
_RW, _NOT_EXECUTABLE = 2, 4
_NORMAL = 0x2F  # write-back, inner shareable
_HYPERVISORS = (
    0x8000_0000  # in the upper word of its handles: Hafnium panics at others in MEM_RECLAIM
)


def sharing_calls() -> Scenario:
    """Each call with nothing in TX, and with lengths that cannot be."""
    s = scenario("memory sharing: edges", (1, 1))
    s.hvc(2, FfaId.MEM_RECLAIM, 0, _HYPERVISORS)
    others: list[int] = [number for number in SHARING if number != FfaId.MEM_RECLAIM]
    for function in others:
        s.hvc(2, function)
    map_mailbox(s, 2)
    for conduit, convention in WAYS:
        s.row(2, conduit, FfaId.MEM_RECLAIM | convention, 5, _HYPERVISORS, *JUNK[3:])
        for function in others:
            s.row(2, conduit, function | convention, *JUNK[1:])
            s.row(2, conduit, function | convention)
    for function in SHARING[:4]:
        for length, part in (
            (1, 1),
            (48, 48),
            (_SIZE, _SIZE),
            (_SIZE, 96),
            (8192, 8192),
            (96, _SIZE),
        ):
            s.hvc(2, function, length, part)
        s.hvc(2, function, _SIZE, _SIZE, base_of(2) + TX, 1)
    for handle in (0, 1, 0xFFFF_FFFF):
        s.hvc(2, FfaId.MEM_RECLAIM, handle, _HYPERVISORS)
        s.hvc(2, FfaId.MEM_RECLAIM, handle, HIGH | _HYPERVISORS, 8)
        s.hvc(2, FfaId.MEM_FRAG_RX, handle, 0, 0, 2 << 16)
        s.hvc(2, FfaId.MEM_FRAG_TX, handle, 0, 16, 2 << 16)
    return s


def _describe(
    s: Scenario,
    vm: int,
    *,
    sender: int = 2,
    receiver: int = 3,
    access: int = _RW,
    attributes: int = _NORMAL,
    flags: int = 0,
    address: int = base_of(2) + SPARE,
    handle: int = 0,
    pages: int = 1,
) -> None:
    """Write the descriptor of one range, for one receiver, into TX."""
    tx = base_of(vm) + TX
    first = sender | attributes << 16 | flags << 32
    to = receiver | access << 16 | 48 << 32
    s.row(vm, Kind.WORDS, tx, first, handle, 0, 1 << 32, to, 0, pages | 1 << 32)
    s.row(vm, Kind.WORDS, tx + 56, 0, address, pages)


def sharing_refused() -> Scenario:
    s = scenario("memory sharing: refused", (1, 1))
    map_mailbox(s, 2)
    wrong: list[dict[str, int]] = [
        {"sender": 3}, {"sender": 1}, {"receiver": 2}, {"receiver": 9}, {"access": 0}, {"access": 3},
        {"access": 0xA}, {"access": 0x12}, {"attributes": 0x3F}, {"flags": 1}, {"flags": 4},
        {"address": base_of(2) + SPARE + 8}, {"address": base_of(3)}, {"address": base_of(2) + RX},
        {"address": 0x1000}, {"address": 0x0900_0000}, {"pages": 0}, {"pages": 0xFFFF_FFFF},
    ]  # fmt: skip
    for function in (FfaId.MEM_SHARE, FfaId.MEM_LEND, FfaId.MEM_DONATE):
        for each in wrong:
            _describe(s, 2, **each)
            s.hvc(2, function, _SIZE, _SIZE)
    return s


def sharing() -> Scenario:
    """Shared, retrieved, relinquished, reclaimed; then lent, and reclaimed too early."""
    s = scenario("memory sharing", (1, 1))
    map_mailbox(s, 2)
    for function in (FfaId.MEM_SHARE, FfaId.MEM_LEND):
        _describe(s, 2)
        s.hvc(2, function, _SIZE, _SIZE)
        s.row(2, Kind.LOAD, base_of(2) + SPARE)
        s.hvc(2, YIELD)
        run(s, 3)
        if function is FfaId.MEM_SHARE:
            map_mailbox(s, 3)
        handle = _HYPERVISORS << 32
        s.row(3, Kind.WORDS, base_of(3) + TX, 2, handle, 0, HIGH, 3 | _RW << 16, 0, 0)
        s.hvc(3, FfaId.MEM_RETRIEVE_REQ, 48, 48)
        s.row(3, Kind.LOAD, base_of(3) + RX)
        s.hvc(3, RX_RELEASE)
        s.row(3, Kind.LOAD, base_of(2) + SPARE)
        s.hvc(3, YIELD)
        run(s)
        s.hvc(2, FfaId.MEM_RECLAIM, 0, _HYPERVISORS)
        s.hvc(2, YIELD)
        run(s, 3)
        s.row(3, Kind.WORDS, base_of(3) + TX, handle, HIGH, 3)
        s.hvc(3, FfaId.MEM_RELINQUISH)
        s.row(3, Kind.LOAD, base_of(2) + SPARE)
        s.hvc(3, YIELD)
        run(s)
        s.hvc(2, FfaId.MEM_RECLAIM, 0, _HYPERVISORS)
        s.row(2, Kind.LOAD, base_of(2) + SPARE)
    run(s)
    run(s, 3)
    return s


SCENARIOS = (sharing_calls, sharing_refused, sharing)
