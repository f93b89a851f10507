"""The scripts' set-up: each installs what it needs, and undoes nothing that another has installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
STUB = """#!/bin/sh
[ "$1" != -m ] || echo "$*" >>"$CALLS"
"""


def test_scripts_do_not_undo_each_others_set_up(tmp_path: Path) -> None:
    venv, calls = tmp_path / "venv", tmp_path / "calls"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text(STUB)
    (venv / "bin" / "python").chmod(0o755)
    calls.touch()

    def installed(*extras: str) -> int:
        """Set up; return how often pip was called."""
        before = len(calls.read_text().splitlines())
        subprocess.run(
            ["sh", "-euc", '. "$top/script/common.sh"; environment "$@"', "sh", *extras],
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "top": str(TOP),
                "HFSCHED_VENV": str(venv),
                "CALLS": str(calls),
            },
            check=True,
            capture_output=True,
        )
        return len(calls.read_text().splitlines()) - before

    assert installed("emulator", "explore", "fdt", "guests") == 1  # script/run
    assert installed("guests") == 0  # script/qemu
    assert installed("emulator", "explore", "fdt", "guests") == 0
    assert installed("cluster", "test") == 1  # script/test
    assert installed("emulator", "explore", "fdt", "guests") == 0
    assert installed("cluster", "test") == 0
    assert "-e" in calls.read_text()
