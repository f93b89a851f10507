"""Drawing small programs (`small`), for Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st
from small import (
    CELLS,
    ENDS,
    EVENT,
    EVENTS,
    HELD,
    LOCKS,
    MORE_ENDS,
    OWN,
    SHARED,
    TIMES,
    Do,
    Program,
)

__all__ = ["mortals", "programs", "spinning"]


def _plain_operations(families: frozenset[str], names: list[str], *, own: bool) -> list[Do]:
    """Return the operations without a body of some families."""
    channel = [Do("send", end) for end in ENDS] + [Do("close", end) for end in ENDS]
    channel += [Do("recv", end, time) for end in ENDS for time in (0, TIMES[0])]
    known = {
        "cells": [
            Do(what, cell, value)
            for cell in CELLS
            for what, value in (
                ("get", 0),
                ("put", 1),
                ("put", 2),
                ("put", -1),  # these two have the same hash
                ("put", -2),
                ("add", 0),
                ("exchange", 1),
                ("swap_0", 2),
                ("expect", 0),
                ("expect", 1),
            )
        ],
        "events": [Do(what, EVENT) for what in ("set", "clear", "is_set", "wait")],
        "channel": channel,
        "select": [Do("select"), Do("select", "", TIMES[0]), Do("set", EVENT), Do("send", "right")],
        "time": [Do("now"), *(Do("sleep", "", time) for time in TIMES), Do("wait", EVENT, 10)],
        "choose": [Do("choose", "", 2), Do("checkpoint")],
        "shared": [Do("load", SHARED), *(Do("store", SHARED, value) for value in (1, 2))],
        "door": [] if own else [Do("ask")],
        "join": [Do("join", name, time) for name in names for time in (0, TIMES[0])],
        "death": [] if own else [Do("kill"), Do("reap"), Do("reap", "", TIMES[0])],
    }
    return [op for family in sorted(families & known.keys()) for op in known[family]]


FAMILIES = (
    "cells", "locks", "events", "channel", "select", "time", "choose", "shared", "door", "join",
    "death", "loops",
)  # fmt: skip


@st.composite
def _bodies(
    draw: st.DrawFn, families: frozenset[str], names: list[str], most: int, *, own: bool
) -> tuple[Do, ...]:
    """Draw what a task does: at most so many operations, a body's counted."""
    simple = st.sampled_from(
        _plain_operations(families, names, own=own) or [Do("checkpoint"), Do("get", CELLS[0])]
    )
    wraps = [
        *(["lock", "lock"] if "locks" in families else []),
        *(["either", "when"] if "choose" in families else []),
        *(["twice"] if "loops" in families else []),
    ]
    operations: list[Do] = []
    left = draw(st.integers(1, most))
    while left > 0:
        wrap = draw(st.sampled_from([*wraps, ""])) if left > 1 else ""
        if not wrap:
            operations.append(draw(simple))
            left -= 1
            continue
        lock = OWN if own else draw(st.sampled_from(LOCKS))
        most_inner = 1 if wrap == "twice" else 2  # each is done twice
        inner = draw(st.lists(simple, min_size=2 if wrap == "either" else 1, max_size=most_inner))
        if wrap == "lock" and draw(st.booleans()):
            inner.insert(draw(st.integers(0, len(inner))), Do("bump", lock))
        if wrap == "lock" and not own and draw(st.integers(0, 3)) == 0:
            other = LOCKS[1 - LOCKS.index(lock)]
            inner[-1:] = [Do("lock", other, 0, tuple(inner[-1:]))]
        if wrap == "lock" and "choose" in families and draw(st.booleans()):
            inner = [Do("either", "", 0, (draw(simple), inner[0])), *inner[1:]]
        value = draw(st.integers(0, 2)) if wrap == "when" else 0
        operations.append(Do(wrap, lock if wrap == "lock" else "", value, tuple(inner)))
        left -= 1 + len(inner) if wrap != "twice" else 2
    return tuple(operations)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Draw a program whose schedules can be counted."""
    families = draw(st.frozensets(st.sampled_from(FAMILIES), min_size=1, max_size=3))
    dies = "death" in families
    many = draw(st.booleans())
    names = ["0", "1", "2"] if many else ["0", "1"]
    tasks: list[tuple[Do, ...]] = []
    for name in names:
        own = dies and name == "0"  # which shares no lock with others
        others = [each for each in names if each != name]
        body = draw(_bodies(families, others, 2 if many else 4, own=own))
        if not many and "join" in families and name == "0" and draw(st.booleans()):
            body = (*body[:2], Do("spawn", "", 0, draw(_bodies(families, others, 1, own=own))))
        tasks.append(body)
    return Program(tuple(tasks), dies=dies, promises=draw(st.booleans()))


@st.composite
def spinning(draw: st.DrawFn) -> Program:
    """Draw a program in which a task or two look at a cell again and again; the last one sets it."""
    families = draw(st.frozensets(st.sampled_from(("cells", "choose"))))
    names = ["0", "1", "2"]
    tasks = [draw(_bodies(families, names, 2, own=False)) for _ in names]
    for number in draw(st.sets(st.sampled_from((0, 1)), min_size=1)):
        at = draw(st.integers(0, len(tasks[number])))
        tasks[number] = (*tasks[number][:at], Do("spin", CELLS[1]), *tasks[number][at:])
    tasks[2] = (*tasks[2], Do("put", CELLS[1], 1))
    return Program(tuple(tasks), promises=draw(st.booleans()), timers=False)


def _ends_of(number: int, dies: int) -> tuple[str, ...]:
    """Return the ends of channels that a task has: its process's."""
    if number < dies:
        return HELD[number]
    return tuple(end for end in (*ENDS, *MORE_ENDS) if not any(end in held for held in HELD[:dies]))


