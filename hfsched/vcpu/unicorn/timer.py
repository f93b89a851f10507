"""The virtual timer of one CPU (CNTV_CTL, CNTV_CVAL, CNTV_TVAL): pure, told the count.

The counter runs at 62.5 MHz, what Unicorn reports in CNTFRQ_EL0: a tick is 16 ns of the runtime's
clock, without an offset; CNTPCT traps, and is not here.  Arm ARM D12, "The Generic Timer".
"""

from __future__ import annotations

__all__ = ["FREQUENCY", "TICK", "VirtualTimer"]

TICK = 16  # ns
FREQUENCY = 1_000_000_000 // TICK

_ENABLE, _IMASK, _ISTATUS = 1, 2, 4
_MASK64 = (1 << 64) - 1


class VirtualTimer:
    """`armed`: it is enabled and unmasked.  `ctl` holds ENABLE and IMASK only."""

    __slots__ = ("armed", "ctl", "cval")

    def __init__(self) -> None:
        self.ctl = 0
        self.cval = 0
        self.armed = False

    def set(self, ctl: int, cval: int) -> None:
        """Set both registers."""
        self.ctl = ctl & (_ENABLE | _IMASK)
        self.cval = cval & _MASK64
        self.armed = self.ctl == _ENABLE

    def mask(self) -> None:
        """Set IMASK."""
        self.set(self.ctl | _IMASK, self.cval)

    def remaining(self, now: int) -> int | None:
        """Return the ns from `now` (ns) until it fires, 0 when it has, None unless armed."""
        return max(0, self.cval * TICK - now) if self.armed else None

    def read(self, op2: int, now: int) -> int:
        """Return TVAL (op2 = 0), CTL (1) or CVAL (2) at `now` (ns)."""
        if op2 == 0:
            return (self.cval - now // TICK) & 0xFFFF_FFFF
        if op2 == 2:
            return self.cval
        met = self.ctl & _ENABLE and now // TICK >= self.cval
        return self.ctl | (_ISTATUS if met else 0)

    def write(self, op2: int, value: int, now: int) -> None:
        """Write TVAL (op2 = 0), CTL (1) or CVAL (2) at `now` (ns)."""
        if op2 == 0:
            signed = (value & 0x7FFF_FFFF) - (value & 0x8000_0000)
            self.set(self.ctl, now // TICK + signed)
        elif op2 == 1:
            self.set(value, self.cval)
        else:
            self.set(self.ctl, value)
