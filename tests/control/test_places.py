"""Whose place a client gets, without sockets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.control.places import FullError, Places

OWNER, ROOT = 1000, 0


def full(places: Places, number: int, uid: int = OWNER) -> bool:
    try:
        places.enter(number, uid, 99)
    except FullError:
        return True
    return False


def test_the_longest_idle_client_gives_its_place() -> None:
    places = Places(3, 2, OWNER)
    for number, now in ((1, 10), (2, 20), (3, 30)):
        assert places.enter(number, OWNER, now) is None
    assert places.begin(1)
    places.rest(1, 40)
    assert places.enter(4, OWNER, 50) == 2
    assert not places.begin(2), "it still gets an answer"
    assert places.enter(5, OWNER, 60) == 3
    assert places.enter(6, OWNER, 70) == 1


def test_a_client_whose_request_has_come_just_now_keeps_its_place() -> None:
    places = Places(2, 1, OWNER)
    places.enter(1, OWNER, 1)
    places.enter(2, OWNER, 2)
    assert places.enter(3, OWNER, 3, asks=lambda number: number == 1) == 2
    with pytest.raises(FullError):
        places.enter(4, OWNER, 4, asks=lambda _: True)


def test_a_request_under_way_and_what_is_kept_are_not_given() -> None:
    places = Places(3, 2, OWNER)
    for number in (1, 2, 3):
        places.enter(number, OWNER, number)
    places.keep(1)
    assert places.begin(2)
    assert places.enter(4, OWNER, 4) == 3
    assert places.begin(4)
    assert full(places, 5)
    places.rest(2, 50)
    assert places.enter(6, OWNER, 60) == 2


def test_the_last_place_is_for_requests() -> None:
    places = Places(3, 2, OWNER)
    for number in (1, 2, 3):
        places.enter(number, OWNER, number)
    places.keep(1)
    places.keep(2)
    with pytest.raises(FullError):
        places.keep(3)
    assert places.enter(4, OWNER, 4) == 3
    places.leave(1)
    places.keep(4)


def test_others_leave_a_place_for_the_owner() -> None:
    places = Places(3, 3, OWNER)
    for number in (1, 2):
        places.enter(number, ROOT, number)
        places.keep(number)
    assert full(places, 3, ROOT)
    assert places.enter(4, OWNER, 4) is None
    places.keep(4)
    places.leave(4)
    assert full(places, 5, ROOT), "it is not only for the first time"


def test_an_idle_client_of_the_owner_does_not_give_its_place_to_others_beyond_theirs() -> None:
    places = Places(3, 2, OWNER)
    places.enter(1, OWNER, 1)
    places.enter(2, ROOT, 2)
    places.enter(3, ROOT, 3)
    assert places.enter(4, ROOT, 4) == 2


steps = st.lists(
    st.tuples(
        st.sampled_from(["enter", "begin", "rest", "keep", "leave"]),
        st.integers(0, 7),
        st.sampled_from([OWNER, ROOT]),
    ),
    max_size=60,
)


@given(steps, st.integers(2, 4), st.integers(1, 3))
def test_whatever_comes_the_owner_is_refused_only_by_requests(
    steps: list[tuple[str, int, int]], most: int, kept_most: int
) -> None:
    """It is not idle clients that refuse one, and not kept ones; and none that is kept or busy is evicted."""
    kept_most = min(kept_most, most - 1)
    places = Places(most, kept_most, OWNER)
    inside: dict[int, tuple[int, str]] = {}
    for now, (what, number, uid) in enumerate(steps):
        if what == "enter" and number not in inside:
            before = dict(inside)
            try:
                evicted = places.enter(number, uid, now)
            except FullError:
                still = [each for each in before.values() if each[1] != "idle"]
                assert uid == ROOT or len(still) == most
                assert uid == OWNER or len(still) >= most - 1
                assert any(state == "busy" for _, state in still) or uid == ROOT
                continue
            if evicted is not None:
                assert before[evicted][1] == "idle"
                del inside[evicted]
            inside[number] = (uid, "idle")
        elif what == "leave":
            places.leave(number)
            inside.pop(number, None)
        elif number in inside and inside[number][1] != "kept":
            user = inside[number][0]
            if what == "keep":
                kept = [owner for owner, state in inside.values() if state == "kept"]
                try:
                    places.keep(number)
                except FullError:
                    assert len(kept) == kept_most or user == ROOT
                    continue
                inside[number] = (user, "kept")
            elif what == "begin":
                assert places.begin(number)
                inside[number] = (user, "busy")
            else:
                places.rest(number, now)
                inside[number] = (user, "idle")
        assert len(inside) <= most
        assert sum(state == "kept" for _, state in inside.values()) <= kept_most
