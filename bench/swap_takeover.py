"""How long a page fault waits when the monitor has died: kill it, read a page that is out.

    python bench/swap_takeover.py [--dir DIR] [--rounds N]

The time is from the kill to the end of the read: main sees the death, starts another monitor, which
takes over the page table and the waiting fault, and serves it.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from swap_world import MIB, Native, Ours

SIZE = 16 * MIB


def _monitor(ours: Ours, last: int | None = None) -> int:
    """Return the process id of the monitor, another than `last`."""
    while (pid := ours.client.monitor_pid()) is None or pid == last:
        time.sleep(0.001)
    return pid


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", default=".", help="the directory of the swap file")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    native = Native()
    took: list[float] = []
    with Ours(native, arguments.dir, SIZE) as ours:
        ours.enable()
        ours.out()
        pid = _monitor(ours)
        for number in range(arguments.rounds):
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            native.touch(ours.ram, [number * 64])
            took.append((time.monotonic() - began) * 1000)
            ours.client.status()
            pid = _monitor(ours, pid)
        takeovers = ours.client.supervisor.takeovers
    native.close()
    took.sort()
    print(f"{takeovers} take-overs; ms from the death of a monitor to the page it did not serve:")
    print(f"  least {took[0]:.1f}, median {statistics.median(took):.1f}, most {took[-1]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
