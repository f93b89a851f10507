"""Thirty starts and stops, and eight VMs at once; a thousand and sixty-four: `bench/machines.py`."""

from __future__ import annotations

import os
import threading

import pytest
from machines import TARGETS, Target, belongings, chain, everyone, leaks

from hfsched.memory.ram import PAGE_SIZE, Ram


def usable(target: Target) -> Target:
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(f"{target}: {why_not}")
    return target


on_every_engine = pytest.mark.parametrize(
    "target", TARGETS, ids=lambda target: str(target).replace(" ", "-")
)


@on_every_engine
def test_thirty_starts_and_stops_leave_nothing(target: Target) -> None:
    assert leaks(usable(target), 30) == {}


@on_every_engine
def test_eight_vms_and_the_host_all_at_once_lose_nothing(target: Target) -> None:
    assert everyone(usable(target), 8, 25) == []


@on_every_engine
def test_a_chain_of_eight_vms_full_of_messages_loses_none(target: Target) -> None:
    assert chain(usable(target), 8, 40) == []


def test_what_is_left_would_be_seen() -> None:
    before = belongings()
    reader, writer = os.pipe()
    ram = Ram("left", PAGE_SIZE)
    end = threading.Event()
    thread = threading.Thread(target=end.wait, daemon=True)
    thread.start()
    more = belongings() - before
    assert more["descriptor of pipe"] == 2
    assert sum(count for what, count in more.items() if what.startswith("thread ")) == 1
    assert [what for what in more if what.startswith("mapping of /memfd:hfsched")] != []
    end.set()
    thread.join()
    ram.close()
    os.close(reader)
    os.close(writer)
