"""The dialect `ffa-1.0`: TF-Hafnium/hafnium f0701679c0 (October 2020)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeAlias

from hfsched.abi.dialect import Args, Call, Error, Op, Power, Regs, Show
from hfsched.abi.ffa import (
    CONVENTION_64,
    INVALID_INTID,
    PARTITION_INDIRECT_MSG,
    PSCI_VERSION_1_1,
    SMCCC_UNKNOWN,
    VERSION_1_0,
    FfaError,
    FfaId,
    HfId,
    Intid,
    PsciError,
    PsciId,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["FFA_1_0"]

_W = 0xFFFF_FFFF
_X = 0xFFFF_FFFF_FFFF_FFFF
_NOTIFY = 1  # bit 0 of MSG_SEND's attributes


def _none(_: Regs) -> Args:
    return ()


def _w1(x: Regs) -> Args:
    return (x[1] & _W,)


def _endpoints(x: Regs) -> Args:
    return (x[1] >> 16 & 0xFFFF, x[1] & 0xFFFF)


def _msg_send(x: Regs) -> Args:
    w1 = x[1]
    return (w1 >> 16 & 0xFFFF, w1 & 0xFFFF, x[3] & _W, x[4] & _NOTIFY)


_Decode: TypeAlias = "Callable[[Regs], Args]"
_Row: TypeAlias = tuple[Op, tuple[str, ...], _Decode]
_REFUSED: _Row = (Op.NOT_SUPPORTED, (), _none)

_FFA: dict[FfaId, _Row] = {
    FfaId.VERSION: (Op.VERSION, ("requested",), _w1),
    FfaId.FEATURES: (Op.FEATURES, ("function",), _w1),
    FfaId.RX_RELEASE: (Op.RX_RELEASE, (), _none),
    FfaId.RXTX_MAP: (Op.RXTX_MAP, ("tx", "rx", "pages"), lambda x: (x[1], x[2], x[3] & _W)),
    FfaId.RXTX_UNMAP: (Op.RXTX_UNMAP, ("w1",), _w1),
    FfaId.PARTITION_INFO_GET: (
        Op.PARTITION_INFO_GET,
        ("uuid0", "uuid1", "uuid2", "uuid3"),
        lambda x: (x[1] & _W, x[2] & _W, x[3] & _W, x[4] & _W),
    ),
    FfaId.ID_GET: (Op.ID_GET, (), _none),
    FfaId.MSG_POLL: (Op.MSG_POLL, (), _none),
    FfaId.MSG_WAIT: (Op.MSG_WAIT, (), _none),
    FfaId.YIELD: (Op.YIELD, (), _none),
    FfaId.RUN: (Op.RUN, ("vm", "vcpu"), _endpoints),
    FfaId.MSG_SEND: (Op.MSG_SEND, ("sender", "receiver", "size", "notify"), _msg_send),
    FfaId.MSG_SEND_DIRECT_REQ: (Op.DIRECT_REQUEST, ("sender", "receiver"), _endpoints),
    FfaId.MSG_SEND_DIRECT_RESP: (
        Op.DIRECT_RESPONSE,
        ("sender", "receiver", "w3", "w4", "w5", "w6", "w7"),
        lambda x: (x[1] >> 16 & 0xFFFF, x[1] & 0xFFFF, *x[3:8]),
    ),
    FfaId.MEM_DONATE: _REFUSED,
    FfaId.MEM_LEND: _REFUSED,
    FfaId.MEM_SHARE: _REFUSED,
    FfaId.MEM_RETRIEVE_REQ: _REFUSED,
    FfaId.MEM_RELINQUISH: _REFUSED,
    FfaId.MEM_RECLAIM: _REFUSED,
    FfaId.MEM_FRAG_RX: _REFUSED,
    FfaId.MEM_FRAG_TX: _REFUSED,
}

# Ids of VMs and vCPUs are 16 bits wide, and Hafnium drops the rest: a guest may pass its raw MPIDR.
_PSCI: dict[PsciId, _Row] = {
    PsciId.VERSION: (Op.PSCI_VERSION, (), _none),
    PsciId.FEATURES: (Op.PSCI_FEATURES, ("function",), lambda x: (x[1],)),  # 64 bits compared
    PsciId.CPU_SUSPEND: (Op.CPU_SUSPEND, (), _none),
    PsciId.CPU_OFF: (Op.CPU_OFF, (), _none),
    PsciId.CPU_ON: (
        Op.CPU_ON,
        ("vcpu", "entry", "context"),
        lambda x: (x[1] & 0xFFFF, x[2], x[3]),
    ),
    PsciId.AFFINITY_INFO: (
        Op.AFFINITY_INFO,
        ("vcpu", "level"),
        lambda x: (x[1] & 0xFFFF, x[2] & _W),
    ),
}
# DEN0022 has these with a prefix, and all others without.
_PSCI_PREFIXED = frozenset(
    {
        PsciId.VERSION,
        PsciId.FEATURES,
        PsciId.SET_SUSPEND_MODE,
        PsciId.STAT_RESIDENCY,
        PsciId.STAT_COUNT,
    }
)

_HF: dict[HfId, _Row] = {
    HfId.MAILBOX_WRITABLE_GET: (Op.WRITABLE_GET, (), _none),
    HfId.MAILBOX_WAITER_GET: (Op.WAITER_GET, ("vm",), lambda x: (x[1] & 0xFFFF,)),
    HfId.INTERRUPT_ENABLE: (
        Op.INTERRUPT_ENABLE,
        ("intid", "on"),
        lambda x: (x[1] & _W, int(x[2] != 0)),
    ),
    HfId.INTERRUPT_GET: (Op.INTERRUPT_GET, (), _none),
    HfId.INTERRUPT_INJECT: (
        Op.INTERRUPT_INJECT,
        ("vm", "vcpu", "intid"),
        lambda x: (x[1] & 0xFFFF, x[2] & 0xFFFF, x[3] & _W),
    ),
    HfId.DEBUG_LOG: (Op.DEBUG_LOG, ("character",), lambda x: (x[1] & 0xFF,)),
}

# What FEATURES admits to.  RXTX_UNMAP works, yet Hafnium does not list it; RXTX_MAP is listed by
# its 64-bit id alone.  Hafnium lists the memory calls too (71 to 77), which are not served here.
_FEATURES = frozenset(
    {
        FfaId.ERROR,
        FfaId.SUCCESS,
        FfaId.INTERRUPT,
        FfaId.VERSION,
        FfaId.FEATURES,
        FfaId.RX_RELEASE,
        FfaId.RXTX_MAP | CONVENTION_64,
        FfaId.PARTITION_INFO_GET,
        FfaId.ID_GET,
        FfaId.MSG_POLL,
        FfaId.MSG_WAIT,
        FfaId.YIELD,
        FfaId.RUN,
        FfaId.MSG_SEND,
        FfaId.MSG_SEND_DIRECT_REQ,
        FfaId.MSG_SEND_DIRECT_RESP,
    }
)

_PSCI_FEATURES = {
    PsciId.CPU_SUSPEND: 2,  # the extended StateID format, no OS-initiated mode
    PsciId.VERSION: 0,
    PsciId.FEATURES: 0,
    PsciId.AFFINITY_INFO: 0,
    PsciId.CPU_OFF: 0,
    PsciId.CPU_ON: 0,
}


def _table() -> dict[int, Call]:
    table: dict[int, Call] = {}

    def add(
        ids: Iterable[int],
        name: str,
        row: _Row,
        *,
        smc: bool = True,
        hvc: bool = True,
        exact: bool = False,
    ) -> None:
        op, arguments, decode = row
        for number in ids:
            table[int(number)] = Call(name, op, arguments, decode, smc, hvc=hvc, exact=exact)

    for ffa, row in _FFA.items():
        add((ffa, ffa | CONVENTION_64), f"FFA_{ffa.name}", row)
    for psci in PsciId:
        name = f"PSCI_{psci.name}" if psci in _PSCI_PREFIXED else psci.name
        row = _PSCI.get(psci, (Op.PSCI_NOT_SUPPORTED, (), _none))
        add((psci, psci | CONVENTION_64), name, row)
    # Hafnium cuts FF-A and PSCI ids to 32 bits, and compares its own in 64.
    for hf, row in _HF.items():
        add((hf,), f"HF_{hf.name}", row, smc=hf is HfId.DEBUG_LOG, exact=True)
    # For an SMC it drops the convention's bit of the debug log, too; for an HVC not.
    log = HfId.DEBUG_LOG | CONVENTION_64
    add((log,), "HF_DEBUG_LOG", _HF[HfId.DEBUG_LOG], hvc=False, exact=True)
    return table


def _ffa(function: int, *words: int) -> Regs:
    """Every FF-A return rewrites x0..x7."""
    return (function, *words) + (0,) * (7 - len(words))


_ERRORS = {error: _ffa(FfaId.ERROR, 0, FfaError[error.name] & _X) for error in Error}
_SUCCESS = _ffa(FfaId.SUCCESS)
_POWER = {
    Power.SUCCESS: (0,),
    Power.OFF: (1,),
    Power.NOT_SUPPORTED: (PsciError.NOT_SUPPORTED & _X,),
    Power.INVALID_PARAMETERS: (PsciError.INVALID_PARAMETERS & _X,),
    Power.DENIED: (PsciError.DENIED & _X,),
    Power.ALREADY_ON: (PsciError.ALREADY_ON & _X,),
}


class _Ffa10:
    name = "ffa-1.0"
    registers = 8
    calls: Mapping[int, Call] = _table()
    unknown: Regs = (SMCCC_UNKNOWN,)

    def answer(self, regs: Regs, show: Show) -> str:
        function = regs[0]
        if function == FfaId.ERROR:
            code = regs[2] & _W
            code -= code >> 31 << 32
            known = code in FfaError._value2member_map_
            return FfaError(code).name if known else f"error {code}"
        if function == FfaId.MSG_SEND:
            return f"a message of {regs[3]} bytes from {show('sender', regs[1] >> 16 & 0xFFFF)}"
        if function in FfaId._value2member_map_:
            return FfaId(function).name
        number = function & _W
        if number in Intid._value2member_map_:
            return show("intid", number)
        return "-1" if number == _W else str(number)

    def success(self, w2: int = 0) -> Regs:
        return _ffa(FfaId.SUCCESS, 0, w2) if w2 else _SUCCESS

    def error(self, error: Error) -> Regs:
        return _ERRORS[error]

    def version(self, requested: int) -> Regs:
        return _ffa(FfaError.NOT_SUPPORTED & _X if requested >> 31 else VERSION_1_0)

    def features(self, function: int) -> Regs:
        return _SUCCESS if function in _FEATURES else _ERRORS[Error.NOT_SUPPORTED]

    def message(self, sender: int, receiver: int, size: int) -> Regs:
        return (int(FfaId.MSG_SEND), sender << 16 | receiver, 0, size, 0, 0, 0, 0)

    def direct_request(self, sender: int, receiver: int, words: Args) -> Regs:
        return _ffa(FfaId.MSG_SEND_DIRECT_REQ, sender << 16 | receiver, 0, *words)

    def interrupted_response(self) -> Regs:
        return _ffa(FfaId.INTERRUPT)

    def value(self, value: int) -> Regs:
        return (value & _X,)

    def invalid_intid(self) -> Regs:
        return (INVALID_INTID,)

    def psci_version(self) -> Regs:
        return (PSCI_VERSION_1_1,)

    def psci_features(self, function: int) -> Regs:
        answer = _PSCI_FEATURES.get(function & ~CONVENTION_64)  # type: ignore[call-overload]
        return (PsciError.NOT_SUPPORTED & _X,) if answer is None else (answer,)

    def power(self, power: Power) -> Regs:
        return _POWER[power]

    def partition_info(self, partitions: list[tuple[int, int]]) -> bytes:
        return b"".join(
            struct.pack("<HHI", vm, vcpus, PARTITION_INDIRECT_MSG) for vm, vcpus in partitions
        )


FFA_1_0 = _Ffa10()
