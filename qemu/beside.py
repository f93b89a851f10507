"""How other programs of ours start `script/qemu`: tests, and `bench/arm64.py`."""

from __future__ import annotations

import os
import sys

from qemu.image import TOP

__all__ = ["SILENCE", "command", "environment"]

SILENCE = 600.0  # seconds: a machine that says nothing for so long has come to a stop


def command(*words: str) -> list[str]:
    """Return `script/qemu` with these words, to be run in `TOP`."""
    return [sys.executable, "-P", "-m", "qemu", "--quiet", "--silence", f"{SILENCE:g}", *words]


def environment() -> dict[str, str]:
    """Return its environment, in which it is found."""
    return {**os.environ, "PYTHONPATH": f"{TOP}:{os.environ.get('PYTHONPATH', '')}"}
