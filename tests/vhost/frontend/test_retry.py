"""When a back-end is tried to be reached: soon at first, later each time, and not for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hfsched.vhost.frontend.retry import RETRY_FOR, Retry

SECOND = 1_000_000_000


def test_pauses_grow_to_half_a_second() -> None:
    retry = Retry()
    assert not retry.due(0)
    assert retry.begin(0)
    assert not retry.begin(0), "it is tried already"
    pauses, now = [], 0
    for _ in range(9):
        assert retry.at is not None
        assert not retry.due(retry.at - 1)
        assert retry.due(retry.at)
        pauses.append((retry.at - now) // 10**6)
        now = retry.at
        retry.failed(now)
    assert pauses == [10, 20, 40, 80, 160, 320, 500, 500, 500]


def tries(lives: int, settle: Callable[[Retry], None] = lambda _retry: None) -> int | None:
    """Return how often a back-end is reached that lives for so long (ns) each time; None: without end."""
    retry, now = Retry(), 0
    for count in range(1000):
        retry.begin(now)
        assert retry.at is not None
        now = retry.at
        if retry.over(now):
            return count
        retry.reached(now)
        settle(retry)
        now += lives
    return None


def test_a_back_end_that_goes_again_and_again_is_given_up() -> None:
    found = tries(0)
    assert found is not None
    assert found <= 2 * RETRY_FOR // SECOND + 6, "two a second"


@pytest.mark.parametrize("lives", [0, 1, SECOND])
def test_one_that_has_served_is_not(lives: int) -> None:
    assert tries(lives, Retry.settle) is None


def test_one_that_has_stayed_is_not() -> None:
    assert tries(10 * SECOND) is None


def test_it_ends_when_there_is_none_for_long() -> None:
    retry = Retry()
    retry.begin(SECOND)
    while retry.at is not None and not retry.over(retry.at):
        retry.failed(retry.at)
    assert retry.at is not None
    assert RETRY_FOR <= retry.at - SECOND < RETRY_FOR + SECOND
    retry.give_up()
    assert retry.at is None
    assert retry.begin(2 * RETRY_FOR)
    assert not retry.over(2 * RETRY_FOR)
