"""Tests of which `script/test` runs a slice: all of them by ``HFSCHED_LONG=1 script/test tests/vhost``."""

from __future__ import annotations

import os

import pytest

__all__ = ["longer", "param"]

longer = pytest.mark.skipif(
    os.environ.get("HFSCHED_LONG") != "1",
    reason="it takes long: HFSCHED_LONG=1 script/test tests/vhost runs it",
)


def param(value: object, name: str) -> object:
    """Return a parameter with which a test takes long."""
    return pytest.param(value, id=name, marks=longer)
