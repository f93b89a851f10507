"""A monitor in a process of its own; monitors that are killed, and others that take over."""

from __future__ import annotations

import os
import random
import secrets
import signal
from pathlib import Path

import pytest

from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.core.device import tier_problem
from hfsched.swap.core.stores import Stores
from hfsched.swap.core.table import CoreTable
from hfsched.swap.pages.entries import Staging, State

from .children import Member, pid_of, start_monitor
from .guestmemory import MIB, Guest, needs_userfault, userfault

pytestmark = needs_userfault

both = pytest.mark.parametrize("staging", Staging)
PAGES = 4096
KILLS = int(os.environ.get("HFSCHED_SWAP_KILLS", "5"))  # of each kind
ON_THE_WAY = (State.WRITING, State.PUNCHING, State.MOVING, State.TAKING)
TIER = 0 if tier_problem() else 2 * MIB


class Served:
    """A guest in this process, served by a monitor in another."""

    def __init__(self, directory: Path, staging: Staging) -> None:
        self.staging = staging
        self.guest = Guest(PAGES, filled=4000)
        self.stores = Stores.create(directory, PAGES, staging, TIER)
        self.table = CoreTable(self.stores.table, PAGES, staging)
        self.uffd = userfault()  # held here: a fault outlives a monitor
        self.members = [(self.uffd, self.guest.ram.address)]
        self.start()

    def start(self) -> None:
        self.process, self.end = start_monitor(
            self.stores, self.guest.ram.fd, self.members, around=4
        )

    def ask(self, what: str) -> None:
        self.end.send(what.encode())
        self.answer()

    def answer(self) -> None:
        assert self.end.recv() is not None

    def replace(self) -> None:
        """Kill the monitor, and start another."""
        self.process.kill()
        assert self.process.join()
        self.end.close()
        self.start()

    def enable(self) -> None:
        with self.guest.frozen:
            self.ask("stage")
            if self.staging is Staging.MINOR:
                self.guest.zap()
            self.ask("zapped")

    def out(self) -> int:
        states = self.table.states()
        return states[State.FILE] + states[State.COMPRESSED] + states[State.ZERO]

    def close(self) -> None:
        self.end.close()
        assert self.process.join()
        self.table.close()
        self.stores.close()
        self.guest.close()

        os.close(self.uffd)


@both
def test_a_monitor_serves_two_processes(tmp_path: Path, staging: Staging) -> None:
    served = Served(tmp_path, staging)
    other = Member(served.guest.ram.fd, PAGES)
    served.members.append((other.uffd, other.base))
    served.replace()
    assert other.read(1) == served.guest.content(1, 1)
    with served.guest.frozen:
        served.ask("stage")
        served.guest.zap()
        other.ask(b"zap")
        served.ask("zapped")
    served.ask("swap_out 100")
    for page in range(0, PAGES, 37):
        expected = served.guest.content(page, served.guest.versions[page])
        assert other.read(page) == expected
        served.guest.check(page)
        served.guest.write(page, served.guest.versions[page] + 1)
        assert other.read(page) == served.guest.content(page, served.guest.versions[page])
    served.ask("swap_in 100")
    served.ask("release")
    served.guest.check_all()
    other.close()
    served.close()


class Moment:
    """When to kill: so many pages have moved, or some are just on the way.

    States on the way are short; so the monitor is stopped, and looked at, again and again.
    """

    def __init__(self, served: Served, choose: random.Random) -> None:
        self.served = served
        self.way = choose.random() < 0.7
        self.moved = choose.randrange(3000)
        self.before = served.out()

    def on_the_way(self) -> bool:
        states = self.served.table.states()
        return any(states[state] for state in ON_THE_WAY)

    def stopped(self) -> bool:
        """Stop it while pages are on the way; False: they were there already."""
        pid = pid_of(self.served.process)
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        if self.on_the_way():
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    def come(self) -> bool:
        if self.way:
            return self.on_the_way() and self.stopped()
        return abs(self.served.out() - self.before) >= self.moved

    def await_it(self) -> None:
        while not self.come():
            if self.served.end.recv(deadline=0) is not None:
                return


@both
@pytest.mark.parametrize(
    ("before", "work"),
    [
        ([], "swap_out 512"),
        (["swap_out 512", "swap_in 512", "enable"], "trim 512"),
        (["swap_out 512"], "swap_in 512"),
        ([], "swap_in 512"),
        (["swap_in 512"], "stage"),
    ],
    ids=["out", "trim", "in", "unstage", "stage"],
)
def test_nothing_is_lost_with_a_monitor(
    tmp_path: Path, staging: Staging, before: list[str], work: str
) -> None:
    seed = secrets.randbits(32)
    choose = random.Random(seed)
    served = Served(tmp_path, staging)
    with served.guest.running():
        for _ in range(KILLS):
            for each in ("enable", *before):
                served.enable() if each == "enable" else served.ask(each)
            if work == "stage":
                served.guest.frozen.acquire()
            moment = Moment(served, choose)
            served.end.send(work.encode())
            moment.await_it()
            served.replace()
            if work == "stage":
                if staging is Staging.MINOR:
                    served.guest.zap()
                served.guest.frozen.release()
            assert served.guest.bad == [], f"seed {seed}"
        served.enable()
        served.ask("swap_out 512")
        served.ask("swap_in 512")
        served.ask("release")
    served.guest.check_all()
    served.close()


def test_a_killed_monitor_is_seen_by_its_channel(tmp_path: Path) -> None:
    served = Served(tmp_path, Staging.MINOR)
    served.process.kill()
    with pytest.raises(ChannelClosedError):
        served.ask("stage")
    served.replace()
    served.guest.check_all()
    served.close()
