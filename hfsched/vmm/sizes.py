"""Numbers as users write them in a manifest or on the command line; each raises ConfigError.

`what` is what the message begins with.
"""

from __future__ import annotations

import re

from hfsched.errors import ConfigError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.text import integer
from hfsched.times import seconds
from hfsched.vmm.layout import ADDRESS_MAX

__all__ = [
    "MEMORY_MAX",
    "VCPUS_MAX",
    "IdleTime",
    "parse_address",
    "parse_idle",
    "parse_range",
    "parse_size",
    "parse_vcpus",
]

MEMORY_MAX = 64 << 30
VCPUS_MAX = 32
IDLE_MIN, IDLE_MAX = 0.01, 86_400.0  # seconds
_COUNT = re.compile(r"[0-9]{1,12}")
_HEX = re.compile(r"0x[0-9a-f]{1,16}", re.IGNORECASE)
_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*([A-Za-z]*)")
_UNITS = {"": 1, "b": 1} | {
    letter + rest: 1 << shift
    for letter, shift in (("k", 10), ("m", 20), ("g", 30))
    for rest in ("", "ib")
}
_DECIMAL = {"kb": "KiB", "mb": "MiB", "gb": "GiB"}


class IdleTime(int):
    """A time in ns, parsed by `parse_idle` where it is written."""


def parse_size(what: str, text: int | str) -> int:
    """Return a memory size in bytes, a positive multiple of 4096, from 4096, "0x1000" or "1.5MiB".

    Units are powers of two in any case; KB, MB and GB, which are powers of ten to some, are refused.
    """
    size = text if isinstance(text, int) else _size(what, text.strip())
    if not 0 < size <= MEMORY_MAX or size % PAGE_SIZE:
        shown = integer(text) if isinstance(text, int) else repr(text[:80])
        raise ConfigError(f"{what} {shown}: a multiple of 4096 bytes up to 64GiB, such as 16MiB")
    return size


def parse_address(what: str, text: int | str) -> int:
    """Return an address, written as a size is: a multiple of 4096 below 2^40, and not 0."""
    address = text if isinstance(text, int) else _size(what, text.strip())
    if not PAGE_SIZE <= address < ADDRESS_MAX or address % PAGE_SIZE:
        shown = integer(text, "x") if isinstance(text, int) else repr(text[:80])
        raise ConfigError(
            f'{what} {shown}: a multiple of 4096 below 2^40, not 0, such as 0x40000000 or "1GiB"'
        )
    return address


def _size(what: str, text: str) -> int:
    """Return a size in bytes, -1 for what looks like none and for a part of a byte."""
    if _HEX.fullmatch(text):
        return int(text, 16)
    match = _SIZE.fullmatch(text)
    if match is None:
        return -1
    number, suffix = match.groups()
    unit = _UNITS.get(suffix.lower())
    if unit is not None:
        whole, _, decimals = number.partition(".")
        size, rest = divmod(int(whole + decimals) * unit, 10 ** len(decimals))
        return -1 if rest else size
    shown = f"{what} {text[:80]!r}"
    if suffix.lower() in _DECIMAL:
        raise ConfigError(
            f"{shown}: write {number}{_DECIMAL[suffix.lower()]}: units are powers of 2"
        )
    raise ConfigError(f"{shown}: unknown suffix {suffix[:80]!r}: use K, M, G, KiB, MiB, GiB")


def parse_range(what: str, text: str) -> tuple[int, int]:
    """Return an address and a size in bytes, from "0x7fe00000+1MiB"."""
    address, plus, size = text.partition("+")
    if not plus or not (_HEX.fullmatch(address) or _COUNT.fullmatch(address)):
        raise ConfigError(f"{what} {text[:80]!r}: an address and a size, such as 0x7fe00000+1MiB")
    start = int(address, 0)
    if start % PAGE_SIZE:
        raise ConfigError(f"{what} {text[:80]!r}: the address must be a multiple of 4096")
    return start, parse_size(f"{what}: the size", size)


def parse_vcpus(what: str, text: str) -> int:
    """Return a number of vCPUs, from its digits."""
    if not _COUNT.fullmatch(text) or not 1 <= int(text) <= VCPUS_MAX:
        raise ConfigError(f"{what} {text[:80]!r}: a number from 1 to {VCPUS_MAX}")
    return int(text)


def parse_idle(what: str, text: float | str) -> IdleTime:
    """Return a time to wait before something is done, in ns, from "30s", "500ms" or seconds."""
    found = seconds(text) if isinstance(text, str) else text
    if found is None or not IDLE_MIN <= found <= IDLE_MAX:
        shown = repr(text[:80]) if isinstance(text, str) else f"{text:g}"
        raise ConfigError(f"{what} {shown}: a time such as 500ms, 30s or 2m, 10ms to 24h")
    return IdleTime(round(found * 1_000_000_000))
