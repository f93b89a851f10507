"""A slice of `bench/parsers.py`: each parser accepts an input or refuses it with an error of ours."""

from __future__ import annotations

from random import Random

import pytest
from parser_inputs import mutated
from parsers import Parser, counts, feed, parsers

from hfsched.errors import UserError

PARSERS = {parser.name: parser for parser in parsers()}
COUNT = 60_000  # over all


@pytest.mark.parametrize(
    ("name", "count"), [*zip(PARSERS, counts([*PARSERS.values()], COUNT), strict=True)]
)
def test_no_exception_but_ours(name: str, count: int) -> None:
    result = feed(PARSERS[name], count, seed=1)
    assert result.found == []
    assert result.accepted, "the valid inputs are among them"


def test_another_exception_is_found_and_has_the_input() -> None:
    def parse(data: bytes) -> int:
        if len(data) < 3:
            raise UserError("short")
        return [0, 1, 2][data[2] & 3]

    result = feed(Parser("four of three", parse), 100, seed=1)
    assert 0 < result.accepted < 100
    what, _, data = result.found[0].rpartition(": ")
    assert what == "IndexError: list index out of range"
    with pytest.raises(IndexError):
        parse(bytes.fromhex(data))


def test_inputs_are_the_same_for_a_seed() -> None:
    def some(seed: int) -> list[bytes]:
        random = Random(seed)
        return [mutated(random, (b"one", b"two"), 20) for _ in range(50)]

    assert some(1) == some(1) != some(2)


def test_an_input_that_takes_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsers._SLOW", 0.05)

    def parse(data: bytes) -> int:
        return sum(range(len(data) * 100_000)) if len(data) > 60 else 0

    found = feed(Parser("slow", parse), 40, seed=1).found
    assert found
    assert all(each.startswith("took ") for each in found)
