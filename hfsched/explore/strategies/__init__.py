"""Strategies: who goes next.  One file each, with its source; `choose.make` makes one by its name."""

__all__ = ["FAIR_AFTER", "YIELD"]

# The kind of a point at which a task says that it can do nothing before somebody else has gone.
YIELD = "checkpoint yield"

# After so many steps a strategy that could starve a task takes it that one spins, and becomes fair.
FAIR_AFTER = 1000
