"""Abbreviation of long stories: of a livelock's cycle, one iteration is shown."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.explore.explain.story import Step

__all__ = ["shortened"]

STEPS_MAX = 400
HEAD, TAIL = 300, 60  # steps that are kept of a longer story
CYCLE_MAX = 100  # steps of a cycle that is recognised
CYCLES_MIN = 4  # iterations


def shortened(steps: Sequence[Step]) -> list[Step]:
    """Return the steps without repeated cycles, and at most about `STEPS_MAX`."""
    out = _without_cycles(list(steps))
    if len(out) <= STEPS_MAX:
        return out
    middle = out[HEAD:-TAIL]
    marked = [step for step in middle if step.marked]
    missing = len(middle) - len(marked)
    text = f"{missing} steps are hidden here"
    filler = replace(middle[-1], lane="", text=text, arrow=None, changed=(), preemption="")
    return [*out[:HEAD], *marked, replace(filler, marked=""), *out[-TAIL:]]


def _same(step: Step) -> Hashable:
    return (step.lane, step.description, step.arrow is None, step.preemption)


def _without_cycles(steps: list[Step]) -> list[Step]:
    """Remove the repetitions of a cycle before the last step."""
    if len(steps) <= CYCLES_MIN:
        return steps
    *body, last = steps
    keys = [_same(step) for step in body]
    for size in range(1, min(CYCLE_MAX, len(body) // CYCLES_MIN) + 1):
        begin = len(keys)
        while begin > size and keys[begin - 1] == keys[begin - 1 - size]:
            begin -= 1
        begin -= size  # the first iteration
        begin = max(begin, 0)
        if (len(keys) - begin) // size < CYCLES_MIN:
            continue
        if any(step.marked for step in body[begin + size :]):
            return steps
        cycles = (len(keys) - begin) // size - 1
        text = f"the last {size} steps repeat {cycles} times"
        again = replace(
            body[-1], lane="", text=text, arrow=None, changed=(), preemption="", marked=""
        )
        return [*body[: begin + size], again, last]
    return steps
