"""Rounds of snapshot, kill -9 and restore: every message once and in order, every checksum right.

    python bench/snapshot_rounds.py [--engine NAME] [--rounds N] [--seed S] [--directory DIR]

Two guests `stress` exchange checksummed messages all the time; a program here sends numbered ones to a third guest,
`echo`, several ahead.  Each round ends in a way that is drawn:

- ``take``: the machine is suspended, a snapshot is taken, and the process killed;
- ``swapped``: likewise, with guest memory moved out before;
- ``hibernate``: the machine ends by the snapshot;
- ``torn``: the process is killed while it writes; the snapshot before it must be whole, and is gone back to;
- ``left``: the client that takes one is killed; the machine must go on, and is then taken.

A round begins in a way that is drawn, too: memory comes out of the snapshot as it is accessed (``lazy``), also as that of one of
several copies (``clone``), or is read before (``eager``).
Half of the snapshots are live, where the machine does not end by them. Half are incremental, on the one that the machine was restored from or on another that was taken on
the way, while the guests ran.
The next round restores the newest snapshot in a new process.  The program reads what comes until the process is
dead; then it sends a mark, and of its messages those must be answered before it that the machine had
accepted: the first ones, each once.  The others it sends again.  The exit status is 1 if anything else was seen.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from live_run import FaultError, LiveRun, until

import hfsched
from hfsched.client import Connection
from hfsched.control.command_client import ask
from hfsched.control.commands import MachineResume, MachineSuspend, SwapEnable, SwapOut, SwapStatus
from hfsched.control.snapshot_client import Wanted, take
from hfsched.errors import HfschedError
from hfsched.snapshot.directory import open_layers
from hfsched.snapshot.report import verify

GUESTS = {"a": "stress", "b": "stress", "c": "echo"}
ENDINGS = ("take", "swapped", "hibernate", "torn", "left")
BEGINNINGS = ("--restore", "--restore", "--eager", "--clone")
PORT, MARK = 7, b"mark"
AHEAD = 24  # messages without an answer: a port's queue has room for 16
_WITHIN = 60.0


@dataclass
class Sent:
    """What the program has sent to `echo`, and what was answered."""

    sent: int = 0
    answered: int = 0
    marks: int = 0
    waiting: list[int] = field(default_factory=list)  # their numbers, in order


class Talk:
    """The program's side: `echo` answers each message with itself."""

    def __init__(self, run: LiveRun, record: Sent) -> None:
        self.record = record
        self._end = hfsched.connect("c", machine=str(run.ports), local=PORT, timeout=_WITHIN)
        record.marks += 1
        mark = MARK + b"%d" % record.marks
        self._end.send(mark, timeout=_WITHIN)
        while (answer := self._end.recv(timeout=_WITHIN)) != mark:
            self._take(answer)
        record.sent -= len(record.waiting)  # the machine had not accepted these
        record.waiting.clear()

    def _take(self, answer: bytes) -> None:
        record = self.record
        if not record.waiting or int(answer) != record.waiting[0]:
            raise FaultError(f"{answer!r} came, of {record.waiting} that wait for an answer")
        record.waiting.pop(0)
        record.answered += 1

    def send(self, count: int) -> None:
        """Send some, as far as there is room; read none."""
        for _ in range(min(count, AHEAD - len(self.record.waiting))):
            try:
                self._end.send(b"%d" % self.record.sent, block=False)
            except BlockingIOError:
                return
            self.record.waiting.append(self.record.sent)
            self.record.sent += 1

    def read(self, most: int) -> None:
        """Read some answers that are there."""
        with suppress(TimeoutError):
            for _ in range(most):
                self._take(self._end.recv(timeout=0.0))

    def read_to_the_end(self) -> None:
        """Read until the machine is dead."""
        with suppress(hfsched.ConnectionClosed):
            while True:
                self._take(self._end.recv(timeout=_WITHIN))

    def close(self) -> None:
        """Close the connection."""
        self._end.close()


