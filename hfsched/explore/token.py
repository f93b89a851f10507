"""Tokens: a scenario and a failing schedule of it, as one word to copy and share.

``hf1-`` and url-safe base64, without padding, of: the number of bytes that follow; flags; the
scenario's spec with its size; the deviations with their number, each {decisions since the last one,
choice}; a digest of the end; the trace's hash; a checksum.  Numbers are varints.

The size comes first to distinguish a truncated token from a damaged one.  The checksum is a CRC, which
detects every burst error of up to 32 bits.
"""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass

from hfsched.errors import InternalError, UserError
from hfsched.explore.schedule import Schedule

__all__ = ["Token", "decode", "encode"]

VERSION = 1
END = 2  # bytes of the digest of the end
HASH = 8  # bytes of a trace's hash
CHECK = 4  # bytes of the checksum
SIZE_MAX = 1 << 20  # characters of a token
BITS_MAX = 35  # of a varint
_FLAGS = ("stateful", "cycles", "races", "watched")
_OTHER = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Token:
    """The contents of a token.

    `trace` is the hash of the execution's trace and `end` the digest of the failure's type ("0000":
    none), both in hex.
    """

    spec: str
    schedule: Schedule
    trace: str
    end: str = "00" * END


def encode(token: Token) -> str:
    """Return the token's text; raises UserError for a schedule too long for one."""
    schedule = token.schedule
    out = bytearray([sum(getattr(schedule, name) << i for i, name in enumerate(_FLAGS))])
    spec = token.spec.encode(errors="surrogateescape")  # it may contain a file's path
    _put(out, len(spec))
    out += spec
    last = 0
    _put(out, len(schedule.deviations))
    for count, (at, choice) in enumerate(schedule.deviations):
        if count and at <= last:
            raise InternalError(f"deviations out of order: decision {at} after {last}")
        _put(out, at - last)
        _put(out, choice)
        last = at
    digests = bytes.fromhex(token.end + token.trace)
    if len(digests) != END + HASH:
        raise InternalError(f"no digests of a trace: {token.end} {token.trace}")
    out += digests
    whole = bytearray()
    _put(whole, len(out) + CHECK)
    whole += out
    whole += _check(whole)
    if _characters(len(whole)) > SIZE_MAX:
        raise UserError(
            f"a schedule of {len(schedule.deviations)} deviations is too long for a token"
        )
    return f"hf{VERSION}-" + _text(whole)


def decode(text: str, spec: str | None = None) -> Token:
    """Decode a token; with `spec`, it must be of that scenario.

    Raises UserError with the reason for a token that is damaged, truncated, of another version or
    scenario.
    """
    text = text.strip()
    head, dash, body = text.partition("-")
    if not dash or not re.fullmatch(r"hf[0-9]{1,9}", head):
        raise UserError(f"not a token: {_short(text)}: tokens begin with hf{VERSION}-")
    if head != f"hf{VERSION}":
        raise UserError(f"token {_short(text)}: format {head[2:]}, supported: {VERSION}")
    try:
        content = _open(body)
    except ValueError as exc:
        raise UserError(f"token {_short(text)}: {exc}; copy it again") from None
    try:
        token = _parse(content)
    except (ValueError, IndexError):
        raise UserError(f"token {_short(text)}: the content is not a schedule") from None
    if spec is not None and token.spec != spec:
        raise UserError(f"token {_short(text)}: of scenario {token.spec!r}, not of {spec!r}")
    return token


def _open(body: str) -> bytes:
    """Return the bytes between the size and the checksum; raises ValueError with the reason."""
    if len(body) > SIZE_MAX:
        raise ValueError(f"{len(body)} characters, more than {SIZE_MAX}")
    other = _OTHER.search(body)
    if other is not None:
        raise ValueError(f"damaged: invalid character {other[0]!a}")
    used = len(body) - (len(body) % 4 == 1)  # a single character more encodes no byte
    data = base64.urlsafe_b64decode(body[:used] + "=" * (-used % 4))
    try:
        size, at = _get(data, 0)
    except IndexError:
        raise ValueError("truncated: no size") from None
    expected = _characters(at + size)
    if size < CHECK or expected > SIZE_MAX:
        raise ValueError("damaged: invalid size")
    if len(body) < expected:
        raise ValueError(f"truncated: {len(body)} of {expected} characters")
    if len(body) > expected:
        raise ValueError(f"{len(body) - expected} characters too many at the end")
    if _text(data) != body or _check(data[:-CHECK]) != data[-CHECK:]:
        raise ValueError("damaged: the checksum is wrong")
    return data[at:-CHECK]


def _parse(data: bytes) -> Token:
    flags = data[0]
    if flags >> len(_FLAGS):
        raise ValueError("unknown flags")
    size, at = _get(data, 1)
    spec, at = data[at : at + size].decode(errors="surrogateescape"), at + size
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
    end, trace = data[at : at + END], data[at + END :]
    if len(end + trace) != END + HASH:
        raise ValueError("wrong size of the digests")
    chosen = {name: bool(flags >> i & 1) for i, name in enumerate(_FLAGS)}
    return Token(spec, Schedule(tuple(deviations), **chosen), trace.hex(), end.hex())


def _put(out: bytearray, number: int) -> None:
    if not 0 <= number < 1 << BITS_MAX:
        raise InternalError(f"a token cannot encode the number {number}")
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _get(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while shift < BITS_MAX:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            if shift and not byte:
                break  # not the shortest encoding
            return number, at
        shift += 7
    raise ValueError("damaged: invalid number")


def _check(data: bytes | bytearray) -> bytes:
    return zlib.crc32(data, VERSION).to_bytes(CHECK, "big")


def _text(data: bytes | bytearray) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _characters(size: int) -> int:
    """Return the number of characters of `size` encoded bytes."""
    return -(-size * 4 // 3)


def _short(text: str) -> str:
    return ascii(text if len(text) <= 24 else text[:20] + "...")
