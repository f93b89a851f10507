"""Calls of `ffa-1.0` for script guests: use them with ``yield from``.

::

    def guest(cpu):
        mailbox = GuestMailbox(cpu)
        yield from mailbox.map()
        while True:
            sender, data = yield from mailbox.wait()
            yield from mailbox.release()
            yield from mailbox.send(sender, data)
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from typing import TypeAlias, TypeVar

from hfsched.abi.ffa import CONVENTION_64, FfaError, FfaId, HfId
from hfsched.abi.vmgenid import GENERATION_BASE, GENERATION_SIZE
from hfsched.vcpu.script import Action, Cpu, Hvc, Load

__all__ = [
    "Call",
    "GuestMailbox",
    "error_of",
    "generation_id",
    "interrupt_enable",
    "interrupt_get",
    "log",
    "swap_ports",
]

T = TypeVar("T")
Call: TypeAlias = Generator[Action, tuple[int, ...], T]

_RX_OFFSET = 0x1000
_TX_OFFSET = 0x2000
_NOTIFY = 1


def error_of(regs: tuple[int, ...]) -> FfaError | None:
    """Return the code of FFA_ERROR in x0..x7, None for any other answer."""
    if regs[0] != FfaId.ERROR:
        return None
    code = regs[2] & 0xFFFF_FFFF
    return FfaError(code - (1 << 32) if code >> 31 else code)


def interrupt_enable(intid: int, *, on: bool = True) -> Call[int]:
    """Enable or disable an interrupt id of this vCPU."""
    regs = yield Hvc(HfId.INTERRUPT_ENABLE, intid, int(on))
    return regs[0]


def interrupt_get() -> Call[int]:
    """Take the next pending interrupt; 0xffffffff without one."""
    regs = yield Hvc(HfId.INTERRUPT_GET)
    return regs[0]


def generation_id() -> Call[bytes]:
    """Return the VM's generation id, 16 bytes; interrupt `hfsched.abi.vmgenid.GENERATION_INTID` says that it has changed."""
    parts = []
    for offset in range(0, GENERATION_SIZE, 8):
        (value,) = yield Load(GENERATION_BASE + offset, 8)
        parts.append(value.to_bytes(8, "little"))
    return b"".join(parts)


def log(text: str) -> Call[None]:
    """Print a line to the debug log."""
    for character in text.encode() + b"\n":
        yield Hvc(HfId.DEBUG_LOG, character)


def swap_ports(message: bytes) -> bytes:
    """Return a framed message addressed back to where it came from."""
    return message[8:16] + message[:8] + message[16:]


class GuestMailbox:
    """RX and TX of the VM, in the second and third page of its memory."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self.rx = cpu.base + _RX_OFFSET
        self.tx = cpu.base + _TX_OFFSET
        self.id = 0

    def key(self) -> Hashable:
        """Return its state, for a guest that is explored."""
        return (self._cpu.index, self.rx, self.tx, self.id)

    def map(self) -> Call[None]:
        """Give both pages to the hypervisor, and learn the VM's id."""
        yield Hvc(FfaId.RXTX_MAP | CONVENTION_64, self.tx, self.rx, 1)
        regs = yield Hvc(FfaId.ID_GET)
        self.id = regs[2]

    def wait(self) -> Call[tuple[int, bytes]]:
        """Wait for a message, through interrupts; return {sender, bytes}.  RX stays READ."""
        while True:
            found = self.message((yield Hvc(FfaId.MSG_WAIT)))
            if found is not None:
                return found

    def poll(self) -> Call[tuple[int, bytes] | None]:
        """Return the unread message {sender, bytes}, or None."""
        return self.message((yield Hvc(FfaId.MSG_POLL)))

    def message(self, regs: tuple[int, ...]) -> tuple[int, bytes] | None:
        """Return the message that x0..x7 describe, None if they describe none."""
        if regs[0] != FfaId.MSG_SEND:
            return None
        return regs[1] >> 16 & 0xFFFF, self._cpu.read(self.rx, regs[3])

    def release(self) -> Call[None]:
        """Empty RX."""
        yield Hvc(FfaId.RX_RELEASE)

    def try_send(self, to: int, data: bytes, *, notify: bool = False) -> Call[FfaError | None]:
        """Send; return the error, None for success."""
        self._cpu.write(self.tx, data)
        flags = _NOTIFY if notify else 0
        return error_of((yield Hvc(FfaId.MSG_SEND, self.id << 16 | to, 0, len(data), flags)))

    def send(self, to: int, data: bytes) -> Call[None]:
        """Send; while the receiver's mailbox is full, let others run and try again."""
        while (yield from self.try_send(to, data, notify=True)) is FfaError.BUSY:
            yield Hvc(FfaId.YIELD)
