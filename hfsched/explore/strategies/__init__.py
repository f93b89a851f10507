"""Strategies choose the next task.  One file each, with its source; `choose.make` creates one by name."""

__all__ = ["FAIR_AFTER", "YIELD"]

# The kind of a point at which a task declares that it makes no progress until another task has run.
YIELD = "checkpoint yield"

# After so many steps a strategy that could starve a task assumes that a task spins, and becomes fair.
FAIR_AFTER = 1000
