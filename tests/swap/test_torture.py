"""A dozen kills and some commands in any order; hundreds of them: `bench/swap_torture.py`."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from swap_torture import Target, cycles, kills

from .guestmemory import needs_userfault
from .swapping import on_every_engine

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
