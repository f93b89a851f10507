"""For all tests of swap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from progress import QUIET_NS

from hfsched.vmm import swapping

from .clientworld import World

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an Enable take as long as it does on a machine that others need, too."""
    monkeypatch.setattr(swapping, "_ENABLE_WITHIN", QUIET_NS)


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        world.close()


@pytest.fixture
def world(worlds: list[World]) -> World:
    worlds.append(World())
    return worlds[0].start()
