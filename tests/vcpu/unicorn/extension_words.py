"""Instructions of A64's vector extensions, run by a guest that ignores the identification registers.

As a program, for a test that sees how the process ends: ``extension_words.py NAME [--undenied]``
runs words of one extension, and prints "UNDEFINED of ALL".
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

WORDS = 400
_Q, _U, _A = 1 << 30, 1 << 29, 1 << 23
_RD_RN, _RM = 0x3FF, 0x1F << 16
_THREE = _RM | _RD_RN
_ELEMENT = 0x3F0BFF  # L, M, Rm, H

# By extension: (fixed bits, bits at random).  Sources: Arm ARM, C4.1.96 (vectors), C4.1.31 (SVE, SME).
# Of these no field of an identification register says that they are there; each word is undefined.
DENIED = {
    "FP16": (
        (0x0E400400, _Q | _U | _A | _THREE | 0x3800),  # three registers
        (0x5E400400, _U | _A | _THREE | 0x3800),
        (0x0E780800, _Q | _U | _A | 0x1F000 | _RD_RN),  # two registers
        (0x5E780800, _U | _A | 0x1F000 | _RD_RN),
        (0x0F009000, _Q | _U | _ELEMENT),  # by element
        (0x0F00FC00, _Q | 0x703FF),  # immediate
        (0x0E30C800, _Q | _A | _RD_RN),  # across lanes
        (0x0E30F800, _Q | _A | _RD_RN),
        (0x1EE00800, _THREE | 0xF000),  # scalars
        (0x1FC00000, _THREE | 0x20FC00),
        (0x2E40E400, _Q | _THREE | 0x1000),  # complex numbers
        (0x2E40C400, _Q | _THREE | 0x1800),
    ),
    "SVE": ((0x04000000, 0xE1FFFFFF),),
    "SME": ((0x80000000, 0x61FFFFFF), (0xD503427F, 0x0500)),
    "BF16": (
        (0x2E40FC00, _Q | _THREE),
        (0x6E40EC00, _THREE),
        (0x2EC0FC00, _Q | _THREE),
        (0x0EA16800, _Q | _RD_RN),
        (0x1E634000, _RD_RN),
        (0x0F40F000, _Q | _ELEMENT),
        (0x0FC0F000, _Q | _ELEMENT),
    ),
    "I8MM": (
        (0x4E80A400, _U | _THREE),
        (0x4E80AC00, _THREE),
        (0x0E809C00, _Q | _THREE),
        (0x0F80F000, _Q | _ELEMENT),
        (0x0F00F000, _Q | _ELEMENT),
    ),
}
# These are there; words beside the allocated ones must not end the process either.
GRANTED = {
    "AES": ((0x4E280800, 0x1F000 | _RD_RN),),
    "SHA1, SHA256": ((0x5E000000, _THREE | 0x7000), (0x5E280800, 0x1F000 | _RD_RN)),
    "SHA512, SHA3, SM3, SM4": ((0xCE000000, 0x00FFFFFF),),
    "dot product": (
        (0x0E009400, _Q | _U | 3 << 22 | _THREE),
        (0x0F00E000, _Q | _U | 3 << 22 | _ELEMENT),
    ),
    "FCMA": (
        (0x2E00C400, _Q | 3 << 22 | _THREE | 0x3800),
        (0x2F001000, _Q | 3 << 22 | _ELEMENT | 0x6000),
    ),
    "RDM": (
        (0x2E008400, _Q | 3 << 22 | _THREE | 0x800),
        (0x7E008400, 3 << 22 | _THREE | 0x800),
        (0x2F00D000, _Q | 3 << 22 | _ELEMENT | 0x2000),
    ),
    "FHM": ((0x0E20EC00, _Q | 3 << 22 | _THREE), (0x2E20CC00, _Q | 3 << 22 | _THREE)),
    "JSCVT": ((0x1E7E0000, _RD_RN), (0x1E3E0000, 3 << 22 | _RD_RN)),
    "FRINTTS": (
        (0x0E21E800, _Q | _U | 1 << 22 | 0x1000 | _RD_RN),
        (0x1E284000, 3 << 22 | 0x18000 | _RD_RN),
    ),
}
NAMES = (*DENIED, *GRANTED)


def words(name: str) -> list[int]:
    """Return words of an extension, the same at each call."""
    random = Random(name)
    spaces = {**DENIED, **GRANTED}[name]
    each = WORDS // len(spaces)
    return [fixed | random.getrandbits(32) & free for fixed, free in spaces for _ in range(each)]


def _run(name: str) -> str:
    import a64  # noqa: PLC0415 - found by the path above
    from unicorn_guest import BASE, Guest, args, use_vectors  # noqa: PLC0415

    with Guest() as guest:
        guest.vectors()
        undefined = 0
        for word in (found := words(name)):
            guest.start(use_vectors(), *a64.mov(0, BASE), word, a64.hvc())
            said = args(guest.cpu.enter())
            undefined += said[0] == 0x200 and said[1] >> 26 == 0 and said[3] == BASE + 9 * 4
        return f"{undefined} of {len(found)}"


if __name__ == "__main__":
    if "--undenied" in sys.argv:
        from hfsched.vcpu.unicorn import machine

        machine._NO_FEATURES = 0
    print(_run(sys.argv[1]))
