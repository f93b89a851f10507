"""The primary of a scenario: its calls, by the interface that hfsched gives a scheduler VM.

What RUN returns is written as the registers that the primary would see.  Source: Hafnium f0701679c0,
ffa_run and its results; DEN0077A section 8.
"""

from __future__ import annotations

import struct

from probescript import PENDING, PRIMARY, RX, TX, Answer, Kind, Regs, Row, State, base_of

from hfsched.abi.ffa import CONVENTION_64, FfaError, FfaId, HfId
from hfsched.hypervisor.interface import (
    Aborted,
    Busy,
    DirectResponse,
    Injection,
    Invalid,
    Message,
    NotifyWaiters,
    Preempted,
    PrimaryInterface,
    RunResult,
    SendResult,
    WaitForInterrupt,
    WaitForMessage,
    WakeUp,
    Yield,
)

_X = 0xFFFF_FFFF_FFFF_FFFF
_W = 0xFFFF_FFFF
_WAIT_FOR_INTERRUPT, _WAKE_UP = 0xFF06, 0xFF07
_PAGE = 4096


def _regs(*words: int) -> Regs:
    return words + (0,) * (8 - len(words))


def _error(code: FfaError) -> Regs:
    return _regs(FfaId.ERROR, 0, code & _X)


_SUCCESS = _regs(FfaId.SUCCESS)
_SENT = {
    SendResult.SENT: _SUCCESS,
    SendResult.BUSY: _error(FfaError.BUSY),
    SendResult.INVALID: _error(FfaError.INVALID_PARAMETERS),
}
_INJECTED = {
    Injection.WAKE: 1,
    Injection.PENDING: 0,
    Injection.DISABLED: 0,
    Injection.INVALID: _X,
}


def run_result(vm: int, vcpu: int, result: RunResult) -> Regs:
    """Return the registers that RUN of a vCPU leaves."""
    target = vm << 16 | vcpu
    match result:
        case Preempted():
            return _regs(FfaId.INTERRUPT, target)
        case Yield():
            return _regs(FfaId.YIELD, target)
        case WaitForInterrupt(timer):
            return _regs(_WAIT_FOR_INTERRUPT, target, timer or 0)
        case WaitForMessage(timer):
            return _regs(FfaId.MSG_WAIT, target, timer or 0)
        case Message(sender, receiver, size):
            return _regs(FfaId.MSG_SEND, sender << 16 | receiver, 0, size)
        case DirectResponse(words):
            return _regs(FfaId.MSG_SEND_DIRECT_RESP, vm << 16 | PRIMARY, 0, *words)
        case NotifyWaiters():
            return _regs(FfaId.RX_RELEASE)
        case WakeUp(woken, index):
            return _regs(_WAKE_UP, woken << 16 | index)
        case Busy():
            return _error(FfaError.BUSY)
        case Invalid():
            return _error(FfaError.INVALID_PARAMETERS)
        case Aborted():
            return _error(FfaError.ABORTED)


class ScriptedPrimary:
    """Does the primary's rows, one at a time, as far as the interface goes."""

    def __init__(self, interface: PrimaryInterface) -> None:
        self._interface = interface
        self._tx = bytearray(_PAGE)
        self._rx = bytearray(_PAGE)
        self._mapped = False

    def do(self, row: Row) -> Answer:
        """Do one row; a call that the interface has not is left pending."""
        if row.kind is Kind.STORE:
            return self._store(row.regs)
        if row.kind is Kind.LOAD:
            return self._load(row.regs[0])
        if row.kind is not Kind.HVC:
            return PENDING
        made = self._call(row.regs)
        return PENDING if made is None else Answer(State.DONE, made)

    def _store(self, regs: Regs) -> Answer:
        offset = regs[0] - base_of(PRIMARY) - TX
        for index in range(regs[2]):
            struct.pack_into("<Q", self._tx, offset + 8 * index, regs[1] + index)
        return Answer(State.DONE, regs)

    def _load(self, address: int) -> Answer:
        """Read a message that has arrived."""
        taken = self._interface.rx_take()
        if taken is not None:
            self._rx[: len(taken[1])] = taken[1]
        offset = address - base_of(PRIMARY) - RX
        return Answer(State.DONE, struct.unpack_from("<8Q", self._rx, offset))

    def _call(self, x: Regs) -> Regs | None:
        interface = self._interface
        high, low = x[1] >> 16 & 0xFFFF, x[1] & 0xFFFF
        match x[0]:
            case FfaId.RUN:
                return run_result(high, low, interface.run(high, low))
            case FfaId.MSG_SEND:
                return self._send(high, low, x[3] & _W, bool(x[4] & 1))
            case FfaId.MSG_SEND_DIRECT_REQ:
                result = interface.direct_request(low, 0, (*x[3:8],))
                return run_result(low, 0, result)
            case FfaId.RX_RELEASE:
                return self._release()
            case HfId.INTERRUPT_INJECT:
                done = interface.inject(x[1] & 0xFFFF, x[2] & 0xFFFF, x[3] & _W)
                return (_INJECTED[done], *x[1:])
            case HfId.MAILBOX_WAITER_GET:
                return (self._or_none(interface.waiter(x[1] & 0xFFFF)), *x[1:])
            case HfId.MAILBOX_WRITABLE_GET:
                return (self._or_none(interface.writable()), *x[1:])
            case function if function == FfaId.RXTX_MAP | CONVENTION_64 and not self._mapped:
                self._mapped = True
                return _SUCCESS
            case _:
                return None

    def _send(self, sender: int, receiver: int, size: int, notify: bool) -> Regs:
        if sender != PRIMARY or receiver == PRIMARY or size > _PAGE:
            return _error(FfaError.INVALID_PARAMETERS)
        return _SENT[self._interface.send(receiver, bytes(self._tx[:size]), notify=notify)]

    def _release(self) -> Regs:
        if self._interface.rx_take() is None:
            return _error(FfaError.DENIED)
        return _regs(FfaId.RX_RELEASE) if self._interface.rx_release() else _SUCCESS

    @staticmethod
    def _or_none(vm: int | None) -> int:
        return _X if vm is None else vm
