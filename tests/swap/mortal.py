"""A machine that swaps until SIGUSR1, or until it is killed: ``DIRECTORY alone|fork|exec``.

It prints, in JSON, the ids of its monitor's process and of a child that lives on.  The exit status
prints whether the guest's memory was correct to the end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from talk import UNICORN, Talk

from hfsched.swap.protocol.messages import State


def child(word: str) -> dict[str, int]:
    """Start a child: with all descriptors of this process, or with none."""
    if word == "alone":
        return {}
    if word == "exec":
        return {"child": subprocess.Popen(["sleep", "600"]).pid}
    pid = os.fork()
    if not pid:
        signal.sigwait({signal.SIGTERM})
        os._exit(0)
    return {"child": pid}


def main(directory: str, word: str) -> bool:
    """Swap; return whether the memory is right."""
    signals: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _frame: signals.append(number))
    with Talk(UNICORN, "stress", memory=1 << 19, swap=directory) as host:
        swap = host.machine.swap
        assert swap is not None
        filled = host.ask("fill 7")
        process = swap.client.supervisor._process
        assert process is not None
        pid = process.pid
        swap.enable()
        swap.client.swap_out()
        print(json.dumps({"monitor": pid, **child(word)}), flush=True)
        while not signals:
            while swap.status().state is not State.ACTIVE:
                pass
            if host.ask("check 7") != filled:
                return False
            swap.enable()
            swap.client.swap_out()
    return True


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
