"""Which generations of Hafnium have a function id, and what they call it: for messages.

A generation is one of the ABI, not a release: `classic` (TF-Hafnium 7d4cd5314e, February 2019), `spci-alpha2`
(fc0b2b6515, June 2019), `spci-beta` (9dadaf2fd1 and b55fb64661, to March 2020), `ffa-1.0` (f0701679c0,
October 2020), `ffa-1.1` (946fde92, v2.10) and `ffa-1.2` (92be99ed, v2.13).  What a guest of a normal VM may
call counts, served or refused.  Sources: inc/vmapi/hf/abi.h, call.h, spci.h and ffa.h of these trees;
DEN0077 and DEN0028 for names and owners.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from hfsched.abi.dialect import find
from hfsched.abi.ffa import CONVENTION_64

if TYPE_CHECKING:
    from hfsched.abi.dialect import Dialect

__all__ = ["unknown_function"]

_RELEASES = {
    "classic": "early 2019",
    "spci-alpha2": "mid-2019",
    "spci-beta": "end of 2019",
    "ffa-1.0": "v2.4, v2.5",
    "ffa-1.1": "v2.6 to v2.10",
    "ffa-1.2": "v2.11 to v2.13",
}
_OLD = ("classic", "spci-alpha2")
_FFA = ("ffa-1.0", "ffa-1.1", "ffa-1.2")
_NEW = ("ffa-1.1", "ffa-1.2")

# {generations: {id: name}}; an id with different names has several places.
_TABLE: tuple[tuple[tuple[str, ...], dict[int, str]], ...] = (
    (
        _OLD,
        {
            0xFF00: "HF_VM_GET_ID",
            0xFF01: "HF_VM_GET_COUNT",
            0xFF02: "HF_VCPU_GET_COUNT",
            0xFF03: "HF_VCPU_RUN",
            0xFF05: "HF_VM_CONFIGURE",
            0xFF08: "HF_MAILBOX_CLEAR",
            0xFF09: "HF_MAILBOX_WRITABLE_GET",
            0xFF0A: "HF_MAILBOX_WAITER_GET",
            0xFF0B: "HF_INTERRUPT_ENABLE",
            0xFF0C: "HF_INTERRUPT_GET",
            0xFF0D: "HF_INTERRUPT_INJECT",
            0xFF0E: "HF_SHARE_MEMORY",
        },
    ),
    (
        ("classic",),
        {0xFF04: "HF_VCPU_YIELD", 0xFF06: "HF_MAILBOX_SEND", 0xFF07: "HF_MAILBOX_RECEIVE"},
    ),
    (
        ("spci-alpha2",),
        {
            0x8400_0060: "SPCI_VERSION",
            0x8400_0062: "SPCI_MSG_RECV",
            0x8400_0064: "SPCI_MSG_SEND",
            0x8400_0067: "SPCI_YIELD",
        },
    ),
    (
        ("spci-beta",),
        {
            0xFF01: "HF_VM_GET_COUNT",
            0xFF02: "HF_VCPU_GET_COUNT",
            0xFF03: "HF_MAILBOX_WRITABLE_GET",
            0xFF04: "HF_MAILBOX_WAITER_GET",
            0xFF05: "HF_INTERRUPT_ENABLE",
            0xFF06: "HF_INTERRUPT_GET",
            0xFF07: "HF_INTERRUPT_INJECT",
            0xFFAB: "HF_SPCI_MEM_RELINQUISH",
            0x8400_0063: "SPCI_VERSION",
            0x8400_0064: "SPCI_FEATURES",
            0x8400_0065: "SPCI_RX_RELEASE",
            0x8400_0066: "SPCI_RXTX_MAP",
            0x8400_0069: "SPCI_ID_GET",
            0x8400_006A: "SPCI_MSG_POLL",
            0x8400_006B: "SPCI_MSG_WAIT",
            0x8400_006C: "SPCI_YIELD",
            0x8400_006D: "SPCI_RUN",
            0x8400_006E: "SPCI_MSG_SEND",
            0x8400_0071: "SPCI_MEM_DONATE",
            0x8400_0072: "SPCI_MEM_LEND",
            0x8400_0073: "SPCI_MEM_SHARE",
        },
    ),
    (("spci-beta", "ffa-1.0"), {0xBD00_0000: "HF_DEBUG_LOG"}),
    (
        ("ffa-1.0", "ffa-1.1"),
        {
            0xFF01: "HF_MAILBOX_WRITABLE_GET",
            0xFF02: "HF_MAILBOX_WAITER_GET",
            0xFF05: "HF_INTERRUPT_INJECT",
        },
    ),
    (
        _FFA,
        {
            0xFF03: "HF_INTERRUPT_ENABLE",
            0xFF04: "HF_INTERRUPT_GET",
            0x8400_0063: "FFA_VERSION",
            0x8400_0064: "FFA_FEATURES",
            0x8400_0065: "FFA_RX_RELEASE",
            0x8400_0066: "FFA_RXTX_MAP",
            0x8400_0068: "FFA_PARTITION_INFO_GET",
            0x8400_0069: "FFA_ID_GET",
            0x8400_006A: "FFA_MSG_POLL",
            0x8400_006B: "FFA_MSG_WAIT",
            0x8400_006C: "FFA_YIELD",
            0x8400_006D: "FFA_RUN",
            0x8400_006E: "FFA_MSG_SEND",
            0x8400_006F: "FFA_MSG_SEND_DIRECT_REQ",
            0x8400_0070: "FFA_MSG_SEND_DIRECT_RESP",
            0x8400_0071: "FFA_MEM_DONATE",
            0x8400_0072: "FFA_MEM_LEND",
            0x8400_0073: "FFA_MEM_SHARE",
            0x8400_0074: "FFA_MEM_RETRIEVE_REQ",
            0x8400_0076: "FFA_MEM_RELINQUISH",
            0x8400_0077: "FFA_MEM_RECLAIM",
            0x8400_007A: "FFA_MEM_FRAG_RX",
            0x8400_007B: "FFA_MEM_FRAG_TX",
        },
    ),
    (
        _NEW,
        {
            0x8400_0062: "FFA_INTERRUPT",
            0x8400_0067: "FFA_RXTX_UNMAP",
            0x8400_007D: "FFA_NOTIFICATION_BITMAP_CREATE",
            0x8400_007E: "FFA_NOTIFICATION_BITMAP_DESTROY",
            0x8400_007F: "FFA_NOTIFICATION_BIND",
            0x8400_0080: "FFA_NOTIFICATION_UNBIND",
            0x8400_0081: "FFA_NOTIFICATION_SET",
            0x8400_0082: "FFA_NOTIFICATION_GET",
            0x8400_0083: "FFA_NOTIFICATION_INFO_GET",
            0x8400_0084: "FFA_RX_ACQUIRE",
            0x8400_0085: "FFA_SPM_ID_GET",
            0x8400_0086: "FFA_MSG_SEND2",
            0x8400_0087: "FFA_SECONDARY_EP_REGISTER",
            0x8400_0088: "FFA_MEM_PERM_GET",
            0x8400_0089: "FFA_MEM_PERM_SET",
            0x8400_008A: "FFA_CONSOLE_LOG",
            0x8400_008B: "FFA_PARTITION_INFO_GET_REGS",
        },
    ),
    (
        ("ffa-1.2",),
        {0x8400_008D: "FFA_MSG_SEND_DIRECT_REQ2", 0x8400_008E: "FFA_MSG_SEND_DIRECT_RESP2"},
    ),
)

# What no generation here serves, by name; an FF-A answer is an answer.
_OTHERS = {
    0x8000_0000: "SMCCC_VERSION",
    0x8000_0001: "SMCCC_ARCH_FEATURES",
    0x8000_0002: "SMCCC_ARCH_SOC_ID",
    0x8400_0061: "FFA_SUCCESS",
    0x8400_0075: "FFA_MEM_RETRIEVE_RESP",
    0x8400_007C: "FFA_NORMAL_WORLD_RESUME",
    0x8400_008C: "FFA_EL3_INTR_HANDLE",
    0x8400_008F: "FFA_NS_RES_INFO_GET",
    0x8400_0090: "FFA_ABORT",
}

# DEN0028 table 6-2: {last owning entity number of a range: whose calls these are}.
_OWNERS = {
    0: "the Arm architecture's",
    1: "the CPU's",
    2: "the silicon provider's",
    3: "the manufacturer's",
    4: "standard secure services'",
    5: "standard hypervisors'",
    6: "the vendor hypervisor's",
    47: "nobody's",
    49: "trusted applications'",
    63: "a trusted OS's",
}
_FAST = 1 << 31
_STANDARD = 4


@cache
def _names() -> dict[int, dict[str, list[str]]]:
    """Return {id: {name: generations}}."""
    found: dict[int, dict[str, list[str]]] = {}
    for generations, calls in _TABLE:
        for number, name in calls.items():
            found.setdefault(number, {}).setdefault(name, []).extend(generations)
    return found


def _known(number: int) -> Iterator[str]:
    both = number & ~CONVENTION_64 if number >> 24 & 0x3F == _STANDARD else number
    wide = ", 64-bit," if both != number else ""
    for name, generations in _names().get(both, {}).items():
        where = ", ".join(f"{each} (Hafnium {_RELEASES[each]})" for each in generations)
        yield f"{name}{wide} in {where}"
    other = _OTHERS.get(both)
    if other is not None:
        yield f"{other}{wide} in no generation"


def unknown_function(dialect: Dialect, x0: int, *, smc: bool) -> str:
    """Describe on one line a call that `dialect` does not know: the id, its names, who has them."""
    by = "SMC" if smc else "HVC"
    number = find(dialect.calls, x0)
    if number is not None:
        why = f"{dialect.calls[number].name}, not by {by}"
    elif x0 >> 32 and x0 & 0xFFFF_FFFF in dialect.calls:
        name = dialect.calls[x0 & 0xFFFF_FFFF].name
        why = f"{name} is {x0 & 0xFFFF_FFFF:#x}, in all 64 bits of x0"
    else:
        why = "; ".join(_known(x0)) or "in no generation"
        if why == "in no generation" and x0 & _FAST and not x0 >> 32:
            owner = next(who for last, who in _OWNERS.items() if x0 >> 24 & 0x3F <= last)
            why += f"; {owner} range"
    return f"unknown function {x0:#x}: {why}; this VM speaks {dialect.name}"
