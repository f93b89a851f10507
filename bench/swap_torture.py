"""Guests whose memory is swapped while all goes wrong: killed monitors, commands in any order.

    python bench/swap_torture.py kills [--engine NAME] [--kills N] [--seed S]
    python bench/swap_torture.py cycles [--engine NAME] [--commands N] [--seed S]
    python bench/swap_torture.py attacks [--engine NAME] [--kills N] [--seed S] [--clients N] [--machines N] [--only NAME,...]

On the engine named, or on every one that can be used here.  All the while `stress` fills its memory
and checks it, again and again, with the pattern of one seed after another.

`kills` kills the monitor N times while its memory goes out and comes back.  Each kill waits until the
page table has a page in the state that was hit least so far, or comes at any moment, also before a
new monitor serves; what the table had when the monitor was dead is counted, and printed.

`cycles` gives N commands (enable, trim, out, disable) in random order; messages flow from the host to
`relay`, to `echo`, and back.  Each must come back once, and in order.

`attacks` is about the processes of `hfsched run`, N machines at once.  N clients of each give commands, also
discards, with long deadlines and short ones.  Each kill of a monitor comes with something else: the
successor is stopped for up to 12 s, or starved; the monitor, or the spawner, was stopped before; the
spawner is killed too; descriptors or memory are short.  A machine ends after 50 kills, also with
a stopped monitor, and may leave nothing.  `bench/swap_attacks.py` has them.

The exit status is 1 at the first fault: a wrong byte, no answer, a VM or a thread that dies, a command
that fails for another reason than its state, room that is not given back in the end.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "conformance"))

from live_run import FaultError
from swap_attacks import ATTACKS, attacks
from talk import TARGETS, Talk, Target

from hfsched.errors import HfschedError
from hfsched.runtime.threads import tune_process
from hfsched.scheduler.outbox import Sent
from hfsched.swap.core.table import entry_offset, table_size
from hfsched.swap.pages.entries import State as Page
from hfsched.swap.protocol.messages import State
from hfsched.vmm.swapping import MachineSwap

__all__ = ["TARGETS", "FaultError", "Target", "cycles", "kills"]

MEMORY = 1 << 19  # bytes, of each VM
WITHIN = 120  # seconds, until an answer or a state
WANTED = (Page.STAGED, Page.WRITING, Page.PUNCHING, Page.COMPRESSED, Page.FILE, None)
MOVES = ("enable", "trim", "out", "disable")
NOT_NOW = ("nothing is staged", "swap must be pending", "another suspension did not end in time")
WINDOW = 8  # messages on their way
STEP = 0.001  # seconds


class Beside:
    """A function called repeatedly in a thread of its own until the end of a ``with``."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.fault: str | None = None

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self._step()
            except Exception as exc:  # noqa: BLE001 - any error is a failure
                self.fault = f"{type(exc).__name__}: {exc}"
                return

    def look(self) -> None:
        """Raise what was found."""
        if self.fault is not None:
            raise FaultError(self.fault)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._end.set()
        self._thread.join(2 * WITHIN)
        if kind is None:
            self.look()
            if self._thread.is_alive():
                raise FaultError("a thread does not end")


class Checker:
    """Lets `stress` fill its memory, and check it some times."""

    def __init__(self, host: Talk, vm: int, choose: random.Random) -> None:
        self._host = host
        self._vm = vm
        self._choose = choose
        self.checks = 0
        self._seed = 0
        self.step()

    def step(self) -> None:
        if self.checks % 4 == 0:
            self._seed = self._choose.randrange(1, 1 << 32)
            filled = self._host.ask(f"fill {self._seed}", self._vm)
            if not filled.startswith("ok "):
                raise FaultError(f"fill {self._seed}: {filled}")
        checked = self._host.ask(f"check {self._seed}", self._vm)
        if not checked.startswith("ok "):
            raise FaultError(f"check {self._seed}: {checked}")
        self.checks += 1


class Messages:
    """Sends numbers through a VM; they must come back once and in order."""

    def __init__(self, host: Talk, vm: int) -> None:
        self._host = host
        self._end = host.end(vm, 2)
        self.sent = self.back = 0

    def step(self) -> None:
        deadline = self._host.deadline()
        while self.sent - self.back < WINDOW:
            if self._end.send(self._text(self.sent), deadline) is not Sent.SENT:
                raise FaultError(f"message {self.sent} cannot be sent")
            self.sent += 1
        self.receive()

    def receive(self) -> None:
        port_message = self._end.recv(self._host.deadline())
        if port_message is None:
            raise FaultError(f"message {self.back} does not come back")
        if port_message.payload != self._text(self.back):
            raise FaultError(f"message {self.back} came back as {port_message.payload[:40]!r}")
        self.back += 1

    def end(self) -> None:
        """Wait for what is on its way; nothing may come after it."""
        while self.back < self.sent:
            self.receive()
        if self._end.recv(self._host.runtime.now()) is not None:
            raise FaultError("a message came twice")

    def _text(self, number: int) -> bytes:
        return b"%d " % number * (1 + number % 97)


