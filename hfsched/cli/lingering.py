"""The time that a run waits at the end of input, and what goes on in the guests when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.vmm.machine import Machine

__all__ = ["Linger"]

_NS = 1_000_000_000
_SPIN_MIN = 0.05  # seconds; shorter RUNs are not reported


class Linger:
    """Waits `seconds` from the last progress; a vCPU that is in one RUN for half of them spins."""

    def __init__(self, machine: Machine, seconds: float) -> None:
        self._machine = machine
        self._seconds = seconds
        self._seen: tuple[int, dict[str, int]] | None = None  # progress; exits half-way to the end

    def look(self, progress: int, now: int) -> int | None:
        """Return when to look again, in ns, given when there was progress; None: the time is over."""
        linger = int(self._seconds * _NS)
        if now < progress + linger // 2:
            return progress + linger // 2
        if self._seen is None or self._seen[0] != progress:
            self._seen = (progress, self._machine.busy())
        return progress + linger if now < progress + linger else None

    def cut_off(self, now: int) -> tuple[list[str], str | None]:
        """Return an error for each vCPU that spins, and a notice of the others that would go on."""
        active = self._machine.active()
        errors = []
        for name in self._spinning():
            text = f"{_shown(name)} still running {self._seconds:g} s after end of input"
            pc = self._machine.program_counter(name, now + _NS)
            errors.append(text if pc is None else f"{text}; pc {pc:#x}")
            active.pop(name, None)
        doing = "; ".join(f"{_shown(name)} {what}" for name, what in active.items())
        return errors, f"ended by --linger {self._seconds:g} s: {doing}" if doing else None

    def _spinning(self) -> list[str]:
        if self._seen is None or self._seconds / 2 < _SPIN_MIN:
            return []
        before = self._seen[1]
        return [name for name, exits in self._machine.busy().items() if before.get(name) == exits]


def _shown(vcpu: str) -> str:
    vm, _, index = vcpu.rpartition(".")
    return f"vm {vm}: vCPU {index}"
