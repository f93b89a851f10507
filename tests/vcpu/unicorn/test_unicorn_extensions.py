"""A guest that executes what the identification registers deny is told so; the process lives.

Unicorn aborts the process at half-precision encodings, if its CPU has them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import a64
import extension_words
import pytest
from unicorn_guest import Guest, args

_ROOT = Path(__file__).resolve().parents[3]
_PROGRAM = str(Path(extension_words.__file__))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, _PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", extension_words.DENIED)
def test_what_is_denied_is_undefined(name: str) -> None:
    done = _run(name)
    assert (done.returncode, done.stderr) == (0, "")
    count = len(extension_words.words(name))
    assert done.stdout == f"{count} of {count}\n"


@pytest.mark.parametrize("name", extension_words.GRANTED)
def test_what_is_granted_runs_and_what_lies_beside_it_ends_nothing(name: str) -> None:
    done = _run(name)
    assert (done.returncode, done.stderr) == (0, "")
    undefined, count = map(int, done.stdout.split(" of "))
    assert undefined < count


def test_a_cpu_with_half_precision_would_end_the_process() -> None:
    done = _run("FP16", "--undenied")
    assert done.returncode == -signal.SIGABRT
    said = done.stdout + done.stderr  # two lines; the second one was missing once
    assert "should not be reached" in said or "disas_simd_three_reg_same_fp16" in said


def test_the_identification_registers_say_the_same() -> None:
    """A row here for each extension there: one that Unicorn adds is seen."""
    with Guest() as guest:

        def read(crm: int, op2: int) -> int:
            guest.start(a64.mrs(1, a64.sysreg(3, 0, 0, crm, op2)), a64.hvc())
            return args(guest.cpu.enter())[1]

        def field(value: int, shift: int) -> int:
            return value >> shift & 15

        pfr0, isar0, isar1 = read(4, 0), read(6, 0), read(6, 1)
        denied = {
            "FP16": (field(pfr0, 16), field(pfr0, 20)),
            "SVE": (field(pfr0, 32), read(4, 4)),
            "SME": (field(read(4, 1), 24), read(4, 5)),
            "BF16": (field(isar1, 44),),
            "I8MM": (field(isar1, 52),),
        }
        granted = {
            "AES": (field(isar0, 4),),
            "SHA1, SHA256": (field(isar0, 8), field(isar0, 12)),
            "SHA512, SHA3, SM3, SM4": tuple(field(isar0, at) for at in (12, 32, 36, 40)),
            "dot product": (field(isar0, 44),),
            "FCMA": (field(isar1, 16),),
            "RDM": (field(isar0, 28),),
            "FHM": (field(isar0, 48),),
            "JSCVT": (field(isar1, 12),),
            "FRINTTS": (field(isar1, 32),),
        }
    assert denied == {name: (0,) * len(denied[name]) for name in extension_words.DENIED}
    assert granted.keys() == extension_words.GRANTED.keys()
    assert all(all(fields) for fields in granted.values()), granted
