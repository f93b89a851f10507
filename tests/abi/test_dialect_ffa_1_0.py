"""The dialect `ffa-1.0`: which ids it takes, how it reads arguments, how it writes answers."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.abi.dialect import Error, Op, Power
from hfsched.abi.ffa import CONVENTION_64
from hfsched.abi.ffa_1_0 import FFA_1_0

X = 0xFFFF_FFFF_FFFF_FFFF
registers = st.lists(st.integers(0, X), min_size=8, max_size=8).map(tuple)


def decoded(number: int, *args: int) -> tuple[int, ...]:
    return FFA_1_0.calls[number].decode((number, *args) + (0,) * (7 - len(args)))


def test_each_ff_a_and_psci_id_has_both_conventions_by_hvc_and_smc() -> None:
    ids = {number for number in FFA_1_0.calls if number >> 24 & ~0x40 == 0x84}
    assert len(ids) >= 2 * (21 + 16)
    for number in ids:
        twin = FFA_1_0.calls[number ^ CONVENTION_64]
        assert (twin.op, twin.smc) == (FFA_1_0.calls[number].op, True)


def test_hafniums_own_have_one_id_each_and_only_the_log_comes_by_smc() -> None:
    rest = {n: (call.hvc, call.smc) for n, call in FFA_1_0.calls.items() if n >> 24 & ~0x40 != 0x84}
    assert rest == {
        **dict.fromkeys(range(0xFF01, 0xFF06), (True, False)),
        0xBD00_0000: (True, True),
        0xFD00_0000: (False, True),
    }
    assert all(FFA_1_0.calls[number].exact for number in rest)


def test_answers_are_no_calls() -> None:
    for number, bit in product((0x60, 0x61, 0x62, 0x75), (0, CONVENTION_64)):
        assert 0x8400_0000 | number | bit not in FFA_1_0.calls


@pytest.mark.parametrize(
    ("number", "args", "expected"),
    [
        (0x8400_006E, (0x2_0003, 9, 4096, 1), (2, 3, 4096, 1)),
        (0x8400_006E, (0xF_FFFF_FFFF, 9, 0xF_0000_0001, 0xFE), (0xFFFF, 0xFFFF, 1, 0)),
        (0xC400_0066, (1 << 40, 2 << 40, 0x5_0000_0001), (1 << 40, 2 << 40, 1)),
        (0x8400_006D, (0x2_0001,), (2, 1)),
        (0x8400_0070, (0x2_0001, 9, 3, 4, 5, 6, 7), (2, 1, 3, 4, 5, 6, 7)),
        (0x8400_0068, (1 << 32 | 1, 2, 3, 4), (1, 2, 3, 4)),
        (0x8400_0063, (0x5_8000_0000,), (0x8000_0000,)),
        (0xFF03, (5, 1 << 40), (5, 1)),
        (0xFF03, (5, 0), (5, 0)),
        (0xFF05, (2, 1, 5), (2, 1, 5)),
        (0xBD00_0000, (0x141,), (0x41,)),
        (0x8400_0003, (1, 1 << 50, X), (1, 1 << 50, X)),
        (0x8400_0004, (1, 1 << 32), (1, 0)),
    ],
)
def test_how_arguments_are_read(
    number: int, args: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert decoded(number, *args) == expected


@settings(derandomize=True, deadline=None, database=None, max_examples=50)
@given(registers)
def test_any_registers_can_be_read_by_any_call(regs: tuple[int, ...]) -> None:
    for call in FFA_1_0.calls.values():
        assert all(type(value) is int and 0 <= value <= X for value in call.decode(regs))


def test_every_operation_of_this_generation_has_an_id() -> None:
    assert {call.op for call in FFA_1_0.calls.values()} >= set(Op) - {Op.NOT_SUPPORTED}


@pytest.mark.parametrize("error", Error)
def test_an_error_is_8_registers_with_its_code_sign_extended(error: Error) -> None:
    code = [*Error].index(error)  # in the order of the specification: -1, -2, ...
    assert FFA_1_0.error(error) == (0x8400_0060, 0, X - code, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("w2", "text"), [(X, "NOT_SUPPORTED"), (0, "error 0"), (7, "error 7"), (X - 99, "error -100")]
)
def test_an_error_in_words(w2: int, text: str) -> None:
    """A scheduler under test may answer anything."""
    assert FFA_1_0.answer((0x8400_0060, 0, w2, 0), lambda name, value: f"{name} {value}") == text


def test_ff_a_answers_are_8_registers() -> None:
    assert FFA_1_0.success() == (0x8400_0061, 0, 0, 0, 0, 0, 0, 0)
    assert FFA_1_0.success(7) == (0x8400_0061, 0, 7, 0, 0, 0, 0, 0)
    assert FFA_1_0.message(2, 3, 9) == (0x8400_006E, 0x2_0003, 0, 9, 0, 0, 0, 0)
    assert FFA_1_0.direct_request(1, 2, (5, 6, 7, 8, 9)) == (
        (0x8400_006F, 0x1_0002, 0, 5, 6, 7, 8, 9)
    )
    assert FFA_1_0.interrupted_response() == (0x8400_0062, 0, 0, 0, 0, 0, 0, 0)
    assert FFA_1_0.version(0) == (0x1_0000, 0, 0, 0, 0, 0, 0, 0)
    assert FFA_1_0.version(1 << 31) == (X, 0, 0, 0, 0, 0, 0, 0)


def test_the_other_answers_are_x0_alone() -> None:
    assert FFA_1_0.value(-1) == FFA_1_0.unknown == (X,)
    assert FFA_1_0.value(63) == (63,)
    assert FFA_1_0.invalid_intid() == (0xFFFF_FFFF,)
    assert FFA_1_0.psci_version() == (0x1_0001,)
    powers = {power.name: FFA_1_0.power(power) for power in Power}
    assert powers == {
        "SUCCESS": (0,),
        "OFF": (1,),
        "NOT_SUPPORTED": (X,),
        "INVALID_PARAMETERS": (X - 1,),
        "DENIED": (X - 2,),
        "ALREADY_ON": (X - 3,),
    }


def test_a_partition_is_8_bytes() -> None:
    assert FFA_1_0.partition_info([]) == b""
    assert FFA_1_0.partition_info([(1, 2), (0x8001, 0x103)]) == (
        b"\x01\x00\x02\x00\x04\x00\x00\x00" + b"\x01\x80\x03\x01\x04\x00\x00\x00"
    )
