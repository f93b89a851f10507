"""A script guest's CPU as bytes (MessagePack, with a version), and back by running its guest once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hfsched.errors import UserError
from hfsched.vcpu.registers import ARM64_ARGUMENTS
from hfsched.vcpu.script.actions import REGISTERS, WORD, Abort, Load, Store
from hfsched.vcpu.script.journal import BEGAN, Diverged, Entry, Journal, Number, Replay, number

if TYPE_CHECKING:
    from hfsched.vcpu.script.cpu import Cpu, Owed, Program

__all__ = ["restore", "save"]

FORMAT = "hfsched script vCPU 1"
NOT_RESTORED = "it could not be restored"


class SavedFrame(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A generator: its registers, and what it is owed, a kind and its numbers."""

    regs: list[int]
    owed: tuple[str, list[Number]]


class SavedCpu(msgspec.Struct, forbid_unknown_fields=True):
    """`pc` and `program` (its name) are what the CPU was reset to; `timer` is the ns until it fires.

    The guest's frames come first, then that of a handler.  `journal` is the encoded list of `Entry`.
    """

    format: str
    pc: int
    program: str
    arg: int
    masked: bool
    timer: int | None
    timer_masked: bool
    missing: str
    frames: list[SavedFrame]
    journal: msgspec.Raw


def save(cpu: Cpu, journal: Journal) -> bytes:
    """Return a CPU's state.  Without a guest the journal is of no use, and left out."""
    saved = SavedCpu(
        FORMAT,
        cpu._start,
        _name_of(cpu._space.program_at(cpu._start)),
        cpu.arg,
        cpu.masked,
        None if cpu.timer is None else cpu.timer - cpu._space.clock.read(),
        cpu.timer_masked,
        cpu._missing,
        [SavedFrame(frame.regs, _owed_to(frame.owed)) for frame in cpu._stack],
        msgspec.Raw(journal.encoded() if cpu._stack else Journal().encoded()),
    )
    return msgspec.msgpack.encode(saved)


def restore(cpu: Cpu, journal: Journal, data: bytes) -> None:
    """Put a CPU into the state that `save` returned.  Raises UserError; it has no guest then."""
    where = f"vm {cpu._space.name}: vCPU {cpu.index}"
    cpu.reset(-1, 0)
    cpu._missing = NOT_RESTORED
    try:
        saved = msgspec.msgpack.decode(data, type=SavedCpu)
        entries = msgspec.msgpack.decode(saved.journal, type=list[Entry])
    except (msgspec.MsgspecError, ValueError) as error:
        raise UserError(f"{where}: not a saved vCPU of the engine script: {error}") from None
    if saved.format != FORMAT:
        raise UserError(f"{where}: saved as {saved.format!r}, not {FORMAT!r}")
    owed = [_owed_from(where, frame) for frame in saved.frames]
    cpu.arg, cpu._start = saved.arg, saved.pc
    try:
        if saved.frames:
            _replay(cpu, saved, entries)
    except Diverged as reason:
        cpu.reset(-1, 0)
        cpu._die(NOT_RESTORED)
        raise UserError(f"{where}: its guest is not deterministic: {reason}") from None
    for frame, kept, due in zip(cpu._stack, saved.frames, owed, strict=True):
        frame.regs[:] = kept.regs
        frame.owed = frame.regs if isinstance(due, list) else due
    journal.load(entries)
    cpu._missing = saved.missing
    cpu.masked, cpu.timer_masked = saved.masked, saved.timer_masked
    cpu.timer = None if saved.timer is None else cpu._space.clock.read() + saved.timer


def _replay(cpu: Cpu, saved: SavedCpu, entries: list[Entry]) -> None:
    program = cpu._space.program_at(saved.pc)
    if program is None or _name_of(program) != saved.program:
        raise Diverged(f"there is no program {saved.program} at {saved.pc:#x}")
    for index, entry in enumerate(entries):
        try:
            _again(cpu, program, entry)
        except Diverged as reason:
            raise Diverged(f"step {index} of {len(entries)}: {reason}") from None
    if len(cpu._stack) != len(saved.frames):
        raise Diverged(f"it has {len(cpu._stack)} frames, {len(saved.frames)} were saved")


def _again(cpu: Cpu, program: Program, entry: Entry) -> None:
    """Do what an entry recorded, and compare."""
    sent = entry.sent
    if sent == "mask":
        cpu.timer_masked = True
        return
    tape = Replay(entry)
    cpu._tape = tape
    try:
        if isinstance(sent, str):
            began = program
            if sent == "handler":
                if cpu.handler is None or not cpu._stack:
                    raise Diverged("it has no interrupt handler")
                cpu.masked = True
                began = cpu.handler
            cpu._push(began, cpu.arg if sent == "guest" else 0)
            tape.end([BEGAN] if cpu._stack else cpu.ending())
            return
        if not cpu._stack:
            raise Diverged("it has ended")
        given: tuple[int, ...] | Abort | None = Abort(sent) if isinstance(sent, int) else None
        if isinstance(sent, list):
            given = tuple(sent)
        tape.end(cpu.outcome_of(cpu._step(cpu._stack[-1], given)))
    finally:
        cpu._tape = None


def _name_of(program: Program | None) -> str:
    """Return how a function is called; a `partial` is called as what it calls."""
    inner = getattr(program, "func", program)
    return str(getattr(inner, "__qualname__", ""))


def _owed_to(owed: Owed) -> tuple[str, list[Number]]:
    if owed is None:
        return "start", []
    if isinstance(owed, Abort):
        return "abort", [number(owed.address)]
    if isinstance(owed, Load):
        return "load", [number(owed.address), number(owed.size)]
    if isinstance(owed, Store):
        return "store", [number(owed.address), number(owed.value), number(owed.size)]
    if isinstance(owed, list):
        return "call", []
    return "send", list(owed)


def _owed_from(where: str, frame: SavedFrame) -> Owed:
    kind, numbers = frame.owed
    wrong = UserError(f"{where}: not a saved vCPU of the engine script: owed {kind[:80]!r}")
    try:
        values = [int(each) for each in numbers]
    except ValueError:
        raise wrong from None
    counts = {"start": 0, "abort": 1, "load": 2, "store": 3, "call": 0, "send": len(values)}
    if counts.get(kind) != len(values):
        raise wrong
    if len(frame.regs) not in (REGISTERS, ARM64_ARGUMENTS) or not all(
        0 <= value <= WORD for value in frame.regs
    ):
        raise UserError(f"{where}: not a saved vCPU of the engine script: its registers")
    match kind:
        case "start":
            return None
        case "abort":
            return Abort(values[0])
        case "load":
            return Load(*values)
        case "store":
            return Store(*values)
        case "call":
            return frame.regs
    return tuple(values)
