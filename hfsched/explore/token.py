"""Tokens: a scenario and a failing schedule of it, as one word to copy and to send.

``hf1-`` and url-safe base64, without padding, of: flags; the scenario's spec; the deviations, each
{decisions since the last one, choice}; the trace's hash; a checksum.  Numbers are varints.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import blake2b

from hfsched.errors import UserError
from hfsched.explore.schedule import Schedule

__all__ = ["Token", "decode", "encode"]

VERSION = 1
HASH = 8  # bytes of a trace's hash
CHECK = 4  # bytes of the checksum
SIZE_MAX = 1 << 16  # bytes of a token
BITS_MAX = 35  # of a varint
_FLAGS = ("stateful", "cycles", "races")


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says; `trace` is the hash of the execution's trace, in hex."""

    spec: str
    schedule: Schedule
    trace: str


def encode(token: Token) -> str:
    """Return the token's text."""
    schedule = token.schedule
    out = bytearray([sum(getattr(schedule, name) << i for i, name in enumerate(_FLAGS))])
    spec = token.spec.encode()
    _put(out, len(spec))
    out += spec
    last = 0
    _put(out, len(schedule.deviations))
    for at, choice in schedule.deviations:
        _put(out, at - last)
        _put(out, choice)
        last = at
    out += bytes.fromhex(token.trace)
    out += _check(out)
    return f"hf{VERSION}-" + base64.urlsafe_b64encode(out).rstrip(b"=").decode()


def decode(text: str) -> Token:
    """Read a token; raises UserError that says what is wrong with it."""
    text = text.strip()
    head, dash, body = text.partition("-")
    if not dash or not head.startswith("hf") or not head[2:].isascii() or not head[2:].isdigit():
        raise UserError(f"not a token: {_short(text)!r} (a token begins with hf{VERSION}-)")
    if head != f"hf{VERSION}":
        raise UserError(f"token {_short(text)}: of format {head[2:]}, not {VERSION}")
    if len(body) > SIZE_MAX:
        raise UserError(f"token {_short(text)}: {len(body)} characters, more than {SIZE_MAX}")
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"token {_short(text)}: damaged: no base64; copy all of it") from None
    whole = base64.urlsafe_b64encode(data).rstrip(b"=").decode() == body
    content, check = data[:-CHECK], data[-CHECK:]
    if not whole or len(data) <= CHECK or _check(content) != check:
        raise UserError(f"token {_short(text)}: damaged or cut short (checksum); copy all of it")
    try:
        return _parse(content)
    except (ValueError, IndexError):
        raise UserError(f"token {_short(text)}: made by something else: no schedule") from None


def _parse(data: bytes) -> Token:
    flags = data[0]
    if flags >> len(_FLAGS):
        raise ValueError("unknown flags")
    at = 1
    size, at = _get(data, at)
    spec, at = _slice(data, at, size).decode(), at + size
    count, at = _get(data, at)
    deviations: list[tuple[int, int]] = []
    last = -1
    for _ in range(count):  # each takes two bytes at least, or the data ends
        step, at = _get(data, at)
        choice, at = _get(data, at)
        where = max(last, 0) + step
        if where <= last:
            raise ValueError("deviations out of order")
        deviations.append((where, choice))
        last = where
    trace = _slice(data, at, HASH)
    if at + HASH != len(data):
        raise ValueError("more behind it")
    chosen = {name: bool(flags >> i & 1) for i, name in enumerate(_FLAGS)}
    return Token(spec, Schedule(tuple(deviations), **chosen), trace.hex())


def _put(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _get(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, at
        shift += 7
        if shift >= BITS_MAX:
            raise ValueError("a number too long")


def _slice(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError("cut short")
    return data[at : at + size]


def _check(data: bytes | bytearray) -> bytes:
    return blake2b(bytes([VERSION]) + data, digest_size=CHECK).digest()


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:20] + "..."
