"""The virtual timer of one CPU (CNTV_CTL, CNTV_CVAL, CNTV_TVAL), and the counter it looks at: pure, told the time.

The counter runs at 62.5 MHz, what Unicorn reports in CNTFRQ_EL0, unless the VM has taken over another frequency with
a snapshot of another engine; it is the runtime's clock without an offset.  CNTPCT traps, and is not here.  Arm ARM
D12, "The Generic Timer".
"""

from __future__ import annotations

__all__ = ["FREQUENCY", "FREQUENCY_MAX", "VirtualTimer", "ns_of", "ticks_of"]

FREQUENCY = 62_500_000  # Hz
FREQUENCY_MAX = (1 << 32) - 1  # CNTFRQ_EL0 has 32 bits

_SECOND = 1_000_000_000  # ns
_ENABLE, _IMASK, _ISTATUS = 1, 2, 4
_MASK64 = (1 << 64) - 1


def ticks_of(ns: int, frequency: int) -> int:
    """Return what a counter shows at a time."""
    return ns * frequency // _SECOND


def ns_of(ticks: int, frequency: int) -> int:
    """Return the first time at which a counter shows `ticks`."""
    return -(-ticks * _SECOND // frequency)


class VirtualTimer:
    """`armed`: it is enabled and unmasked.  `ctl` holds ENABLE and IMASK only.  `frequency` is the counter's, in Hz."""

    __slots__ = ("armed", "ctl", "cval", "frequency")

    def __init__(self, frequency: int = FREQUENCY) -> None:
        self.ctl = 0
        self.cval = 0
        self.armed = False
        self.frequency = frequency

    def set(self, ctl: int, cval: int) -> None:
        """Set both registers."""
        self.ctl = ctl & (_ENABLE | _IMASK)
        self.cval = cval & _MASK64
        self.armed = self.ctl == _ENABLE

    def mask(self) -> None:
        """Set IMASK."""
        self.set(self.ctl | _IMASK, self.cval)

    def count(self, now: int) -> int:
        """Return what the counter shows at `now` (ns)."""
        return ticks_of(now, self.frequency) & _MASK64

    def remaining(self, now: int) -> int | None:
        """Return the ns from `now` (ns) until it fires, 0 when it has, None unless armed."""
        return max(0, ns_of(self.cval, self.frequency) - now) if self.armed else None

    def read(self, op2: int, now: int) -> int:
        """Return TVAL (op2 = 0), CTL (1) or CVAL (2) at `now` (ns)."""
        if op2 == 0:
            return (self.cval - self.count(now)) & 0xFFFF_FFFF
        if op2 == 2:
            return self.cval
        met = self.ctl & _ENABLE and self.count(now) >= self.cval
        return self.ctl | (_ISTATUS if met else 0)

    def write(self, op2: int, value: int, now: int) -> None:
        """Write TVAL (op2 = 0), CTL (1) or CVAL (2) at `now` (ns)."""
        if op2 == 0:
            signed = (value & 0x7FFF_FFFF) - (value & 0x8000_0000)
            self.set(self.ctl, self.count(now) + signed)
        elif op2 == 1:
            self.set(value, self.cval)
        else:
            self.set(self.ctl, value)
