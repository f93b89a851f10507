"""Counters of a machine's scheduler; each vCPU's thread has its own object, so none needs a lock."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field

__all__ = ["VcpuCounters"]


class VcpuCounters(Struct):
    """The counters of one vCPU's thread.

    `runs` counts RUNs by the type of their result; `to_host`, `to_guests` and `lost` count messages:
    delivered to a host port, sent to another VM, not delivered because the machine stopped.
    """

    runs: Counter[type] = field(default_factory=Counter)
    to_host: int = 0
    to_guests: int = 0
    lost: int = 0
