"""Snapshots that former versions have written, in `versions/`."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["copy_former"]

VERSIONS = Path(__file__).parent / "versions"


def copy_former(version: int, target: Path) -> None:
    """Copy a version's snapshot, and give it the modes that a checkout does not keep: nobody else may write it."""
    shutil.copytree(VERSIONS / str(version), target)
    for each in (target, *target.iterdir()):
        each.chmod(0o700 if each is target else 0o600)
