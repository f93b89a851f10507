"""`hfsched device fs` from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def refused(*words: str) -> tuple[int, str]:
    """Return the status and the only line of a command that does not serve."""
    command = [sys.executable, "-m", "hfsched", "device", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["fs", "--tag", "t"], 2, "fs needs one directory, got 0"),
        (["fs", "DIR", "DIR", "--tag", "t"], 2, "fs needs one directory, got 2"),
        (["fs", "DIR"], 2, "fs needs --tag TAG"),
        (["fs", "DIR", "--tag", "t", "--serial", "s"], 2, "--serial: fs has no use for it"),
        (["fs", "DIR", "--tag", "t", "--queues", "0"], 2, "--queues 0: 1 to 255"),
        (["fs", "DIR/none", "--tag", "t"], 1, "No such file or directory"),
        (["fs", "DIR", "--tag", "t" * 37], 1, "1 to 36 bytes"),
        (["rng", "--tag", "t"], 2, "--tag: rng has no use for it"),
    ],
)
def test_what_is_refused(tmp_path: Path, words: list[str], status: int, text: str) -> None:
    given = [word.replace("DIR", str(tmp_path)) for word in words]
    found, line = refused(*given, "--socket", str(tmp_path / "socket"))
    assert text in line
    assert found == status
    assert not (tmp_path / "socket").exists()
