"""For all tests of the public client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from control.harness import runtime_directory

from hfsched.control import runtime_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def xdg(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with runtime_directory() as path:  # alone: other machines of this user may run
        monkeypatch.setattr(runtime_dir, "roots", lambda: [path / "hfsched"])
        yield path
