"""Strategies by name, for ``hfsched fuzz --strategy``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.errors import UserError
from hfsched.explore.strategies.bounded import Bounded
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategies.pct import PCT
from hfsched.explore.strategies.portfolio import Portfolio
from hfsched.explore.strategies.pos import POS
from hfsched.explore.strategies.urw import UniformWalk
from hfsched.explore.strategies.walk import RandomWalk

if TYPE_CHECKING:
    from hfsched.explore.strategy import Strategy

__all__ = ["NAMES", "RANDOM", "make"]

RANDOM = ("pos", "urw", "random", "pct")  # those that a seed determines; the portfolio's order
NAMES = (*RANDOM, "bounded", "exhaustive", "portfolio")


def make(name: str, seed: int, bound: int | None = None, depth: int | None = None) -> Strategy:
    """Create the strategy called `name`, one of `NAMES`.

    `seed` determines the random ones.  `bound` is the number of preemptions that `bounded` allows,
    None for 0, 1, 2 ... in turn; `depth` is that of `pct`, 3 by default.

    Raises UserError for another name, for a number that is too small, and for an option that the
    strategy does not have.
    """
    if bound is not None:
        _check(name, "bounded", "bound", bound, 0)
    if depth is not None:
        _check(name, "pct", "depth", depth, 1)
    match name:
        case "random":
            return RandomWalk(seed)
        case "pct":
            return PCT(seed) if depth is None else PCT(seed, depth)
        case "pos":
            return POS(seed)
        case "urw":
            return UniformWalk(seed)
        case "bounded":
            return Bounded() if bound is None else Exhaustive(bound)
        case "exhaustive":
            return Exhaustive()
        case "portfolio":
            return Portfolio(seed)
    raise _unknown(name)


def _unknown(name: str) -> UserError:
    return UserError(f"no strategy {name!r}: known: {', '.join(NAMES)}")


def _check(name: str, owner: str, what: str, value: int, least: int) -> None:
    if name not in NAMES:
        raise _unknown(name)
    if name != owner:
        raise UserError(f"strategy {name} has no {what}: {owner} has")
    if value < least:
        raise UserError(f"strategy {name}: {what} {value}: at least {least}")
