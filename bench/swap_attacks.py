"""Attacks on the swap of live machines; `bench/swap_torture.py attacks` is its command line.

Each attack kills the monitor once.  Meanwhile clients of the control socket give commands, with long
deadlines and short ones; `stress` fills its memory and checks it; and pages that no guest uses have
contents, or are discarded: when all is in memory again they must be what they were, or zero.
"""

from __future__ import annotations

import mmap
import os
import random
import re
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from live_run import BASE, WITHIN, FaultError, LiveRun, is_at_rest, limit, send, size, until
from processes import children

import hfsched
from hfsched.client import Connection
from hfsched.control.command_client import ask
from hfsched.control.commands import (
    Answer,
    Request,
    SwapDisable,
    SwapDiscard,
    SwapEnable,
    SwapOut,
    SwapReport,
    SwapStatus,
    SwapTrim,
)
from hfsched.errors import UserError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.core.table import entry_offset, table_size
from hfsched.swap.pages.entries import State as Page
from hfsched.swap.protocol.messages import State

__all__ = ["ATTACKS", "Totals", "attacks"]

LIFE = 50  # kills, of one machine, which then ends in one of the ways of ENDS
SETTLE = 10  # kills, after which all comes in and is looked at
SLOW_MAX = 12.0  # seconds
GRACE = 30.0  # seconds that an answer may be late before it counts as a hang,
SHORT_GRACE = 1.0  # and before it is given up, of a machine that was short of descriptors
GUESTS = {"stress": "stress", "idle": "echo"}
FIRST, UNUSED = 64, 64  # pages of `idle` that it never accesses
SHORT, DEADLINES = (100, 200, 500), (200, 1000, 5000, 20000)  # ms
AIMS = (Page.STAGED, Page.WRITING, Page.PUNCHING, Page.COMPRESSED, Page.FILE)
AIM_WITHIN = 0.3  # seconds
_LIMITED = (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)
# A command may be refused for its state, for its deadline, and for what an attack is doing.
_REFUSALS = re.compile(
    r"nothing is staged|swap must be pending|another suspension|did not end in time|in time$"
    r"|does not serve yet|monitors have died of it|no longer being enabled|try again"
    r"|does not answer|Too many open files|No file descriptors|no descriptors? |Cannot allocate memory"
    r"|swap is no longer|machine is suspended"
)


@dataclass
class Totals:
    """What was done."""

    kills: Counter[str] = field(default_factory=Counter)
    met: Counter[Page] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    discarded: int = 0  # pages, each found zero
    kept: int = 0  # pages beside them, each found as it was
    latest: float = 0.0  # seconds after its deadline, of the latest answer
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __str__(self) -> str:
        def listed(counts: Mapping[str, int]) -> str:
            return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))

        met = {page.name.lower(): number for page, number in self.met.items()}
        return (
            f"{self.kills.total()} kills ({listed(self.kills)}), {self.checks} checks, 0 bad pages\n"
            f"  kills that met a page: {listed(met)}\n"
            f"  machines ended: {listed(self.ends)}: nothing left\n"
            f"  commands done: {listed(self.done)}; refused: {self.refused.total()}; "
            f"latest answer {self.latest:.1f} s after its deadline\n"
            f"  pages discarded and zero: {self.discarded}; beside them, unchanged: {self.kept}"
        )


