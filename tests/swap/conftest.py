"""For all tests of swap."""

from __future__ import annotations

import pytest
from progress import QUIET_NS

from hfsched.vmm import swapping


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an Enable take as long as it does on a machine that others need, too."""
    monkeypatch.setattr(swapping, "_ENABLE_WITHIN", QUIET_NS)
