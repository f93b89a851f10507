"""Runtimes of production, and what their tasks fail with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hfsched.runtime.threads import ThreadRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def rt() -> ThreadRuntime:
    return ThreadRuntime()


@pytest.fixture
def failures() -> list[tuple[str, BaseException]]:
    return []


@pytest.fixture
def checked(failures: list[tuple[str, BaseException]]) -> Iterator[ThreadRuntime]:
    """A runtime whose tasks must not fail."""
    yield ThreadRuntime(lambda name, exc: failures.append((name, exc)))
    assert failures == []
