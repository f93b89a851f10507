"""Enable and swap out in a tight loop beside a guest that checks its memory: what breaks it.

    python bench/swap_tight.py [--engine unicorn|kvm] [--moves enable,out,disable] [--seconds N]

Exit status 1 when the guest dies or finds a wrong byte.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "conformance"))

import talk
from talk import KVM_X86, UNICORN, Talk

from hfsched.errors import HfschedError


def main() -> int:
    """Run it; return how many rounds it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=("unicorn", "kvm"), default="unicorn")
    parser.add_argument("--moves", default="enable,out")
    parser.add_argument("--seconds", type=float, default=30)
    args = parser.parse_args()
    talk.WITHIN = 5.0
    target = KVM_X86 if args.engine == "kvm" else UNICORN
    host = Talk(target, "stress", memory=1 << 19, swap=tempfile.gettempdir())
    host.machine.start()
    host.ask("fill 7")
    swap = host.machine.swap
    assert swap is not None
    known: dict[str, Callable[[], object]] = {
        "enable": swap.enable,
        "out": swap.client.swap_out,
        "disable": swap.client.disable,
    }
    moves = [known[name] for name in args.moves.split(",")]
    rounds = 0

    def loop() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            for move in moves:
                with contextlib.suppress(HfschedError):
                    move()

    threading.Thread(target=loop, daemon=True).start()
    end = time.monotonic() + args.seconds
    checks = 0
    while time.monotonic() < end:
        try:
            answer = host.ask("check 7")
        except Exception as exc:  # noqa: BLE001 - any error is printed
            answer = repr(exc)
        if not answer.startswith("ok "):
            print(f"{args.engine}: after {rounds} rounds and {checks} checks: {answer}")
            print(*host.lines()[-5:], sep="\n")
            sys.stdout.flush()
            os._exit(1)
        checks += 1
    print(f"{args.engine}: {rounds} rounds, {checks} checks: all right")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
