"""Concurrency mistakes by kind, in all code with concurrency: each must be found by exploring.

    python bench/concurrency.py [--jobs N] [--only TEXT] [--record FILE] [--list]

`ordering.py` makes them, by patterns.  Each runs in a process of its own, which explores the scenarios
of its folder (`SCENARIOS`); nothing in the working tree is changed.  With `--record` results are kept in a
file of JSON lines, and a later call goes on from there.  What survives must stand in
`concurrency-equivalent.txt` with the reason; exit status 1 when one does not.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

from mutants import Loader, fresh
from ordering import KINDS, Mistake, mistaken, mistakes_of

TOP = Path(__file__).resolve().parent.parent
EXECUTIONS = 500  # of one scenario, by the portfolio of strategies
HANG = 900  # seconds after which a mistake counts as found: its exploration does not end
EQUIVALENT = TOP / "bench" / "concurrency-equivalent.txt"
_MESSAGES = (
    "mailbox,messages=1,hosts=2",
    "mailbox,vcpus=2,messages=1,guests=1",
    "mailbox,receiver=trusty-0,vcpus=2,messages=2,boot=true",
    "machine,guest=smp,vcpus=2,suspenders=1",
    "events,event=abort,messages=1",
    "events,event=timer,messages=1",
    "events,event=post,messages=1",
    "mailbox,runners=1",
)
_TWO = "machine,vms=2,hosts=2,guest=writer"
_PROBES = "machine,probes=1,suspenders=1,hosts=0"
_FULL = "machine,guest=talker,listener=reader,hosts=0,queue=1,probes=1,suspenders=1"
_PORTS = (
    "machine,guest=talker,listener=handler,hosts=0,queue=1,stop=false",
    "machine,vms=2,guest=talker,queue=1,hosts=0",
    _FULL,
    "machine,guest=talker,listener=reader,hosts=0,queue=1,stop=false",
    "machine,guest=talker,listener=handler,hosts=0",
    "machine,guest=burst,queue=1,stop=false",
    "machine",
)
_SWAP = (
    "swap",
    "swap,commands=enable,deaths=1",
    "swap,commands=enable-out,child=lives,guests=0",
    "swap,commands=enable-disable,beside=status",
    "swap,commands=enable,child=dies,guests=0",
    "swap,commands=enable-close,guests=0,deaths=1,failing_starts=1",
    "swap,commands=enable-out,spawner_dies=true",
    "machine,swap=enable,hosts=0,stop=false",
    "machine,swap=enable-status,hosts=0,timers=true,stop=false",
)
_SUSPENSION = ("suspension", "suspension,holders=2", "machine,suspenders=2,hosts=0,stop=false")
_CLIENTS = (
    "machine,clients=asks,hosts=0,stop=false",
    "machine,clients=goes,hosts=0",
    "machine,clients=stalls,hosts=0",
    "machine,clients=silent,hosts=0",
)
_CONTROL = (
    "machine,clients=follower,hosts=0,stop=false",
    "machine,clients=status,hosts=0",
    "machine,clients=subscriber,hosts=0",
    "machine,clients=deaf,hosts=0,suspenders=1",
)
_BOTH = ("machine,clients=status-status,hosts=0,stop=false", *_CLIENTS, *_CONTROL)
# File -> what is explored with a mistake in it.
SCENARIOS: dict[str, tuple[str, ...]] = {
    "hfsched/mailbox/mirror.py": (_PROBES, _FULL, *_MESSAGES),
    "hfsched/mailbox/quiescence.py": ("events,messages=1", *_SUSPENSION[2:], *_MESSAGES),
    "hfsched/mailbox/ports.py": _PORTS,
    "hfsched/scheduler/driver.py": (_TWO, *_MESSAGES, "machine,guest=server,requests=1,hosts=0"),
    "hfsched/scheduler/outbox.py": (
        "machine,sends=try,hosts=2,stop=false",
        *_MESSAGES,
        "machine,sends=deadline,timers=true,hosts=3,stop=false",
    ),
    "hfsched/scheduler/owners.py": ("events,event=post,messages=1", _PROBES, "machine"),
    "hfsched/scheduler/suspension.py": _SUSPENSION,
    "hfsched/hypervisor/hypervisor.py": _MESSAGES,
    "hfsched/hypervisor/primary.py": (*_MESSAGES, "machine,guest=server,requests=1,hosts=0"),
    "hfsched/hypervisor/messaging.py": (*_MESSAGES, "machine,guest=server,requests=1,hosts=0"),
    "hfsched/hypervisor/power.py": ("machine,guest=smp,vcpus=2,stop=false", *_MESSAGES),
    "hfsched/vmm/machine.py": ("machine", "machine,swap=enable,hosts=0,stop=false"),
    "hfsched/vmm/swapping.py": _SWAP,
    "hfsched/control/port_server.py": _CLIENTS,
    "hfsched/control/session.py": _CLIENTS,
    "hfsched/control/pusher.py": _CLIENTS,
    "hfsched/control/listener.py": _BOTH,
    "hfsched/control/command_server.py": _CONTROL,
    "hfsched/control/events.py": _CONTROL,
    "hfsched/swap/client/client.py": _SWAP,
    "hfsched/swap/client/supervisor.py": _SWAP,
    "hfsched/swap/client/conversation.py": _SWAP,
    "hfsched/swap/client/childmember.py": _SWAP,
    "hfsched/swap/child/child.py": _SWAP,
    "hfsched/swap/child/gate.py": _SWAP,
    "hfsched/swap/monitor/serving.py": _SWAP,
    "hfsched/swap/monitor/controller.py": _SWAP,
}


def run_one(file: str, number: int) -> str:
    """Load a file with a mistake in it, and return what finds it, empty when nothing does."""
    path = TOP / file
    tree: ast.Module = mistaken(path.read_text(), number)
    sys.meta_path.insert(0, Loader(file.removesuffix(".py").replace("/", "."), tree, str(path)))
    from hfsched.explore.execution import search
    from hfsched.explore.registry import find
    from hfsched.explore.strategies.choose import make

    for spec in SCENARIOS[file]:
        found = search(
            find(spec), make("portfolio", 1), until=lambda so_far: so_far.executions >= EXECUTIONS
        )
        if found.failure is not None:
            failure = found.failure.failure
            words = str(failure).split("\n")[0][:80]
            return f"{spec}: {found.executions} schedules: {type(failure).__name__}: {words}"
    return ""


def everything(only: str) -> list[Mistake]:
    """Return all mistakes with a text in their names."""
    return [
        mistake
        for file in SCENARIOS
        for mistake in mistakes_of(file, (TOP / file).read_text())
        if only in mistake.key
    ]


def _known(path: Path) -> dict[str, str]:
    """Return {key: reason} of what is equivalent."""
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = [line.rpartition(" || ") for line in lines if line and not line.startswith("#")]
    return {key: reason for key, _, reason in pairs}


def _recorded(path: Path | None) -> dict[str, str]:
    if path is None or not path.exists():
        return {}
    return dict(json.loads(line) for line in path.read_text().splitlines())


def check(jobs: int, only: str, record: Path | None) -> int:
    """Run all that is not recorded, and print what came of it."""
    equivalent, done = _known(EQUIVALENT), _recorded(record)
    bad = 0
    totals: Counter[tuple[str, str]] = Counter()

    def run(mistake: Mistake) -> str:
        if mistake.key not in done:
            done[mistake.key] = fresh(__file__, [mistake.file, str(mistake.number)], HANG)
            if record is not None:
                with record.open("a") as file:
                    file.write(json.dumps([mistake.key, done[mistake.key]]) + "\n")
        return done[mistake.key]

    # In an order in which each part is like the whole.
    mistakes = sorted(everything(only), key=lambda each: blake2b(each.key.encode()).digest())
    with ThreadPoolExecutor(jobs) as pool:
        for mistake, killer in zip(mistakes, pool.map(run, mistakes), strict=True):
            reason = equivalent.get(mistake.key)
            how = "found" if killer else "SURVIVES" if reason is None else "equivalent"
            bad += how == "SURVIVES" or bool(killer and reason)
            totals[mistake.kind.partition(" #")[0], how] += 1
            print(f"{how}: {mistake.file}:{mistake.line}: {mistake.key}  {killer}", flush=True)
    columns = ("found", "equivalent", "SURVIVES")
    print("| kind | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for kind in KINDS:
        print(f"| {kind} | " + " | ".join(str(totals[kind, how]) for how in columns) + " |")
    return 1 if bad else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", metavar="TEXT", help="those with TEXT in their name")
    parser.add_argument("--record", type=Path, metavar="FILE", help="results; go on from there")
    parser.add_argument("--list", action="store_true", help="list them, and run none")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        print(f"\nkiller: {run_one(args.child[0], int(args.child[1]))}", flush=True)
        os._exit(0)
    if args.list:
        for mistake in everything(args.only):
            print(f"{mistake.file}:{mistake.line}: {mistake.key}")
        return 0
    return check(args.jobs, args.only, args.record)


if __name__ == "__main__":
    sys.exit(main())
