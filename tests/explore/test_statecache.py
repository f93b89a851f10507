"""The cache of states: a mapping, within its memory."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from hfsched.explore.statecache import StateCache

SETS = [frozenset[int](), frozenset({1}), frozenset({1, 2}), frozenset({5, 9, 300})]


@given(
    st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 3)), max_size=60),
    st.binary(min_size=16, max_size=16),
)
def test_it_is_a_mapping(puts: list[tuple[bytes, int]], other: bytes) -> None:
    cache, model = StateCache(), {}
    for key, number in puts:
        cache.put(key, SETS[number])
        model[key] = SETS[number]
    assert len(cache) == len(model)
    assert all(cache.get(key) == model.get(key) for key in [*model, other])


@given(st.lists(st.integers(0, 400), max_size=400))
def test_digests_that_fall_on_the_same_place_are_kept_apart(numbers: list[int]) -> None:
    """All with the same first bytes, which choose table and slot."""
    cache = StateCache()
    keys = [bytes(8) + number.to_bytes(8, "big") for number in numbers]
    for key, number in zip(keys, numbers, strict=True):
        cache.put(key, SETS[number % 4])
    assert len(cache) == len(set(numbers))
    assert all(
        cache.get(key) == SETS[number % 4] for key, number in zip(keys, numbers, strict=True)
    )
    assert cache.get(b"\0" * 15 + b"\xff") is None or 255 in numbers


def test_a_state_takes_at_most_64_bytes() -> None:
    draw = random.Random(1)
    most = 0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = StateCache()
        for number in range(1, 30_001):
            cache.put(draw.randbytes(16), SETS[number % 4])
            if number % 500 == 0 and number >= 10_000:
                taken = tracemalloc.get_traced_memory()[0] - before
                most = max(most, taken // number)
                assert abs(cache.size - taken) < taken // 4
    finally:
        tracemalloc.stop()
    assert 20 <= most <= 64
