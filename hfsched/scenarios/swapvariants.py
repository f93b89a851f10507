"""Swap with one fault each, and a protocol that deadlocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.explore.registry import Variant
from hfsched.explore.scenario import World
from hfsched.scenarios.swapchild import ChildModel
from hfsched.scenarios.swapmemory import CHILD, MAIN, Memory
from hfsched.scenarios.swapsnapshot import CopiesAtOnce, Live, MarksFirst
from hfsched.scenarios.swapstore import Monitor
from hfsched.swap.client.client import MonitorClient
from hfsched.swap.protocol.messages import (
    Done,
    Enable,
    GetStatus,
    MonitorAnswer,
    MonitorRequest,
    State,
    Status,
    decode_answer,
    decode_request,
    encode,
)

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.memory.writeprotect import Run
    from hfsched.runtime.base import End
    from hfsched.swap.client.suspension import Suspendable

__all__ = ["PARTS", "VARIANTS", "Parts", "deadlock"]


class _NoWake(Monitor):
    wakes = False


class _NoQuiesce(Monitor):
    quiesces = False


class _NoSettle(Monitor):
    settles = False


class _KeepsLate(Monitor):
    keeps = False


class _Unzapped(Memory):
    def zap(self, process: str = MAIN, only: Sequence[Run] | None = None) -> None:
        """Leave the page tables as they are."""


class _ChildUnzapped(Memory):
    def zap(self, process: str = MAIN, only: Sequence[Run] | None = None) -> None:
        """Leave the page tables of the other process as they are."""
        if process is not CHILD:
            super().zap(process, only)


class _Unserved(ChildModel):
    def come(self, client: MonitorClient, hold: Suspendable) -> None:
        """Let it access memory at once."""
        self._member.resume()
        super().come(client, hold)


class _NoBringIn(MonitorClient):
    def _bring_in(self) -> None:
        """Leave memory where it is."""


class _NoEnableCheck(MonitorClient):
    def _why_not_enable(self) -> str:
        """Refuse nothing."""
        return ""


@dataclass(frozen=True)
class Parts:
    """The replaceable parts of a machine."""

    monitor: type[Monitor] = Monitor
    memory: type[Memory] = Memory
    client: type[MonitorClient] = MonitorClient
    live: type[Live] = Live
    child: type[ChildModel] = ChildModel


PARTS: Mapping[str, Parts] = {
    "": Parts(),
    "no-wake": Parts(_NoWake),
    "no-quiesce": Parts(_NoQuiesce),
    "lost-discard": Parts(_NoSettle),
    "kept-late": Parts(_KeepsLate),
    "marked-first": Parts(live=MarksFirst),
    "copied-at-once": Parts(live=CopiesAtOnce),
    "no-zap": Parts(memory=_Unzapped),
    "child-no-zap": Parts(memory=_ChildUnzapped),
    "unserved": Parts(child=_Unserved),
    "left-out": Parts(client=_NoBringIn),
    "enabled-again": Parts(client=_NoEnableCheck),
}

VARIANTS: Mapping[str, Variant] = {
    "enable-deadlock": Variant(
        "main continues after Enable, and the monitor requests it to suspend the machine",
        {"commands": "enable-status"},
    ),
    "no-wake": Variant(
        "a monitor that takes over does not wake the tasks that wait for the dead one",
        {"commands": "enable", "deaths": 1},
    ),
    "no-quiesce": Variant(
        "pages are staged again while a fault from before they came in is being served",
        {"commands": "enable-out-disable-enable-out", "touches": 2},
    ),
    "no-zap": Variant(
        "a member reports that it has zapped its page tables, and has not",
        {"commands": "enable-out"},
    ),
    "child-no-zap": Variant(
        "a process besides main reports that it has zapped its page tables, and has not",
        {"commands": "enable-out", "child": "lives", "guests": 0},
    ),
    "lost-discard": Variant(
        "a page that counts as zero is not discarded, though a fault has just mapped it and its guest has written it",
        {"commands": "enable-discard-discard"},
    ),
    "kept-late": Variant(
        "a page that a snapshot has yet to write is mapped before it is copied aside",
        {"commands": "live"},
    ),
    "marked-first": Variant(
        "a snapshot says that it has written a page, and reads it then",
        {"commands": "live"},
    ),
    "copied-at-once": Variant(
        "a snapshot copies pages while a fault is half served: one that its guest has written counts as out still",
        {"commands": "enable-out-copied"},
    ),
    "unserved": Variant(
        "a process that another one has started accesses guest memory before main has answered",
        {"commands": "enable-out", "child": "comes", "guests": 0},
    ),
    "left-out": Variant(
        "memory stays swapped out although a dead monitor cannot be replaced any more",
        {"commands": "enable-out", "spawner_dies": True},
    ),
    "enabled-again": Variant(
        "Enable is accepted although a dead monitor cannot be replaced any more",
        {"commands": "enable", "spawner_dies": True},
    ),
}


def deadlock(runtime: ExploreRuntime, words: Sequence[str]) -> World:
    """Return the world of the monitor that crosvm had before its change 4387662.

    Main sends Enable and continues; the monitor requests, on another channel, that the machine be
    suspended, and main does that only when it is idle.
    """
    here, there = runtime.channel("requests")
    asked, asks = runtime.channel("questions")
    answered: list[str] = []
    waits = {"main": "", "monitor": ""}  # what each waits for

    def answer_of(number: int, word: str) -> None:
        while True:
            waits["main"] = f"the answer to {word}"
            received = here.recv()
            waits["main"] = ""
            assert received is not None
            if decode_answer(received[0])[0] == number:
                return

    def questions(deadline: int | None) -> None:
        while asked.recv(deadline) is not None:
            asked.send(b"suspended")

    def main() -> None:
        for number, word in enumerate(words):
            questions(0)
            here.send(encode(number, Enable() if word == "enable" else GetStatus()))
            if word != "enable":
                answer_of(number, word)
            answered.append(word)
        questions(None)

    def answer(request: MonitorRequest, back: End) -> MonitorAnswer:
        if not isinstance(request, Enable):
            return Status(state=State.READY)
        back.send(b"suspend the machine")
        waits["monitor"] = "the machine to be suspended"
        back.recv()
        waits["monitor"] = ""
        return Done()

    def monitor(_: ExploreRuntime, end: End, back: End) -> None:
        while True:
            received = end.recv()
            assert received is not None
            number, request = decode_request(received[0])
            end.send(encode(number, answer(request, back)))

    def check() -> None:
        assert len(answered) == len(words), (
            f"main waits for {waits['main']}, the monitor for {waits['monitor'] or 'a request'}"
        )

    runtime.process("monitor", monitor, [there, asks])
    runtime.spawn("main", main)
    return World(check, timers=False)