class Swapped:
    """The swap of a machine, and its page table."""

    def __init__(self, host: Talk, choose: random.Random) -> None:
        assert host.machine.swap is not None
        self.swap: MachineSwap = host.machine.swap
        self._host = host
        self._choose = choose
        stores = self.swap.backing.stores
        self._pages = stores.pages
        self._table = mmap.mmap(stores.table, table_size(stores.pages), prot=mmap.PROT_READ)
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def states(self) -> Counter[Page]:
        """Return how many pages are in each state."""
        return Counter(
            Page(byte & 15) for byte in self._table[entry_offset(0) : entry_offset(self._pages) : 8]
        )

    def has(self, state: Page) -> bool:
        """Return whether some page is in a state; this is fast."""
        return not _BYTES[state].isdisjoint(
            self._table[entry_offset(0) : entry_offset(self._pages) : 8]
        )

    def command(self, name: str) -> bool:
        """Give a command; return whether it was accepted."""
        client = self.swap.client
        deadline = time.monotonic_ns() + WITHIN * 1_000_000_000
        try:
            if name == "enable":
                self.swap.enable(deadline)
            elif name == "trim":
                client.trim(deadline)
            elif name == "out":
                client.swap_out(deadline)
            else:
                slow = self._choose.random() < 0.2
                client.disable(slow_file_cleanup=slow, deadline=deadline)
        except HfschedError as exc:
            self.refused[f"{name}: {exc}"] += 1
            if any(text in str(exc) for text in NOT_NOW):
                return False
            raise
        self.done[name] += 1
        return True

    def come_back(self) -> None:
        """Disable; nothing may be away, and no room taken, after that."""
        self.swap.client.disable()
        deadline = time.monotonic() + WITHIN
        while (status := self.swap.status()).state is not State.READY:
            if time.monotonic() > deadline:
                raise FaultError(f"it is not disabled: {status}")
        if size := os.fstat(self.swap.backing.stores.swap_file.out).st_size:
            raise FaultError(f"the swap file has {size} bytes still")
        if status.metrics.tier_used or status.metrics.resident != status.metrics.pages:
            raise FaultError(f"something is away: {status.metrics}")
        if status.error:
            raise FaultError(status.error)


_BYTES = {state: frozenset(state | copy << 4 for copy in range(16)) for state in Page}


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _healthy(host: Talk) -> None:
    if host._failures:
        raise FaultError(f"an exception left {host._failures[0]}")
    if host.machine.aborts:
        raise FaultError(f"a VM died: {host.machine.aborts}")


class Kills:
    """The monitor's deaths: how many met a page in each state, and how many pages those were."""

    def __init__(self, swapped: Swapped, choose: random.Random) -> None:
        self._swapped = swapped
        self._choose = choose
        self.aimed: Counter[Page | None] = Counter()
        self.hit: Counter[Page | None] = Counter()
        self.met: Counter[Page] = Counter()
        self.pages: Counter[Page] = Counter()
        self.moves: Counter[str] = Counter()
        self._served = -1  # how many monitors had taken over at the last kill

    def one(self) -> None:
        """Kill the monitor once."""
        want = min(WANTED, key=lambda state: (self.hit[state], self._choose.random()))
        supervisor = self._swapped.swap.client.supervisor
        if want is None:
            _pause(self._choose.random() ** 2 / 5)
        else:
            # What a dead one has left does not count.
            self._await(lambda: supervisor.takeovers > self._served, "served")
            self._await(lambda: self._swapped.has(want), want.name.lower())
            if want not in (Page.WRITING, Page.PUNCHING):  # those are over soon enough
                _pause(self._choose.random() ** 3 / 100)
        process = supervisor._process
        if process is None:
            return  # it is dead, and the next one is not there yet
        self._served = supervisor.takeovers
        process.kill()
        process.join()
        met = self._swapped.states()  # the next monitor takes a while to start
        self.aimed[want] += 1
        self.hit[want] += want is None or met[want] > 0
        self.met.update(met.keys())
        self.pages.update(met)
        self.moves[self.move] += 1

    move = "none"  # the command that was given last

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN
        while not condition():
            if time.monotonic() > deadline:
                raise FaultError(f"no page is ever {what}: {self._swapped.states()}")

    def __str__(self) -> str:
        lines = ["  page state   aimed at   hit   kills that met it   pages then"]
        for state in (*Page, None):
            if not self.aimed[state] and (state is None or not self.met[state]):
                continue
            name = "any moment" if state is None else state.name.lower()
            line = f"  {name:11} {self.aimed[state]:9} {self.hit[state]:5}"
            if state is not None:
                line += f" {self.met[state]:19} {self.pages[state]:12}"
            lines.append(line)
        moves = ", ".join(f"{number} {name}" for name, number in self.moves.most_common())
        return "\n".join([*lines, f"  after the commands: {moves}"])