class Guests:
    """The traffic between the guests `stress`: each sends to the other, again and again."""

    def __init__(self, run: LiveRun, drawn: random.Random) -> None:
        self._ports = {
            name: hfsched.connect(name, machine=str(run.ports), timeout=_WITHIN) for name in "ab"
        }
        self._drawn = drawn

    def _status(self, name: str) -> str:
        return _answer(self._ports[name], b"status")

    def look(self) -> int:
        """Check that nothing was bad, and let each that has come to its end begin again; return messages received."""
        received = 0
        for name in self._ports:
            words = self._status(name).split()
            if words[7:8] != ["0"] or words[0] != "sent":
                raise FaultError(f"{name} says {' '.join(words)!r}")
            received += int(words[5])
            if words[-1] != "busy":
                if words[1] != words[3]:
                    raise FaultError(f"{name} says {' '.join(words)!r}")
                self._ports[name].send(b"go %d 400" % self._drawn.getrandbits(32))
        return received

    def finish(self) -> None:
        """Wait until each message was acknowledged."""
        for name, port in self._ports.items():
            until(lambda name=name: "busy" not in self._status(name), f"{name} is busy")  # type: ignore[misc]
            del port

    def close(self) -> None:
        """Close the connections."""
        for port in self._ports.values():
            port.close()


def _answer(port: Connection, text: bytes) -> str:
    """Return the answer to a status; a `go` may say first that no other guest has greeted in time."""
    port.send(text, timeout=_WITHIN)
    answer = port.recv(timeout=_WITHIN)
    return (port.recv(timeout=_WITHIN) if answer == b"no peers" else answer).decode()