@st.composite
def _among_mortals(
    draw: st.DrawFn, number: int, dies: int, names: list[str], most: int
) -> list[Do]:
    """Draw what a task does beside processes that may die."""
    ends = _ends_of(number, dies)
    times = (0, *TIMES)
    pools = [
        [Do(what, cell, 1) for cell in CELLS for what in ("get", "put", "exchange")],
        [Do(what, event) for event in EVENTS for what in ("set", "set", "clear", "wait")],
        [Do("wait", EVENT, 10), Do("now"), *(Do("sleep", "", time) for time in TIMES)],
        [Do(what, end) for end in ends for what in ("send", "recv", "close")],
        [Do("recv", end, time) for end in ends for time in TIMES],
        [Do("join", name, time) for name in names for time in (0, TIMES[0])],
    ]
    others = [str(each) for each in range(dies) if each != number]
    if others:
        pools.append([Do(what, each) for each in others for what in ("kill", "reap")])
        pools.append([Do("reap", each, TIMES[0]) for each in others])
    waitable = st.lists(st.sampled_from((*EVENTS, *ends)), min_size=1, max_size=3, unique=True)
    selects = st.builds(
        lambda on, time: Do("select", "+".join(on), time), waitable, st.sampled_from(times)
    )
    simple = st.one_of(*(st.sampled_from(pool) for pool in pools), selects, selects)
    found = draw(st.lists(simple, min_size=1, max_size=most))
    at = draw(st.integers(0, len(found) - 1))
    wrap = draw(st.sampled_from(("", "", "lock", "lock", "twice", "spawn")))
    if wrap == "lock":
        lock = draw(st.sampled_from((*LOCKS[:1], *([OWN] if number == 0 else []))))
        bump = [Do("bump", lock)] if draw(st.booleans()) else []
        found[at : at + 2] = [Do("lock", lock, 0, (*found[at : at + 2], *bump))]
    elif wrap:
        found[at : at + 1] = [Do(wrap, "", 0, tuple(found[at : at + 1]))]
    return found


@st.composite
def mortals(draw: st.DrawFn) -> Program:
    """Draw a program of processes that may die, with channels, selects, deadlines and sleeps."""
    dies = draw(st.integers(1, 2))
    names = ["0", "1", "2"][: draw(st.integers(2, 3))]
    tasks = []
    for number, name in enumerate(names):
        others = [*(each for each in names if each != name), f"{name}.child"]
        most = 4 if len(names) == 2 else 2
        tasks.append(tuple(draw(_among_mortals(number, dies, others, most))))
    return Program(tuple(tasks), dies=dies)