def kills(target: Target, count: int, seed: int, directory: str) -> str:
    """Kill monitors; return what was done, or raise what was found."""
    choose = random.Random(seed)
    with Talk(target, "stress", memory=MEMORY, swap=directory) as host:
        swapped = Swapped(host, choose)
        deaths = Kills(swapped, random.Random(seed + 1))
        checker = Checker(host, 0, random.Random(seed + 2))

        def swap() -> None:
            # What is out stays out, mostly, while more goes there.
            again = ["disable"] if choose.random() < 0.2 else []
            for name in ("enable", choose.choice(("out", "trim")), "out", *again):
                deaths.move = name
                try:
                    swapped.command(name)
                except HfschedError as exc:
                    if "monitors have died of it" not in str(exc):
                        raise
                _pause(choose.random() ** 2 / 20)

        with Beside(checker.step) as checking, Beside(swap) as swapping:
            try:
                while sum(deaths.aimed.values()) < count:
                    deaths.one()
                    for each in (checking, swapping):
                        each.look()
                    _healthy(host)
            except FaultError as exc:
                raise FaultError(f"{exc}\n{deaths}") from exc
        swapped.come_back()
        checker.step()
        _healthy(host)
        takeovers = swapped.swap.client.supervisor.takeovers
    return f"{count} kills, {takeovers} took over, {checker.checks} checks, 0 bad pages\n{deaths}"


def cycles(target: Target, count: int, seed: int, directory: str) -> str:
    """Give commands; return what was done, or raise what was found."""
    choose = random.Random(seed)
    with Talk(target, "relay", "echo", "stress", memory=MEMORY, swap=directory) as host:
        swapped = Swapped(host, choose)
        checker = Checker(host, 2, random.Random(seed + 1))
        messages = Messages(host, 0)
        with Beside(checker.step) as checking, Beside(messages.step) as talking:
            for number in range(count):
                name = choose.choice(MOVES)
                try:
                    swapped.command(name)
                    for each in (checking, talking):
                        each.look()
                    _healthy(host)
                except (FaultError, HfschedError) as exc:
                    raise FaultError(f"command {number}, {name}: {exc}") from exc
                _pause(choose.random() ** 3 / 20)
        messages.end()
        swapped.come_back()
        checker.step()
        _healthy(host)
    done = ", ".join(f"{swapped.done[name]} {name}" for name in MOVES)
    return (
        f"{count} commands, of them done: {done}; {swapped.refused.total()} not in their state; "
        f"{messages.back} messages, {checker.checks} checks, 0 bad pages"
    )


def attacked(target: Target, args: argparse.Namespace) -> str:
    """Return what `attacks` did, or raise what was found."""
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        return str(
            attacks(
                target.engine,
                args.kills,
                args.seed,
                Path(directory),
                clients=args.clients,
                machines=args.machines,
                only=tuple(args.only.split(",")),
            )
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("kills", "cycles", "attacks"))
    parser.add_argument("--engine", choices=("unicorn", "kvm"))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--commands", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--machines", type=int, default=1)
    parser.add_argument("--only", default=",".join(ATTACKS), help="of: %(default)s")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--directory", default=tempfile.gettempdir())
    args = parser.parse_args()
    tune_process()
    run = 0
    for target in TARGETS:
        if args.engine not in (None, target.engine):
            continue
        if target.why_not() is not None:
            print(f"{target}: left out: {target.why_not()}", file=sys.stderr)
            continue
        run += 1
        began = time.monotonic()
        try:
            if args.what == "kills":
                said = kills(target, args.kills, args.seed, args.directory)
            elif args.what == "attacks":
                said = attacked(target, args)
            else:
                said = cycles(target, args.commands, args.seed, args.directory)
        except (FaultError, AssertionError) as exc:
            print(f"{target}: seed {args.seed}: a fault: {exc}", flush=True)
            return 1
        seconds = time.monotonic() - began
        print(f"{target}: seed {args.seed}: {seconds:.0f} s: {said}", flush=True)
    return 0 if run else 1


if __name__ == "__main__":
    # Threads of a VM that hangs would keep the process from its end.
    status = main()
    sys.stdout.flush()
    os._exit(status)
