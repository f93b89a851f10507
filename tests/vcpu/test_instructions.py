"""A slice of `bench/instructions.py`, and that it finds what it looks for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from instruction_words import LEFT_OUT, left_out
from talk import TARGETS, UNICORN, Target

_BENCH = Path(__file__).resolve().parents[2] / "bench"
PROGRAMS = {"unicorn": 150, "kvm": 400}

# In a process of its own: it forks, and other tests have threads.
_CHANGED = """
import struct, sys
sys.path.insert(0, sys.argv[1])
import instructions, instruction_child
from talk import UNICORN
from hfsched.vcpu.unicorn import cpu, machine
{change}
code = struct.pack("<3I", 0xD503201F, {word}, 0xD503201F)
print(*instructions.fuzz(UNICORN, 60, most=2, draw=lambda random: code).found, sep="\\n")
"""


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(_BENCH.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def _usable(target: Target) -> None:
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(f"{target}: {why_not}")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target).replace(" ", "-"))
def test_the_process_and_the_vm_beside_live(target: Target) -> None:
    _usable(target)
    count = PROGRAMS[target.engine]
    done = _python(
        str(_BENCH / "instructions.py"),
        *("--engine", target.engine, "--programs", str(count), "--seconds", "60"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(
        rf"^{target}: (\d+) programs .* (\d+) left out: 0 findings$", done.stdout, re.MULTILINE
    )
    assert found is not None, done.stdout
    assert int(found[1]) + int(found[2]) == count


def _finding(change: str, word: int) -> str:
    _usable(UNICORN)
    done = _python("-c", _CHANGED.format(change=change, word=word), str(_BENCH))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0]


def test_an_instruction_that_ends_the_process_is_named() -> None:
    found = _finding("machine._NO_FEATURES = 0", 0x2EC1_1FDE)  # behind what Unicorn prints
    assert found.endswith("the process ended by SIGABRT: program 0 of seed 1: 0x2ec11fde")


def test_a_kick_that_has_no_effect_is_found() -> None:
    change = "instruction_child.ANSWER_WITHIN = 0.1; cpu.UnicornVcpu.kick = lambda self: None"
    found = _finding(change, 0x1400_0000)
    assert re.fullmatch(
        r"a kick did not end it in \d+\.\d s: program 0 of seed 1: 0x14000000", found
    )


def test_memory_of_the_vm_beside_that_changes_is_found() -> None:
    change = (
        "run = instructions.Child.run\n"
        "def poke(self, *args):\n"
        "    run(self, *args)\n"
        "    self._beside.write(instruction_child.SIZE - 1, b'x')\n"
        "instructions.Child.run = poke"
    )
    assert _finding(change, 0xD503_201F) == "the memory of the VM beside changed"


def test_what_is_left_out_is_found_anywhere_in_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEFT_OUT, "kvm x86_64", {"VMCALL": (b"\x0f\x01\xc1", "why")})
    assert left_out("kvm x86_64", b"\x90\x0f\x01\xc1\x90") == "VMCALL"
    assert left_out("kvm x86_64", b"\x0f\x01\xc0") is None
    assert left_out("unicorn aarch64", b"\x0f\x01\xc1") is None
