"""What `bench/mutants.py` mutates, and what must find it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
)
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

    `files` is from file to the functions that are mutated; None for all of them.
    """

    name: str
    find: Finder
    files: Mapping[str, Sequence[str] | None]
    quick: Sequence[str]
    tests: Sequence[str]
    thorough: Sequence[str] = field(default=())

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
        Group("small", find_small, _SMALL, QUICK, _CORE_TESTS, THOROUGH),
        Group(
            "messages",
            find_races,
            _all_of("mailbox", "scheduler", "hypervisor"),
            QUICK,
            _CORE_TESTS,
            THOROUGH,
        ),
        Group("machine", find_races, _all_of("vmm"), QUICK, ("tests/vmm",)),
        Group("control", find_races, _all_of("control"), (), ("tests/control", "tests/client")),
        Group("swap", find_races, _all_of("swap/client"), SWAP, ("tests/swap",)),
    )
}
