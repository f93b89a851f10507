"""Values of registers as they are stored, and which stack pointer `sp` is."""

from __future__ import annotations

import pytest

from hfsched.errors import UserError
from hfsched.vcpu.registers import ARM64, ARM64_SYSTEM, X86_64, decode, encode, split_sp

SIZES = {"word": 8, "half": 4, "vector": 16, "float": 10}


def test_values_are_stored_and_read_back() -> None:
    values: dict[str, int | bytes] = {
        "word": (1 << 64) - 1,
        "half": 5,
        "vector": bytes(range(16)),
        "float": b"x" * 10,
    }
    stored = encode(values, SIZES)
    assert {name: len(raw) for name, raw in stored.items()} == SIZES
    assert {name: decode(raw) for name, raw in stored.items()} == values


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"other": 0}, "no register 'other'"),
        ({"half": 1 << 32}, "register half: an unsigned number of 32 bits, not 0x100000000"),
        ({"word": -1}, "register word: an unsigned number of 64 bits, not -0x1"),
        ({"word": b"1"}, "register word: an unsigned number of 64 bits, not b'1'"),
        ({"vector": 1}, "register vector: 16 bytes, not 1"),
        ({"vector": b"1"}, "register vector: 16 bytes, not b'1'"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, int | bytes], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        encode(values, SIZES)
    assert str(caught.value) == reason


def test_sp_is_one_of_two() -> None:
    assert split_sp({"sp": b"1"}, 0x3C5) == {"sp_el1": b"1"}
    assert split_sp({"sp": b"1"}, 0x3C4) == split_sp({"sp": b"1"}, 0) == {"sp_el0": b"1"}
    assert split_sp({"sp": b"1", "sp_el0": b"2"}, 5) == {"sp_el1": b"1", "sp_el0": b"2"}
    assert split_sp({"sp": b"1", "sp_el1": b"1"}, 5) == {"sp_el1": b"1"}
    with pytest.raises(UserError, match="both are given"):
        split_sp({"sp": b"1", "sp_el1": b"2"}, 5)


def test_the_beginning_is_as_a_debugger_has_it() -> None:
    assert list(ARM64)[30:36] == ["x30", "sp", "pc", "pstate", "v0", "v1"]
    assert sum(ARM64[name] for name in list(ARM64)[:68]) == 788 + 4, "pstate has 8 bytes here"
    assert list(X86_64)[15:18] == ["r15", "rip", "rflags"]


def test_no_two_system_registers_share_an_encoding() -> None:
    assert len(set(ARM64_SYSTEM.values())) == len(ARM64_SYSTEM)
    assert ARM64_SYSTEM["apibkeyhi_el1"] == (3, 0, 2, 1, 3)
    assert ARM64_SYSTEM["apgakeyhi_el1"] == (3, 0, 2, 3, 1)
