"""Runtimes of production, and what their tasks fail with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hfsched.runtime.threads import ThreadRuntime

from . import children
from .offspring import descriptors, offspring, threads

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


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let children leave no compiled files in the tree."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


@pytest.fixture
def spawning_rt() -> Iterator[ThreadRuntime]:
    """A runtime with a spawner, which leaves nothing behind."""
    before = descriptors(), threads(), offspring()
    runtime = ThreadRuntime()
    runtime.start_spawner([children.__name__])
    yield runtime
    runtime.close()
    assert (descriptors(), threads(), offspring()) == before