class Rounds:
    """All rounds of one engine, in a directory."""

    def __init__(self, engine: str, seed: int, directory: Path) -> None:
        self._engine = engine
        self._drawn = random.Random(seed)
        self._directory = directory
        self._newest: Path | None = None
        self._below: list[Path] = []  # what it is based on, maybe
        self._record = Sent()  # by the instant of the newest snapshot
        self._suspended = False  # the machine of the newest one, by command
        self._number = 0
        self.endings: Counter[str] = Counter()
        self.received = 0
        self.deep = 0  # how many restores lie behind the machine of the newest snapshot

    def one(self) -> None:
        """Run a machine from the newest snapshot to the next."""
        self._number += 1
        directory = self._directory / "run"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        record = copy.deepcopy(self._record)
        ending = self._drawn.choice(ENDINGS if self._newest is not None else ENDINGS[:3])
        with self._begun(directory) as run:
            guests = Guests(run, self._drawn)
            talk = Talk(run, record)
            for _ in range(self._drawn.randrange(1, 6)):
                self.received = guests.look()
                talk.send(self._drawn.randrange(AHEAD))
                talk.read(self._drawn.randrange(AHEAD))
                time.sleep(self._drawn.choice((0, 0.005, 0.05)))
            guests.close()
            if self._drawn.random() < 0.3:
                self._below.append(self._directory / f"between{self._number}")
                self._take(run, self._below[-1], end=False)
            talk.send(self._drawn.randrange(AHEAD))
            kept = self._end(run, talk, ending)
            talk.close()
        self.endings[ending] += 1
        if kept is not None:
            self.deep += self._newest is not None
            self._below += [] if self._newest is None else [self._newest]
            self._newest, self._record = kept, record
            self._suspended = ending != "hibernate"
        self._verify()

    def _begun(self, directory: Path) -> LiveRun:
        """Return the machine of the newest snapshot, or a new one."""
        if self._newest is None:
            return LiveRun(self._engine, GUESTS, directory)
        how = self._drawn.choice(BEGINNINGS)
        self.endings[{"--restore": "lazy"}.get(how, how.removeprefix("--"))] += 1
        options = ("--eager",) if how == "--eager" else ()
        verb = "--clone" if how == "--clone" else "--restore"
        run = LiveRun(
            self._engine, GUESTS, directory, *options, restore=self._newest, restored_by=verb
        )
        if self._suspended:
            ask(run.control, MachineResume(), _deadline())
        return run

    def _take(self, run: LiveRun, made: Path, *, end: bool) -> None:
        live = not end and self._drawn.random() < 0.5
        wanted = Wanted(end=end, incremental=self._drawn.random() < 0.5, live=live)
        written = take(run.control, str(made), wanted, _deadline())
        if live:
            copied = any("suspended while it is copied" in text for text in written.notices)
            self.endings["not live" if copied else "live"] += 1
        if wanted.incremental:
            self.endings["incremental" if written.on is not None else "not incremental"] += 1

    def _end(self, run: LiveRun, talk: Talk, ending: str) -> Path | None:
        """End a run; return the new snapshot, None if the one before is the newest."""
        made = self._directory / f"snapshot{self._number}"
        if ending == "swapped":
            self._move_out(run)
        if ending == "left":
            self._kill_client(run, self._directory / f"left{self._number}")
        if ending == "torn":
            self._kill_while_writing(run, made)
            talk.read_to_the_end()
            if not made.exists():
                return None
            raise FaultError(f"{made.name} is there, and its machine died before")
        if ending != "hibernate":
            ask(run.control, MachineSuspend(), _deadline())
        self._take(run, made, end=ending == "hibernate")
        if ending == "hibernate":
            status = run.process.wait(_WITHIN)
            if status != 4:
                raise FaultError(f"hibernated, and status {status}: {run.said()}")
        else:
            self._read_what_is_there(talk)
            run.process.send_signal(signal.SIGKILL)
        talk.read_to_the_end()
        return made

    def _read_what_is_there(self, talk: Talk) -> None:
        """Read what lies on the machine's side, which is suspended, for its connection does not survive."""
        before = None
        while before != talk.record.answered:
            before = talk.record.answered
            time.sleep(0.05)
            talk.read(AHEAD)

    def _move_out(self, run: LiveRun) -> None:
        ask(run.control, SwapEnable(), _deadline())
        ask(run.control, SwapOut(), _deadline())
        if self._drawn.random() < 0.5:
            time.sleep(self._drawn.random() * 0.05)  # in the middle of it
            return
        until(lambda: "active" in str(ask(run.control, SwapStatus(), _deadline())), "out")

    def _kill_client(self, run: LiveRun, made: Path) -> None:
        """Kill a client at any time while it takes a snapshot."""
        wanted = Wanted(live=self._drawn.random() < 0.5)
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                take(run.control, str(made), wanted, _deadline())
            os._exit(0)
        time.sleep(self._drawn.random() * 0.03)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if made.exists():  # it came to its end before, and the next one may be based on it
            self._below.append(made)
        run.look()

    def _kill_while_writing(self, run: LiveRun, made: Path) -> None:
        """Kill the machine at any time while a client takes a snapshot."""
        pid = os.fork()
        if pid == 0:
            status = 1
            with suppress(BaseException):
                take(run.control, str(made), Wanted(), _deadline())
                status = 0
            os._exit(status)
        time.sleep(self._drawn.random() * 0.02)
        run.process.send_signal(signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if made.exists() and os.waitstatus_to_exitcode(status) == 0:  # it was through before
            shutil.rmtree(made)

    def _verify(self) -> None:
        """Check each frame of the newest snapshot."""
        assert self._newest is not None
        layers, problem = open_layers(self._newest)
        faults = [str(problem)] if problem is not None else []
        names = [Path(layer.name).name for layer in layers]
        for layer in layers:
            faults += verify(layer)
            layer.close()
        if faults:
            raise FaultError(f"{self._newest.name}: {faults[0]}")
        for path in [path for path in self._below if path.name not in names]:
            shutil.rmtree(path)
            self._below.remove(path)

    def finish(self) -> None:
        """Run the last snapshot to the end of all traffic."""
        directory = self._directory / "run"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        with self._begun(directory) as run:
            guests, talk = Guests(run, self._drawn), Talk(run, self._record)
            guests.finish()
            guests.close()
            talk.close()
            run.process.send_signal(signal.SIGTERM)
            run.process.wait(_WITHIN)


def _deadline() -> float:
    return time.monotonic() + _WITHIN


def main() -> int:
    """Run the rounds; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", default="unicorn", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=100, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="kept, for a look after a fault"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        rounds = Rounds(args.engine, args.seed, args.directory or Path(folder))
        began = time.monotonic()
        try:
            for _ in range(args.rounds):
                rounds.one()
            rounds.finish()
        except (FaultError, HfschedError, TimeoutError) as exc:
            print(f"round {rounds._number}: {exc}")
            return 1
        record = rounds._record
        print(
            f"{args.engine}, seed {args.seed}: {args.rounds} rounds in {time.monotonic() - began:.0f} s:"
            f" {', '.join(f'{count} {name}' for name, count in sorted(rounds.endings.items()))};"
            f" {record.answered} messages of a host program and {rounds.received} between guests, each once;"
            f" the last snapshot is of a machine that was restored {rounds.deep} times"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