class Unused:
    """Pages of a VM that its guest never accesses, written here while all is in memory."""

    def __init__(self, run: LiveRun, choose: random.Random) -> None:
        self._fd = run.memfd("idle", os.O_RDWR)
        self._choose = choose
        self._wrote: list[bytes] = []
        self.zero: set[int] = set()  # discarded,
        self.either: set[int] = set()  # or perhaps

    def fill(self) -> None:
        """Give them new contents: some compress well, some not."""
        self.zero.clear()
        self.either.clear()
        self._wrote = [
            self._choose.randbytes(PAGE_SIZE)
            if self._choose.random() < 0.5
            else self._choose.randbytes(16) * (PAGE_SIZE // 16)
            for _ in range(UNUSED)
        ]
        os.pwrite(self._fd, b"".join(self._wrote), FIRST * PAGE_SIZE)

    def check(self, totals: Totals) -> None:
        """Look at them; raises FaultError."""
        found = os.pread(self._fd, UNUSED * PAGE_SIZE, FIRST * PAGE_SIZE)
        nothing = bytes(PAGE_SIZE)
        for page, wrote in enumerate(self._wrote):
            here = found[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
            expected = {wrote, nothing} if page in self.either - self.zero else {wrote}
            if page in self.zero:
                expected = {nothing}
            if here not in expected:
                what = "zero" if here == nothing else "the old" if here == wrote else "other bytes"
                raise FaultError(f"page {page}: {what}, discarded: {page in self.zero}")
            totals.discarded += page in self.zero
            totals.kept += here == wrote

    def close(self) -> None:
        os.close(self._fd)


class Fight:
    """One machine, from its start to its end."""

    def __init__(
        self, engine: str, seed: int, directory: Path, clients: int, totals: Totals
    ) -> None:
        self.choose = random.Random(seed)
        self.run = LiveRun(engine, GUESTS, directory)
        self._totals = totals
        self._clients = [random.Random(seed * 97 + number) for number in range(clients)]
        self._faults: list[str] = []
        self._pause = threading.Event()
        self._running = threading.Semaphore(0)
        table = self.run.memfd("swap-table", os.O_RDONLY)
        size = os.fstat(table).st_size
        self._pages = (size - table_size(0)) // (entry_offset(1) - entry_offset(0))
        self._table = mmap.mmap(table, size, prot=mmap.PROT_READ)
        os.close(table)
        self._unused = Unused(self.run, self.choose)
        self._baseline: Counter[str] | None = None
        self.limiting = False
        self._limits = [resource.prlimit(self.run.pid, each)[0] for each in _LIMITED]

    # Commands.

    def ask(self, request: Request) -> Answer:
        """Return the answer; raises UserError if it is refused, FaultError for a hang."""
        began = time.monotonic()
        within = request.within_ms / 1000
        limiting = self.limiting  # main may have no descriptor to accept it
        grace = SHORT_GRACE if limiting else GRACE
        try:
            return ask(self.run.control, request, began + within + grace)
        except TimeoutError:
            self.run.look()
            if limiting:
                raise UserError("the machine does not answer") from None
            raise FaultError(f"no answer {grace:.0f} s after the deadline: {request}") from None
        finally:
            late = time.monotonic() - began - within
            with self._totals.lock:
                self._totals.latest = max(self._totals.latest, late)

    def command(self, request: Request) -> bool:
        """Give a command; return whether it was done."""
        name = type(request).__name__.removeprefix("Swap").lower()
        try:
            self.ask(request)
        except UserError as exc:
            text = str(exc)
            with self._totals.lock:
                self._totals.refused[re.sub(r"\d+", "N", text)] += 1
            if not _REFUSALS.search(text):
                self.run.look()
                raise FaultError(f"{name}: {text}") from exc
            return False
        with self._totals.lock:
            self._totals.done[name] += 1
        return True

    def hurried(self, seconds: float) -> None:
        """Make requests with short deadlines for that long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            kind = self.choose.choice((SwapStatus, SwapOut, SwapDisable, SwapEnable))
            self.command(kind(within_ms=self.choose.choice(SHORT)))
            time.sleep(max(0.0, min(left, 0.02)))

    def discard(self, choose: random.Random) -> None:
        first = choose.randrange(UNUSED)
        count = choose.randint(1, min(8, UNUSED - first))
        pages = range(first, first + count)
        self._unused.either.update(pages)
        done = self.command(
            SwapDiscard(
                vm="idle",
                address=BASE + (FIRST + first) * PAGE_SIZE,
                size=count * PAGE_SIZE,
                within_ms=choose.choice(DEADLINES),
            )
        )
        if done:
            self._unused.zero.update(pages)

    def _client(self, choose: random.Random) -> None:
        """Give commands; what is out stays out, mostly, while more goes there."""
        kinds: list[type[SwapEnable | SwapOut | SwapTrim | SwapDisable]] = [
            SwapEnable,
            choose.choice((SwapOut, SwapTrim)),
            SwapOut,
        ]
        if choose.random() < 0.2:
            kinds.append(SwapDisable)
        for kind in kinds:
            self.command(kind(within_ms=choose.choice(DEADLINES)))
            if choose.random() < 0.3:
                self.discard(choose)
            time.sleep(choose.random() ** 2 / 20)

    def _repeat(self, step: Callable[[], None]) -> None:
        try:
            while not self._pause.is_set():
                step()
        except Exception as exc:  # noqa: BLE001 - any error is a fault
            self._faults.append(f"{type(exc).__name__}: {exc}")

    def look(self) -> None:
        """Raise what was found."""
        self.run.look()
        if self._faults:
            raise FaultError(self._faults[0])

    @contextmanager
    def crowd(self) -> Iterator[None]:
        """Have clients give commands, and the guest check its memory, inside the ``with``."""
        self._pause.clear()
        steps = [lambda choose=choose: self._client(choose) for choose in self._clients]
        with hfsched.connect("stress", machine=str(self.run.ports), timeout=WITHIN) as stress:
            checker = Checker(stress, self.choose, self._totals)
            threads = [
                threading.Thread(target=self._repeat, args=(step,), daemon=True)
                for step in (checker.step, *steps)
            ]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                self._pause.set()
                for thread in threads:
                    thread.join(2 * WITHIN)
            if any(thread.is_alive() for thread in threads):
                raise FaultError("a client or the guest hangs")
        self.look()

    # Kills.

    def aim(self) -> None:
        """Wait a moment for a page in the state that kills met least."""
        want = min(AIMS, key=lambda state: (self._totals.met[state], self.choose.random()))
        bytes_of = frozenset(want | copy << 4 for copy in range(16))
        with suppress(FaultError):
            until(lambda: not bytes_of.isdisjoint(self._states()), "", AIM_WITHIN)

    def _states(self) -> bytes:
        return self._table[entry_offset(0) : entry_offset(self._pages) : 8]

    def next_monitor(self, last: int | None = None) -> int:
        """Wait for a monitor, another one than `last`."""
        found: list[int] = []

        def look() -> bool:
            self.look()
            if not self.limiting:  # a spawner that began under a limit has it still
                self.unlimited()
            pid = self.run.monitor()
            if pid is not None and pid != last:
                found.append(pid)
            return bool(found)

        until(look, "there is no monitor")
        return found[0]

    def kill(self, pid: int | None = None) -> int:
        """Kill a monitor, the one that there is; return its number."""
        if pid is None:
            pid = self.next_monitor()
        send(pid, signal.SIGKILL)
        met = {Page(byte & 15) for byte in self._states()}
        with self._totals.lock:
            self._totals.met.update(met)
        return pid

    def unlimited(self) -> None:
        """Give all processes the limits that they had."""
        self.limiting = False
        for pid in (self.run.pid, *children(self.run.pid)):
            for what, soft in zip(_LIMITED, self._limits, strict=True):
                limit(pid, what, soft)

    def settle(self) -> None:
        """Bring everything in and look at it, then give the unused pages new contents."""
        self.unlimited()

        def is_in() -> bool:
            self.run.look()
            if not self.command(SwapDisable()):
                return False
            report = self.ask(SwapStatus())
            assert isinstance(report, SwapReport)
            return report.status.state is State.READY

        until(is_in, "not everything comes in")
        self._unused.check(self._totals)
        if length := self.run.swap_file_size():
            raise FaultError(f"the swap file has {length} bytes still")
        if self._baseline is None:
            # A task opens what it needs when it runs first: on a busy machine that may be late.
            until(lambda: is_at_rest(self.run.pid), "it does not come to rest")
            self._baseline = self.run.descriptors()
        baseline = self._baseline
        until(
            lambda: not self.run.descriptors() - baseline,
            f"it has more than before: {self.run.descriptors() - baseline}",
        )
        self._unused.fill()

    def end(self, how: str) -> None:
        """End the machine; raises FaultError if something is left."""
        run = self.run
        if "out" in how:
            self.command(SwapEnable())
            self.command(SwapOut())
        if "stopped" in how:
            send(self.next_monitor(), signal.SIGSTOP)
        if "spawner" in how:
            send(run.spawner(), signal.SIGKILL)
        send(run.pid, signal.SIGKILL if "kill" in how else signal.SIGTERM)
        until(lambda: run.process.poll() is not None, f"it does not end: {how}")
        left = run.left(crashed="kill" in how or "stopped" in how)
        if left:
            raise FaultError(f"after the end ({how}) there is still {', '.join(left)}")
        said = run.said()
        if "Traceback" in said:  # a monitor for which memory was short
            raise FaultError(said)
        self._totals.ends[how] += 1

    def close(self) -> None:
        self._table.close()
        self._unused.close()
        self.run.kill()


class Checker:
    """Lets `stress` fill its memory, and check it some times."""

    def __init__(self, stress: Connection, choose: random.Random, totals: Totals) -> None:
        self._stress = stress
        self._choose = random.Random(choose.random())
        self._totals = totals
        self._number = self._seed = 0

    def step(self) -> None:
        if self._number % 4 == 0:
            self._seed = self._choose.randrange(1, 1 << 32)
            self._ask(f"fill {self._seed}")
        self._ask(f"check {self._seed}")
        self._number += 1
        with self._totals.lock:
            self._totals.checks += 1

    def _ask(self, text: str) -> None:
        self._stress.send(text.encode(), timeout=WITHIN)
        answer = self._stress.recv(WITHIN).decode()
        if not answer.startswith("ok "):
            raise FaultError(f"{text}: {answer}")


# Attacks: each kills the monitor once.


def plain(fight: Fight) -> None:
    """Do nothing else."""
    fight.aim()
    fight.kill()


def slow(fight: Fight) -> None:
    """Stop the successor for up to 12 s as soon as it is there."""
    fight.aim()
    pid = fight.next_monitor(fight.kill())
    send(pid, signal.SIGSTOP)
    try:
        fight.hurried(SLOW_MAX * fight.choose.random() ** 2)
    finally:
        send(pid, signal.SIGCONT)


def starved(fight: Fight) -> None:
    """Let the successor run for a twentieth of the time."""
    pid = fight.next_monitor(fight.kill())
    end = time.monotonic() + 3 * fight.choose.random()
    while time.monotonic() < end:
        send(pid, signal.SIGSTOP)
        time.sleep(0.019)
        send(pid, signal.SIGCONT)
        time.sleep(0.001)


def stopped(fight: Fight) -> None:
    """Stop the monitor that serves, and kill it then, or when it goes on."""
    pid = fight.next_monitor()
    fight.aim()
    send(pid, signal.SIGSTOP)
    try:
        fight.hurried(3 * fight.choose.random() ** 2)
    finally:
        if fight.choose.random() < 0.5:
            send(pid, signal.SIGCONT)
    fight.kill(pid)


def descriptors(fight: Fight) -> None:
    """Let main open up to three descriptors more, and at times the spawner few."""
    pid = fight.next_monitor()
    fight.limiting = True
    soft = fight.run.free_descriptor() + fight.choose.randrange(4)
    limit(fight.run.pid, resource.RLIMIT_NOFILE, soft)
    if fight.choose.random() < 0.5:
        limit(fight.run.spawner(), resource.RLIMIT_NOFILE, 4 + fight.choose.randrange(30))
    try:
        fight.kill(pid)
        fight.hurried(2 * fight.choose.random() ** 2)
    finally:
        fight.unlimited()


def memory(fight: Fight) -> None:
    """Let the monitor map nothing more, and its successors up to 8 MiB more than the spawner."""
    pid = fight.next_monitor()
    fight.limiting = True
    limit(pid, resource.RLIMIT_AS, size(pid))
    spawner = fight.run.spawner()
    if spawner is not None:
        limit(spawner, resource.RLIMIT_AS, size(spawner) + fight.choose.randrange(1 << 23))
    try:
        fight.aim()
        fight.kill(pid)
        fight.hurried(2 * fight.choose.random() ** 2)
    finally:
        fight.unlimited()


def spawner(fight: Fight) -> None:
    """Kill the spawner just before the monitor, or just after it."""
    first = fight.choose.random() < 0.5
    victim = fight.run.spawner()
    if first:
        send(victim, signal.SIGKILL)
    fight.aim()
    fight.kill()
    if not first:
        send(fight.run.spawner(), signal.SIGKILL)


def stopped_spawner(fight: Fight) -> None:
    """Stop the spawner before the monitor dies, until up to 3 s after that."""
    pid = fight.next_monitor()
    victim = fight.run.spawner()
    fight.aim()
    send(victim, signal.SIGSTOP)
    try:
        fight.kill(pid)
        fight.hurried(3 * fight.choose.random() ** 2)
    finally:
        send(victim, signal.SIGCONT)


ATTACKS: Mapping[str, Callable[[Fight], None]] = {
    attack.__name__: attack
    for attack in (plain, slow, starved, stopped, descriptors, memory, spawner, stopped_spawner)
}
ENDS = ("term", "out, term", "out, stopped, term", "out, stopped, kill", "spawner, term", "kill")


def _life(fight: Fight, names: list[str], totals: Totals, how: str) -> None:
    fight.settle()
    for first in range(0, len(names), SETTLE):
        with fight.crowd():
            for name in names[first : first + SETTLE]:
                ATTACKS[name](fight)
                fight.look()
                with totals.lock:
                    totals.kills[name] += 1
        fight.settle()
    fight.end(how)


def _lives(
    engine: str, names: list[str], seed: int, directory: Path, clients: int, totals: Totals
) -> None:
    for number, first in enumerate(range(0, len(names), LIFE)):
        fight = Fight(engine, seed + number, directory, clients, totals)
        with ExitStack() as stack:
            stack.callback(fight.close)
            _life(fight, names[first : first + LIFE], totals, ENDS[(seed + number) % len(ENDS)])


def attacks(
    engine: str,
    kills: int,
    seed: int,
    directory: Path,
    *,
    clients: int = 1,
    machines: int = 1,
    only: tuple[str, ...] = (),
) -> Totals:
    """Kill monitors, evenly on `machines` at once; raises FaultError for what was found."""
    totals = Totals()
    known = only or tuple(ATTACKS)
    faults: list[Exception] = []

    def live(number: int) -> None:
        names = [known[kill % len(known)] for kill in range(number, kills, machines)]
        random.Random(seed + number).shuffle(names)
        own = directory / str(number)
        own.mkdir(exist_ok=True)
        try:
            _lives(engine, names, seed + 1000 * number, own, clients, totals)
        except Exception as exc:  # noqa: BLE001 - it is raised below
            faults.append(exc)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(machines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise FaultError(f"{type(faults[0]).__name__}: {faults[0]}\n{totals}") from faults[0]
    return totals
