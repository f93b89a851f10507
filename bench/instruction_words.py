"""Random instructions for `bench/instructions.py`: A64 words and x86-64 bytes.

Three kinds, mixed: bits at random, encodings of one class with all else at random, and the code of
the bundled guests with a few bits changed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from hfsched.vmm.guests import bundled_images

__all__ = ["LEFT_OUT", "Draw", "arm64", "left_out", "x86_64"]

Draw = Callable[[Random], bytes]

# Engine and architecture: {name: (bytes, why)}.  At these the kernel itself never comes back, so no
# kick and no signal ends them.  None is known.  VMCALL and VMMCALL are no such: a KVM that emulates
# them in kernel mode executes them again without end, and looks for signals each time.
LEFT_OUT: dict[str, dict[str, tuple[bytes, str]]] = {}


def left_out(target: str, code: bytes) -> str | None:
    """Return the name of an instruction in `code` that is left out for an engine; None: there is none."""
    for name, (pattern, _) in LEFT_OUT.get(target, {}).items():
        if pattern in code:
            return name
    return None


# A64, by class: {fixed bits, mask of the bits at random} (Arm ARM, C4.1).
_A64 = (
    ("load or store", 0x08000000, 0xF5FFFFFF),
    ("exclusive or ordered", 0x08000000, 0xC0FFFFFF),
    ("atomic", 0x38200000, 0xC4DFF3FF),
    ("vector load or store", 0x0C000000, 0x41FFFFFF),
    ("system", 0xD5000000, 0x003FFFFF),
    ("MSR, MRS", 0xD5100000, 0x002FFFFF),
    ("hint or barrier", 0xD5032000, 0x00001FFF),
    ("exception", 0xD4000000, 0x00FFFFFF),
    ("branch", 0x14000000, 0xE3FFFFFF),
    ("branch to register", 0xD6000000, 0x01FFFFFF),
    ("short branch", 0x54000000, 0x0000031F),
    ("vector", 0x0E000000, 0xF1FFFFFF),
    ("vector, three of one size", 0x0E200400, 0x60DFFBFF),
    ("vector, half precision", 0x0E400400, 0x609F3BFF),
    ("vector, three and more", 0x0E008400, 0x60DF7BFF),
    ("vector, two registers", 0x0E200800, 0x60DFF3FF),
    ("vector by element", 0x0F000000, 0x60FFFBFF),
    ("vector, immediate", 0x0F000400, 0x60FFFBFF),
    ("scalar of vectors", 0x5E000000, 0x21FFFFFF),
    ("scalar floating point", 0x1E000000, 0xE0FFFFFF),
    ("cryptography", 0xCE000000, 0x00FFFFFF),
    ("AES, SHA", 0x4E280800, 0x1001F3FF),
    ("SVE", 0x04000000, 0xE1FFFFFF),
    ("SME", 0x80000000, 0x61FFFFFF),
    ("registers", 0x0A000000, 0xF1FFFFFF),
    ("immediate", 0x10000000, 0xE3FFFFFF),
    # What a CPU in A32 or T32 makes of words.
    ("A32 vector", 0xF2000000, 0x05FFFFFF),
    ("A32 coprocessor", 0xEC000000, 0x13FFFFFF),
    ("A32 half precision", 0xEE000900, 0x11FFF1FF),
    ("T32 vector", 0x0000EF00, 0xFFFF10FF),
    ("T32 coprocessor", 0x0000EC00, 0xFFFF13FF),
)


def arm64() -> Draw:
    """Return what draws 4 to 96 words."""
    valid = _code("aarch64")
    words: list[int] = [word for (word,) in struct.iter_unpack("<I", valid[: len(valid) & ~3])] or [
        0xD503201F
    ]

    def word(random: Random) -> int:
        kind = random.random()
        if kind < 0.15:
            return random.getrandbits(32)
        if kind < 0.85:
            _, fixed, free = random.choice(_A64)
            return fixed | random.getrandbits(32) & free
        found = random.choice(words)
        for _ in range(random.randrange(3)):
            found ^= 1 << random.randrange(32)
        return found

    def draw(random: Random) -> bytes:
        return b"".join(struct.pack("<I", word(random)) for _ in range(random.randrange(4, 97)))

    return draw


_PREFIXES = (b"\x66", b"\xf2", b"\xf3", b"\xf0", b"\x67", b"\x2e", b"\x64", b"\x65")
# System instructions, all of whose operands are drawn (Intel SDM volume 2).
_SYSTEM = (
    *(bytes((0x0F, code)) for code in (0x00, 0x01, 0x20, 0x21, 0x22, 0x23, 0xAE, 0xC7, 0x18, 0x1E)),
    *(bytes((0x0F, code)) for code in (0x05, 0x07, 0x08, 0x09, 0x0B, 0x30, 0x31, 0x32, 0x33, 0x35)),
    *(bytes((0x0F, code)) for code in (0x34, 0x37, 0xA2, 0xAA, 0xA0, 0xA1, 0xA8, 0xA9, 0x77)),
    *(
        bytes((code,))
        for code in (0xCC, 0xCD, 0xCE, 0xCF, 0xF1, 0xF4, 0xFA, 0xFB, 0x9C, 0x9D, 0xCB)
    ),
    *(bytes((code,)) for code in (0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF, 0x8E, 0x8C)),
)
_STRINGS = bytes((0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF, *range(0x6C, 0x70)))
_BRANCHES = (*(bytes((code,)) for code in (*range(0x70, 0x80), *range(0xE0, 0xE4), 0xEB)), b"\xe9")


def x86_64() -> Draw:
    """Return what draws 1 to 8 instructions."""
    valid = _code("x86_64") or b"\x90" * 64

    def operands(random: Random) -> bytes:
        # What has no displacement or immediate begins the next instruction with it.
        size = random.randrange(10)
        return bytes((random.getrandbits(8),)) + random.randbytes(size)

    def one(random: Random) -> bytes:
        prefix = random.choice(_PREFIXES) if random.random() < 0.25 else b""
        if random.random() < 0.4:
            prefix += bytes((0x40 | random.getrandbits(4),))
        kind = random.randrange(12)
        if kind == 0:
            return random.randbytes(random.randrange(1, 16))
        if kind <= 2:
            return prefix + random.choice(_SYSTEM) + operands(random)
        if kind == 3:
            return random.choice((b"", b"\xf2", b"\xf3")) + bytes((random.choice(_STRINGS),))
        if kind == 4:
            return random.choice(_BRANCHES) + random.randbytes(4)
        if kind == 5:
            return prefix + b"\x0f" + bytes((random.getrandbits(8),)) + operands(random)
        if kind == 6:
            escape = random.choice((b"\x0f\x38", b"\x0f\x3a"))
            return prefix + escape + bytes((random.getrandbits(8),)) + operands(random)
        if kind == 7:  # VEX, EVEX, x87
            first = random.choice((b"\xc4", b"\xc5", b"\x62", b"\x8f"))
            return first + random.randbytes(3) + operands(random)
        if kind == 8:
            return prefix + bytes((0xD8 | random.getrandbits(3),)) + operands(random)
        if kind <= 10:
            at = random.randrange(len(valid))
            found = bytearray(valid[at : at + random.randrange(4, 24)])
            for _ in range(random.randrange(3)):
                found[random.randrange(len(found))] ^= 1 << random.randrange(8)
            return bytes(found)
        return prefix + bytes((random.getrandbits(8),)) + operands(random)

    def draw(random: Random) -> bytes:
        return b"".join(one(random) for _ in range(random.randrange(1, 9)))

    return draw


def _code(architecture: str) -> bytes:
    """Return the images of the bundled guests, where they are built."""
    paths = {
        path
        for name, path in bundled_images().items()
        if name.startswith(f"{architecture}/") and name.endswith(".bin")
    }
    return b"".join(path.read_bytes() for path in sorted(paths))
