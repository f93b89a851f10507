"""The table of proofs, which `bench/explore.py proofs` prints: a row for each machine and bound."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive

if TYPE_CHECKING:
    from journal import Journal

__all__ = ["DEPENDS", "TWO_VCPUS", "large", "print_table", "small"]

DEPENDS = ("hfsched/**/*.py", "bench/proof_table.py")

ONE_VCPU = ("echo", "disabled", "trusty")
TWO_VCPUS = (*ONE_VCPU, "trusty-0", "wfi-echo", "reader-1")
MAILBOX = (
    *(f"mailbox,receiver={each},messages=3" for each in ONE_VCPU),
    *(f"mailbox,receiver={each},vcpus=2,messages=2" for each in TWO_VCPUS),
    *(
        f"mailbox,receiver={each},{sizes},messages=1,{senders}"
        for senders in ("hosts=2", "guests=1")
        for sizes, receivers in (("vcpus=1", ONE_VCPU), ("vcpus=2", TWO_VCPUS))
        for each in receivers
    ),
    *(f"mailbox,receiver={each},messages=3,boot=true" for each in ONE_VCPU),
    "mailbox,receiver=trusty-0,vcpus=2,messages=1,boot=true",
    "mailbox,runners=1",
    "mailbox,receiver=reader-off,vcpus=2",
    "mailbox,hosts=1,hurried=1,messages=1",
    "mailbox,hosts=0,couriers=1",
    "mailbox,hosts=1,couriers=1,messages=1",
)
EVENTS = (
    *(
        f"events,event={each},receiver={receiver},{messages}"
        for each in ("suspend", "abort", "timer", "fault", "post", "death")
        for receiver, messages in (
            ("echo", "messages=1"),
            ("trusty", "messages=1"),
            ("echo", "messages=2"),
        )
    ),
    *(f"events,receiver={each},vcpus=2,messages=1" for each in ("wfi-echo", "reader-1")),
)
SWAP = (
    "swap",
    *(f"swap,{each}" for each in ("touches=2", "pages=2", "guests=2", "full=true")),
    "swap,beside=status",
    *(
        f"swap,commands={each}"
        for each in (
            "enable-out-enable-out-disable",
            "enable-disable,pages=2",
            "enable-disable,beside=status",
            "enable-trim-status",
            "enable-close",
            "enable-out-discard-disable",
            "discard-enable-discard",
            "enable-discard-discard",
            "enable,abort=true",
            "enable,deaths=1",
            "enable,deaths=1,failing_starts=1",
            "enable,guests=0,deaths=1",
            "enable,guests=0,beside=live",
            "enable-close,guests=0,deaths=1,failing_starts=1",
            "enable-status,bugs=1,guests=0",
            "enable,spawner_dies=true",
            "enable-out,spawner_dies=true",
            "enable,child=lives",
            "enable,child=dies,guests=0",
            "enable,child=comes,guests=0",
            "enable-out,guests=0,child=lives",
            "enable-out,guests=0,child=dies",
            "disable,stored=true",
            "status,stored=true,damaged=true",
            "disable,stored=true,damaged=true",
            "live",
            "enable-out-live",
            "live-disable,guests=0,deaths=1",
            "live,guests=0,child=lives",
            "live,guests=0,bugs=1",
            "enable-out-copied",
            "enable-out-copied,pages=2",
            "kept",
            "kept,pages=2",
            "enable-out-kept",
            "kept-disable,guests=0,deaths=1",
            "kept,guests=0,child=lives",
        )
    ),
)
MEMBERS = (
    "members,commands=enable-out,children=0",
    "members,commands=enable-close,children=0",
    "members,commands=enable,children=0,dies=1",
)
HOLDS = (
    "suspension",
    "suspension,failing=1",
    "userhold",
    *(f"userhold,{each}" for each in ("rounds=2", "users=3", "failing=1")),
    *(f"userhold,users=1,{each}" for each in ("keeps=true", "looks=2")),
)
SNAPSHOTS = (
    *(
        f"snapshots,endings={each}"
        for each in ("confirms", "drops", "drops-confirms", "ends-confirms", "fails-confirms")
    ),
    "snapshots,takers=1,vms=2",
    "snapshots,takers=1,cancels=3,vms=2",
    "restored",
    "restored,held=true",
    *(f"restored,guest={each}" for each in ("writer", "burst,queue=1")),
)
QUIET = (
    "quiet",
    "quiet,leaves=true",
    "quiet,hosts=1,clients=0",
    "quiet,clients=0,couriers=1",
    "quiet,vms=2,hosts=1,clients=0",
)
PORTS = (
    *(f"ports,{each}" for each in ("messages=2", "readers=2")),
    *(f"ports,readers=2,shared={each}" for each in ("stopped,messages=2", "closed")),
    *(f"ports,beside={each}" for each in ("opens", "handles", "connects")),
    *(f"ports,live={each},messages=2" for each in ("read", "handled")),
)
VHOST = ("vhost", "vhost,event_idx=false")
MACHINE = (
    "machine",
    "machine,messages=2,stop=false",
    "machine,guest=burst,queue=1,stop=false",
    "machine,guest=bell,rings=2,hosts=0,stop=false",
    "machine,guest=bells,rings=1,hosts=0,stop=false",
    "machine,guest=talker,listener=reader,hosts=0",
    "machine,guest=talker,listener=reader,hosts=0,queue=1,stop=false",
    "machine,guest=talker,listener=handler,hosts=0",
    "machine,guest=mortal,stop=false",
    "machine,guest=smp,vcpus=2,stop=false",
    "machine,guest=server,requests=1,hosts=0",
    "machine,guest=server,requests=2,hosts=0,stop=false",
    "machine,guest=server,requests=1,hosts=0,timers=true,stop=false",
    "machine,sends=deadline,timers=true,stop=false",
    "machine,suspenders=1,hosts=0",
    "machine,probes=1,hosts=0",
    "machine,suspenders=1,stop=false",
    "machine,suspenders=2,hosts=0,stop=false",
    *(
        f"machine,clients={each},hosts=0"
        for each in (
            *("silent", "status", "suspender", "suspender,quiet=true", "snapshotter", "hibernator"),
            *("quitter", "hibernator,stop=false", "subscriber", "deaf"),
        )
    ),
    "machine,swap=enable-out-disable,hosts=0,stop=false",
    "machine,swap=enable,deaths=1,hosts=0,stop=false",
    "subscribers",
    "subscribers,events=2",
)
# With no preemption: of every other order there are too many for seconds.
CALM = (
    *(
        f"machine,clients={each},hosts=0"
        for each in ("goes", "queries", "follower", "asks,quiet=true", "stalls,quiet=true")
    ),
    "machine,clients=listens,hosts=0",
    "machine,guest=files,clients=copier,hosts=0",
    "machine,guest=utility,asks=1,hosts=0",
    "machine,guest=hibernator,asks=1,hosts=0,stop=false",
    "machine,guest=twins,vcpus=2,hosts=0,boot=true,stop=false",
)
SERVICES = (
    "services,event=none,requests=1",
    "services,requests=1,timers=false",
    "services,requests=0,asks=1,timers=false",
    "services,event=pause,requests=1,timers=false",
    "services,event=pause,requests=0,asks=1,timers=false",
    "services,event=none,requests=1,asks=1,timers=false",
    "services,event=none,requests=1,crashes=1,timers=false",
    "services,event=none,requests=1,farewells=1,timers=false",
    "services,event=none,requests=0,asks=2,farewells=1,timers=false",
    "services,event=none,requests=0,asks=1,faults=1,timers=false",
    "services,event=hibernate,requests=0,asks=1,faults=1,timers=false",
    "services,event=none,requests=1,boot=true,timers=false",
    "services,event=none,requests=1,leavers=1,boot=true,timers=false",
    "services,event=none,leavers=1,timers=false",
    "services,event=none,requests=1,hosts=2,leavers=1,timers=false",
    "services,event=none,requests=1,hosts=2,leavers=2,timers=false",
    "services,event=none,requests=1,asks=1,leavers=1,timers=false",
    "services,event=pause,requests=1,leavers=1,timers=false",
    "services,event=hibernate,requests=1,leavers=1,timers=false",
    "services,event=none,requests=0,asks=2,crashes=1,timers=false",
    "services,event=none,requests=1,mute=true",
    "services,event=none,requests=1,hosts=2,mute=true",
    "services,event=pause,requests=0,asks=1,mute=true",
    "services,event=hibernate,requests=1,mute=true",
)


def small(*names: str) -> list[tuple[str, int | None]]:
    """Return {spec, bound} of what is proved in seconds; with names, those of these scenarios.

    tests/scenarios searches a slice of each.
    """
    ours = (
        MAILBOX,
        EVENTS,
        SWAP,
        MEMBERS,
        HOLDS,
        QUIET,
        PORTS,
        VHOST,
        MACHINE,
        SNAPSHOTS,
        SERVICES,
    )
    free = [spec for specs in ours for spec in specs]
    rows = [*((spec, None) for spec in free), *((spec, 0) for spec in CALM)]
    return [row for row in rows if not names or row[0].partition(",")[0] in names]


def large() -> list[tuple[str, int | None]]:
    """Return {spec, bound} of what takes minutes."""
    specs = [f"mailbox,receiver={each},vcpus=2,messages=3" for each in TWO_VCPUS]
    specs += ["suspension,holders=2", "suspension,rounds=2"]
    specs += ["quiet,answers=true", "quiet,vms=2", "quiet,hosts=2,clients=0", "quiet,hosts=1"]
    specs += [f"mailbox,receiver={each},messages=2,hosts=2" for each in ONE_VCPU]
    specs += [f"mailbox,receiver={each},messages=2,guests=1" for each in ONE_VCPU]
    specs += [f"mailbox,receiver={each},vcpus=2,messages=2,boot=true" for each in TWO_VCPUS]
    specs += [
        "swap,deaths=1",
        "swap,commands=enable-out,bugs=1",
        "swap,commands=enable-out,beside=discard",
        "swap,abort=true",
        "swap,deaths=1,beside=status",
        "swap,commands=disable,deaths=1,stored=true",
        "swap,commands=status,deaths=1,stored=true,damaged=true",
        "swap,commands=enable-out-disable,stored=true",
        "swap,commands=enable,spawner_dies=true,deaths=1",
    ]
    specs += [
        "machine,messages=2",
        "machine,suspenders=1",
        "machine,by_turns=true,guest=smp,vcpus=2,stop=false",
        "machine,clients=suspender,stop=false",
        "machine,guest=smp,vcpus=2",
        "machine,guest=writer,vms=2,hosts=2,stop=false",
        "machine,guest=talker,listener=reader,hosts=0,queue=1,suspenders=1",
        "machine,guest=server,requests=2,stop=false",
        "machine,sends=try,hosts=2,stop=false",
        "swap,commands=enable-out,guests=0,child=lives,workers=2",
        "machine,guest=utility,asks=1,hosts=0,stop=false",
        "machine,swap=enable,hosts=0",
        "machine,swap=enable,spawner_dies=true,hosts=0,stop=false",
        "machine,swap=enable-out,stop=false",
        "restored,messages=2",
        "restored,times=2",
        "services,requests=1",
        "services,event=restore,requests=1,timers=false",
        "services",
    ]
    specs += [f"swap,commands=enable,deaths=1,beside={each}" for each in ("status", "discard")]
    specs += ["machine,guest=talker,vms=2", "machine,vms=2,hosts=2,stop=false"]
    specs += ["vhost,messages=2", "vhost,messages=2,event_idx=false", "vhost,stops=1"]
    specs += [f"mailbox,receiver={each},vcpus=2,messages=2,hosts=2" for each in TWO_VCPUS]
    bounded = [f"mailbox,receiver={each},vcpus=2,messages=2,guests=1" for each in TWO_VCPUS]
    clients = [f"machine,clients={each},hosts=0" for each in ("asks", "stalls", "goes")]
    return [
        *((spec, None) for spec in specs),
        *((spec, 3) for spec in bounded),
        *((spec, 1) for spec in clients),
    ]


def print_table(rows: list[tuple[str, int | None]], seconds: float, journal: Journal) -> bool:
    """Search each machine up to its bound and print the table; return whether none fails.

    A row that has not come to its end after so many seconds of processor time says so, with the states seen by
    then; it is no failure.  What the journal knows is printed as it was.
    """
    print("| scenario | bound | states | executions | seconds | |")
    print("|---|---|---|---|---|---|")
    good = True
    for spec, bound in rows:
        row = journal.get(f"{spec} {bound} {seconds}", partial(_row, spec, bound, seconds))
        print(row, flush=True)
        good = good and "FAILS" not in row
    return good


def _row(spec: str, bound: int | None, seconds: float) -> str:
    scenario, strategy = find(spec), Exhaustive(bound)
    start = time.process_time()
    result = search(scenario, strategy, until=lambda _: time.process_time() - start >= seconds)
    took = time.process_time() - start
    if result.failure is not None:
        words = f"FAILS: {result.failure.failure}"
    else:
        words = "holds" if result.complete else "not ended; no failure so far"
    limit = "none" if bound is None else str(bound)
    cells = (scenario.name, limit, strategy.states, result.executions, f"{took:.1f}", words)
    return f"| {' | '.join(map(str, cells))} |"
