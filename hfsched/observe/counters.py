"""Counters of a machine's scheduler; each vCPU's thread has its own, so none needs a lock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["VcpuCounters"]


@dataclass(slots=True)
class VcpuCounters:
    """What one vCPU's thread has seen: RUNs by the name of their result, messages to the host."""

    runs: Counter[str] = field(default_factory=Counter)
    to_host: int = 0
    to_guests: int = 0
    lost: int = 0
