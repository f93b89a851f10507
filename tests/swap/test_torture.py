"""A dozen kills and some commands in any order; hundreds of them: `bench/swap_torture.py`.

Each attack once, and seconds of a siege; a thousand and minutes: the same, and `bench/siege.py`.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import swap_attacks
from siege import siege
from swap_torture import Target, cycles, kills

from .guestmemory import needs_userfault
from .swapping import HERE, on_every_engine

pytestmark = needs_userfault


def usable(target: Target) -> Target:
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(f"{target}: {why_not}")
    return target


@on_every_engine
def test_monitors_are_killed_in_every_state_of_a_page(target: Target, tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    print(kills(usable(target), 12, seed, str(tmp_path)))


@on_every_engine
def test_commands_in_any_order_while_messages_flow(target: Target, tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    print(cycles(usable(target), 100, seed, str(tmp_path)))


@on_every_engine
def test_a_live_machine_is_attacked_in_each_way(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    monkeypatch.setattr(swap_attacks, "SLOW_MAX", 0.5)
    kills = len(swap_attacks.ATTACKS)
    totals = swap_attacks.attacks(usable(target).engine, kills, seed, tmp_path, clients=2)
    print(totals)
    assert totals.kills == dict.fromkeys(swap_attacks.ATTACKS, 1)
    assert totals.ends.total() == 1


def test_a_machine_under_siege_loses_no_message(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    print(siege(usable(HERE), 3, seed, tmp_path))
