"""A vCPU's para-virtual interrupt controller: 64 ids, enabled and pending apart.

Plain state: the VM's lock guards it.  Source: TF-Hafnium/hafnium f0701679c0, `struct interrupts`;
levels are this project's.
"""

from __future__ import annotations

from collections.abc import Hashable

from hfsched.abi.ffa import INTERRUPT_IDS
from hfsched.hypervisor.records import InterruptsRecord
from hfsched.mailbox.records import check
from hfsched.runtime.declared import uncompared

__all__ = ["Interrupts"]


@uncompared(high="follows from the sources, which are compared")
class Interrupts:
    """Bit n of `enabled`, `pending` and `high` is interrupt id n.

    An id is pending by an edge (`pending`: an injection, until it is taken) or by a level (`high`: some
    of its `sources` is high, until all are low).
    """

    __slots__ = ("enabled", "high", "pending", "sources")

    def __init__(self) -> None:
        self.enabled = 0
        self.pending = 0
        self.high = 0
        self.sources: frozenset[tuple[int, str]] = frozenset()  # {id, source} of each high line

    @property
    def up(self) -> bool:
        """The level of the interrupt line: some id is both enabled and pending."""
        return self.enabled & (self.pending | self.high) != 0

    @staticmethod
    def valid(intid: int) -> bool:
        """Return whether there is such an id."""
        return 0 <= intid < INTERRUPT_IDS

    def save(self) -> InterruptsRecord:
        """Return all of the state."""
        return InterruptsRecord(self.enabled, self.pending, tuple(sorted(self.sources)))

    def restore(self, record: InterruptsRecord) -> None:
        """Put back what `save` returned; raises UserError for ids that there are not."""
        check(0 <= record.enabled >> INTERRUPT_IDS < 1, "interrupt ids above 63 are enabled")
        check(0 <= record.pending >> INTERRUPT_IDS < 1, "interrupt ids above 63 are pending")
        check(all(self.valid(number) for number, _ in record.sources), "a line of no interrupt id")
        self.enabled, self.pending = record.enabled, record.pending
        self.sources = frozenset(record.sources)
        self._update_high()

    def enable(self, intid: int, *, on: bool) -> None:
        """Enable or disable a valid id.  A pending one stays pending."""
        if on:
            self.enabled |= 1 << intid
        else:
            self.enabled &= ~(1 << intid)

    def inject(self, intid: int) -> bool:
        """Make a valid id pending; return whether the line went up by that."""
        was_up = self.up
        self.pending |= 1 << intid
        return self.up and not was_up

    def set_level(self, source: str, intid: int, level: bool) -> bool:  # noqa: FBT001
        """Raise or lower a source of a valid id; return whether the line went up by that."""
        was_up = self.up
        line = frozenset([(intid, source)])
        self.sources = self.sources | line if level else self.sources - line
        self._update_high()
        return self.up and not was_up

    def _update_high(self) -> None:
        self.high = 0
        for number, _ in self.sources:
            self.high |= 1 << number

    def take(self) -> int | None:
        """Return the lowest id that is enabled and pending; None without one.

        It is no longer pending by an edge; while it is high it stays pending.
        """
        both = self.enabled & (self.pending | self.high)
        if not both:
            return None
        lowest = both & -both
        self.pending &= ~lowest
        return lowest.bit_length() - 1

    def key(self) -> tuple[Hashable, ...]:
        """Return all of the state, hashable."""
        return (self.enabled, self.pending, tuple(sorted(self.sources)))
