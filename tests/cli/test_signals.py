"""Signals as a run takes them, without a run."""

from __future__ import annotations

import subprocess
import sys

_NO_TASK_RUNS = """
import os, signal
from hfsched.cli.jobcontrol import JobControl
from hfsched.cli.signals import Signals
from hfsched.runtime.threads import ThreadRuntime

class Starved(ThreadRuntime):
    def spawn(self, name, fn):
        return None

runtime = Starved()
changed = runtime.event("changed")
signals = Signals(runtime, changed, lambda number: None, JobControl(runtime, changed))
print(signals.number)
for number in (signal.SIGTERM, signal.SIGINT):
    os.kill(os.getpid(), number)
    print(signals.number)
"""


def test_a_signal_is_noted_before_any_task_has_run() -> None:
    out = subprocess.run(
        [sys.executable, "-c", _NO_TASK_RUNS], capture_output=True, check=True, text=True
    )
    assert out.stdout.split() == ["None", "15", "15"]
