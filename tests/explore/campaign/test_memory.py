"""A search that has used its memory ends, and says so."""

from __future__ import annotations

import pytest

from hfsched.explore.campaign.run import Campaign

LIMIT = 1 << 16  # bytes
SPEC = "mailbox,hosts=2"


@pytest.mark.parametrize("strategy", ["exhaustive", "bounded", "portfolio"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_search_ends_when_its_memory_is_used(strategy: str, jobs: int) -> None:
    summary = Campaign(SPEC, strategy, budget=300, jobs=jobs, memory=LIMIT).run()
    assert summary.full
    assert not summary.complete
    assert summary.found is None
    assert summary.states > 50


@pytest.mark.parametrize("memory", [0, 1 << 24])
def test_a_search_that_needs_less_is_complete(memory: int) -> None:
    summary = Campaign("mailbox,messages=2", "exhaustive", budget=300, memory=memory).run()
    assert summary.complete
    assert not summary.full
