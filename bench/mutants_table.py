"""What `bench/mutants.py` mutates, and what must find it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mistakes_places import Finder, Mutant, mutants_of
from mistakes_races import find_races
from mistakes_small import find_small

__all__ = ["GROUPS", "MISTAKES", "QUICK", "THOROUGH", "TOP", "Group"]

TOP = Path(__file__).resolve().parent.parent
QUICK = (
    "mailbox",
    "mailbox,receiver=wfi-echo,vcpus=2",
    "mailbox,receiver=reader-1,vcpus=2",
    "mailbox,boot=true",
    "mailbox,messages=3",
    "mailbox,messages=1,hosts=2",
    "mailbox,messages=1,guests=1",
    "events,messages=1",
    "events,event=abort,messages=1",
    "events,event=timer,messages=1",
    "events,event=death,messages=1",
    "events,event=post,messages=1",
    "suspension",
)
THOROUGH = (
    "machine,by_turns=true,guest=chimes,vcpus=2,suspenders=1,stop=false",
    "restored,held=true",
    "mailbox,hosts=0,couriers=1",
    "mailbox,hosts=1,couriers=1,messages=1",
    "quiet,clients=0,couriers=1",
    "events,vcpus=2,messages=1",
    "programs,program=nI-W;01;",
    "mailbox,receiver=trusty,boot=true",
    "mailbox,runners=1",
    "mailbox,vcpus=2,messages=1,guests=1",
    "programs,program=W_yyI;02;",
)
SWAP = (
    "swap",
    "swap,beside=status",
    "swap,deaths=1",
    "swap,commands=enable-out,bugs=1",
    "swap,commands=enable-out,beside=discard",
    "swap,commands=enable,abort=true",
    "swap,commands=enable-out,spawner_dies=true",
    "swap,commands=enable,spawner_dies=true,deaths=1",
    "swap,child=lives",
    "swap,commands=enable,child=dies,touches=0",
    "swap,beside=enable-disable",
    "swap,deadlines=true,deaths=1,failing_starts=1",
    "swap,deadlines=true,child=lives,commands=enable-disable-enable",
    "swap,commands=enable,guests=0,deaths=1",
    "swap,commands=enable,guests=0,beside=live",
    "swap,deadlines=true,commands=enable-live,guests=0,child=lives",
    "swap,deadlines=true,commands=enable-status,guests=0,child=lives",
    "swap,deadlines=true,commands=copied,guests=0,deaths=2",
    "swap,deadlines=true,commands=live,guests=0,deaths=1,failing_starts=1",
)
_MEMBERS = (
    "members,parents=2,commands=close",
    "members,commands=await-close,touches=0,children=2",
    "members,commands=await-close,deadlines=true",
    "members,commands=enable,parents=2,children=0,dies=1,fails=true",
    "members,commands=enable-out,parents=2,children=0,dies=2",
    "members,commands=status,tracked=true",
    "members,commands=enable,beside=close,children=0,fails=true,deadlines=true",
    "members,commands=collect,beside=close,dies=2",
    "members,commands=collect-enable,children=0,dies=1,deaths=1,deadlines=true",
    "members,beside=collect,dies=2",
)
_MESSAGES = (
    "mailbox,messages=1,hosts=2",
    "mailbox,vcpus=2,messages=1,guests=1",
    "mailbox,receiver=trusty-0,vcpus=2,messages=2,boot=true",
    "machine,guest=smp,vcpus=2,suspenders=1",
    "events,event=abort,messages=1",
    "events,event=timer,messages=1",
    "events,event=post,messages=1",
    "mailbox,runners=1",
    "mailbox,receiver=wfi-echo,vcpus=2",
    "mailbox,receiver=reader-1,vcpus=2",
    "mailbox,receiver=reader-off,vcpus=2",
    "mailbox,receiver=trusty-0,vcpus=2,messages=1,boot=true",
    "mailbox,hosts=2,hurried=1,messages=1",
    "mailbox,guests=1,hurried=1",
    "events,event=abort,messages=2",
    "programs,program=nW-nW;;",
    "restored",
    "machine,hosts=1,suspenders=2,stop=false",
    "machine,hosts=2,suspenders=1,rounds=2,stop=false",
    "machine,guest=doomed,vcpus=2,requests=1,stop=false",
    "machine,guest=doomed,vcpus=2,requests=2,hosts=0,stop=false",
)
_BELL = (
    "machine,guest=bell,rings=2,stop=false",
    "machine,guest=bells,rings=1,hosts=0,stop=false",
)
_WRITERS = (
    "machine,guest=writer,vms=2,hosts=3,stop=false",
    "machine,guest=burst,vms=2,queue=1,hosts=2,patient=true,stop=false",
    "machine,boot=true,stop=false",
)
_STIRRED = (
    "machine,guest=stir,vcpus=2,stop=false",
    "programs,program=wejgI_fjgeW-nwW;0111;S",
)
_BESIDE = (
    "machine,guest=chimes,vcpus=2,messages=2,stop=false",
    "machine,guest=lists,messages=2,stop=false",
    "machine,guest=bell,rings=2,stop=false",
    "machine,guest=twice,vcpus=2,stop=false",
)
_RUNNING = (
    "mailbox,receiver=reader-1,vcpus=2,messages=1",
    "machine,vms=2,hosts=2,suspenders=1,stop=false",
    "machine,vms=2,hosts=0",
    "machine,guest=polls,vcpus=2,messages=2,suspenders=1,stop=false",
    "machine,guest=polls,vcpus=2,stop=false",
    "machine,guest=fatal,vcpus=2,stop=false",
    "machine,guest=burst,vms=2,queue=1,hosts=2,patient=true,stop=false",
)
_BY_TURNS = (
    "machine,by_turns=true,guest=chimes,vcpus=2,suspenders=1,stop=false",
    "machine,by_turns=true,vms=2,hosts=2,suspenders=1,stop=false",
    "machine,by_turns=true,vms=2,hosts=2,suspenders=1",
)
_REQUESTS = (
    "machine,guest=server,requests=3,stop=false",
    "machine,guest=server,requests=1,requesters=2,hosts=0,timers=true,stop=false",
    "machine,guest=server,requests=1,hosts=0",
    "machine,guest=server,requests=1,hosts=0,timers=true,stop=false",
)
_SUSPENSION = (
    "suspension,holders=0,together=true",
    "suspension",
    "suspension,holders=2",
    "suspension,failing=1",
    "machine,suspenders=2,hosts=0,stop=false",
    "machine,suspenders=1,hosts=0",
)
_PORTS = (
    "machine,guest=talker,listener=reader,hosts=0,queue=1,stop=false",
    "machine,guest=talker,listener=handler,hosts=0",
    "machine,guest=burst,queue=1,stop=false",
    "machine",
    "machine,hosts=2",
    "machine,guest=talker,vms=2,hosts=0,queue=1",
    "machine,guest=talker,listener=late,queue=1,probes=1,stop=false",
    "machine,guest=talker,listener=reader,queue=1,probes=1,suspenders=1,stop=false",
    "machine,guest=talker,listener=reader,hosts=0,queue=1,suspenders=1,probes=1,stop=false",
)
_HELD = (
    "ports,readers=2",
    "ports,readers=2,shared=stopped,messages=2",
    "ports,readers=2,shared=closed",
    "ports,live=read,messages=2",
    "ports,live=handled,messages=2",
    "ports,live=reopened,messages=2",
    "machine,guest=talker,hosts=0,queue=1,probes=1,stop=false",
    "ports,beside=connects",
    "ports,beside=handles",
    "machine,guest=talker,listener=reader,hosts=0,queue=1,clients=quitter",
    "machine,guest=talker,listener=late,hosts=0,queue=1,clients=hibernator",
    "machine,clients=snapshotter-asks,hosts=0",
    "restored,guest=burst,queue=1",
)
_CLIENTS = (
    "machine,clients=asks,hosts=0,stop=false",
    "machine,clients=goes,hosts=0",
    "machine,clients=stalls,hosts=0",
    "machine,clients=silent,hosts=0",
    "machine,clients=asks-asks,hosts=0,stop=false",
    "machine,guest=mortal,clients=asks-queries,stop=false",
    "machine,guest=mortal,clients=asks,hosts=0,stop=false",
    "machine,guest=mortal,clients=asks-asks,hosts=0,stop=false",
    "machine,clients=drops,queue=1,messages=5,stop=false",
    "machine,clients=asks-asks,hosts=0",
    "machine,clients=silent-asks,hosts=0,places=1",
    "machine,clients=asks,hosts=0,quiet=true",
    "machine,clients=goes,hosts=0,quiet=true",
    "machine,clients=stalls,hosts=0,quiet=true",
    "machine,clients=stalls,hosts=0,messages=3,timers=true,stop=false",
    "machine,guest=mortal,clients=listens,stop=false",
    "quiet",
    "quiet,answers=true",
)
_USER = (
    "userhold",
    "userhold,failing=1",
    "userhold,users=1,keeps=true",
    "userhold,users=1,looks=2",
    "machine,clients=suspender,hosts=0,quiet=true",
    "machine,clients=suspender-suspender,hosts=0",
)
_CONTROL = (
    "machine,clients=status,hosts=0",
    "machine,clients=status-status,hosts=0,stop=false",
    "machine,clients=status-status,hosts=0,places=1",
    "machine,clients=status-status,hosts=0,places=1,stop=false",
    "machine,clients=suspender-status,hosts=0,places=1,stop=false",
    "machine,clients=subscriber,hosts=0",
    "machine,clients=slow,suspenders=1,hosts=0,stop=false",
    "machine,clients=retrier-canceller,hosts=0,stop=false",
    "machine,clients=follower,hosts=0,stop=false",
    "machine,clients=deaf,hosts=0,suspenders=1",
    "machine,guest=files,clients=copier,hosts=0,stop=false",
    *_USER,
)
_QUIET = (
    "quiet",
    "quiet,leaves=true",
    "quiet,answers=true",
    "quiet,hosts=1,clients=0",
    "quiet,vms=2,hosts=1,clients=0",
    "machine,clients=asks,hosts=0,quiet=true",
    "machine,clients=stalls,hosts=0,quiet=true",
    "machine,clients=suspender,hosts=0,quiet=true",
)
_REPORTS = ("machine,reports=2", "machine,guest=smp,vcpus=2,reports=2,suspenders=1")
_SNAPSHOTS = (
    "snapshots",
    "snapshots,takers=1,vms=2",
    "snapshots,endings=drops-confirms",
    "snapshots,endings=ends-confirms",
    "snapshots,endings=fails-confirms",
    *(
        f"machine,clients={each},hosts=0,stop=false"
        for each in ("snapshotter", "hibernator", "quitter")
    ),
    "machine,clients=snapshotter-snapshotter,hosts=0,stop=false",
    *(
        f"machine,clients={each},hosts=0"
        for each in ("snapshotter-canceller", "snapshotter-hibernator", "hibernator-canceller")
    ),
)
_VMM = ("machine", "machine,guest=mortal,stop=false", "machine,swap=enable,hosts=0,stop=false")
_SERVED = (
    "machine,guest=utility,asks=1,hosts=0",
    "machine,guest=twins,vcpus=2,asks=1,hosts=0,boot=true",
    "machine,guest=twins,vcpus=2,hosts=0,boot=true,stop=false",
)
_SERVICES = (
    "services,requests=1,event=none",
    "services,requests=1,timers=false",
    "services,requests=0,asks=1,timers=false",
    "services,requests=1,event=pause,timers=false",
    "services,requests=1,event=restore,timers=false",
    "services,requests=1,asks=1,event=none,timers=false",
    "services,requests=1,event=none,crashes=1,timers=false",
    "services,requests=1,event=none,farewells=1,timers=false",
    "services,requests=0,asks=1,faults=1,timers=false",
    "services,requests=1,hosts=2,leavers=1,event=none,timers=false",
    "services,requests=1,leavers=1,event=none,timers=false,boot=true",
    "services,requests=1,leavers=1,event=pause,timers=false",
    "services,requests=0,asks=2,event=none,crashes=1,timers=false",
    "services,requests=0,asks=1,event=pause,timers=false",
    "services,requests=1,event=none,mute=true",
    "services,requests=1,event=pause,mute=true",
    "services,requests=1,hosts=2,event=none",
    "services,asks=1,event=pause",
    "services,requests=1,asks=1",
    *_SERVED,
    "machine,guest=files,copies=2,hosts=0,stop=false",
    "machine,guest=hibernator,asks=2,hosts=0,suspenders=1,stop=false",
)
# What is explored with a mistake of concurrency in a file; other files of a folder have that of the folder.
SCENARIOS: dict[str, tuple[str, ...]] = {
    "hfsched/mailbox": _MESSAGES,
    "hfsched/mailbox/mirror.py": (
        *_MESSAGES,
        "machine,guest=doomed,vcpus=2,requests=3,hosts=0,stop=false",
        "machine,probes=2,stop=false",
        "machine,guest=talker,listener=late,queue=1,suspenders=1,stop=false",
        "machine,guest=talker,listener=late,queue=1,probes=1,stop=false",
        "restored,guest=burst,queue=1",
        *_REPORTS,
        *_BY_TURNS,
        _PORTS[-1],
    ),
    "hfsched/mailbox/ports.py": (*_PORTS, *_REPORTS, *_HELD),
    "hfsched/mailbox/quiescence.py": ("events,messages=1", *_SUSPENSION, *_MESSAGES),
    "hfsched/scheduler": (*_MESSAGES, *_REQUESTS),
    "hfsched/scheduler/driver.py": (*_RUNNING, *_BY_TURNS, *_MESSAGES, *_REQUESTS),
    "hfsched/scheduler/outbox.py": (
        *_MESSAGES,
        "machine,sends=deadline,timers=true,hosts=2",
        "machine,sends=deadline,timers=true,hosts=3,stop=false",
        "machine,sends=try,hosts=2",
        "mailbox,hosts=0,couriers=1",
        "mailbox,hosts=1,couriers=1,messages=1",
        "quiet,hosts=1,clients=0",
        "quiet,clients=0,couriers=1",
    ),
    "hfsched/scheduler/owners.py": (
        "events,event=post,messages=1",
        "machine,probes=1,hosts=0",
        "machine,probes=1,suspenders=1,hosts=0",
        "machine,probes=1,suspenders=2,hosts=0,stop=false",
    ),
    "hfsched/scheduler/suspension.py": _SUSPENSION,
    "hfsched/scheduler/waiters.py": _SUSPENSION,
    "hfsched/scheduler/userhold.py": _USER,
    "hfsched/hypervisor": (*_BESIDE, *_MESSAGES, *_WRITERS, *_REQUESTS, *_STIRRED),
    "hfsched/hypervisor/hypervisor.py": (
        "machine,guest=pokes,vcpus=2,stop=false",
        *_BESIDE,
        *_MESSAGES,
        *_REQUESTS,
        *_STIRRED,
    ),
    "hfsched/hypervisor/interrupts.py": (*_BELL, *_WRITERS, *_MESSAGES),
    "hfsched/hypervisor/lines.py": (*_BELL, *_WRITERS, *_MESSAGES),
    "hfsched/hypervisor/power.py": (
        "machine,guest=rivals,vcpus=3,stop=false",
        "machine,guest=smp,vcpus=2,stop=false",
        *_BESIDE,
        *_STIRRED,
        *_MESSAGES,
    ),
    "hfsched/vmm": (*_VMM, *_REPORTS),
    "hfsched/vmm/machine.py": (*_VMM, "restored,held=true", *_SUSPENSION, *_PORTS),
    "hfsched/vmm/report.py": (*_REPORTS, *_QUIET),
    "hfsched/vmm/snapshots.py": _SNAPSHOTS,
    "hfsched/vmm/snapshotting.py": ("restored", *_SNAPSHOTS),
    "hfsched/vmm/utilities.py": _SERVED,
    "hfsched/services": _SERVICES,
    "hfsched/control": (*_CLIENTS, *_CONTROL),
    "hfsched/control/command_server.py": _CONTROL,
    "hfsched/control/command_session.py": _CONTROL,
    "hfsched/control/events.py": (
        "subscribers,events=2",
        "subscribers,visitors=2",
        "subscribers,subscribers=2,visitors=0",
        *_CONTROL,
    ),
    "hfsched/control/port_server.py": _CLIENTS,
    "hfsched/control/session.py": _CLIENTS,
    "hfsched/vmm/swapping.py": (*_MEMBERS, "machine,swap=enable,hosts=0,stop=false"),
    "hfsched/swap/client": (*SWAP, *_MEMBERS, "machine,swap=enable,hosts=0,stop=false"),
    "hfsched/swap/client/newcomers.py": _MEMBERS,
}
# Each a known way to lose a message or to spin, of tests/scheduler/test_lost_wakeups.py.
MISTAKES = (
    "NoBelief",
    "ClearsAfterTheRun",
    "ClearsAtAnyRun",
    "NeverClears",
    "TwoSteps",
    "TimerDoesNotClaim",
    "AbortWakesNobody",
    "OneDeliveryAtATime",
    "BusyIsASleep",
    "FixedTarget",
    "AlwaysHandsOut",
)
_SMALL: dict[str, tuple[str, ...] | None] = {
    "hfsched/mailbox/mirror.py": None,
    "hfsched/mailbox/quiescence.py": None,
    "hfsched/mailbox/slot.py": None,
    "hfsched/mailbox/mailbox.py": (
        "__init__",
        "writable",
        "refuse",
        "write",
        "read",
        "release",
        "take_waiter",
        "became_writable",
        "take_ready",
    ),
    "hfsched/scheduler/driver.py": None,
    "hfsched/scheduler/outbox.py": None,
    "hfsched/scheduler/owners.py": None,
    "hfsched/scheduler/suspension.py": None,
    "hfsched/hypervisor/primary.py": (
        "send",
        "rx_take",
        "rx_release",
        "waiter",
        "writable",
        "inject",
    ),
    "hfsched/hypervisor/messaging.py": ("rx_release", "msg_send", "msg_wait", "msg_poll"),
}
# Used by one task alone: what is done in another order there is no race.
_ONE_TASK = {"childmember.py", "conversation.py", "setup.py", "supervisor.py"}


@dataclass(frozen=True)
class Group:
    """Files that are mutated alike, and what looks for their mutants: scenarios, tests, more scenarios.

    `files` is from file to the functions that are mutated; None for all of them.  Without `quick` scenarios
    each file has those of `SCENARIOS`, and a race pass of each follows its search.
    """

    name: str
    find: Finder
    files: Mapping[str, Sequence[str] | None]
    tests: Sequence[str]
    quick: Sequence[str] = ()
    thorough: Sequence[str] = ()

    def scenarios(self, file: str) -> Sequence[str]:
        """Return what is explored first."""
        return self.quick or SCENARIOS.get(file) or SCENARIOS[file.rpartition("/")[0]]

    @property
    def races(self) -> bool:
        """Whether race passes look for its mutants."""
        return not self.quick

    def mutants(self) -> list[Mutant]:
        """Return all mutants of all files."""
        return [
            mutant
            for file, wanted in self.files.items()
            for mutant in mutants_of(self.find, file, (TOP / file).read_text(), wanted)
        ]


def _all_of(*folders: str) -> dict[str, None]:
    return {
        str(path.relative_to(TOP)): None
        for folder in folders
        for path in sorted((TOP / "hfsched" / folder).glob("*.py"))
        if path.name not in _ONE_TASK
    }


_CORE_TESTS = ("tests/mailbox", "tests/scheduler", "tests/hypervisor")
GROUPS = {
    group.name: group
    for group in (
        Group("small", find_small, _SMALL, _CORE_TESTS, QUICK, THOROUGH),
        Group("messages", find_races, _all_of("mailbox", "scheduler", "hypervisor"), _CORE_TESTS),
        Group("machine", find_races, _all_of("vmm"), ("tests/vmm",)),
        Group("services", find_races, _all_of("services"), ("tests/services",)),
        Group("control", find_races, _all_of("control"), ("tests/control", "tests/client")),
        Group("swap", find_races, _all_of("swap/client"), ("tests/swap",)),
    )
}
