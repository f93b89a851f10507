"""Many VMs: what is left of a thousand that ran, and what a message costs among sixty-four.

    python bench/machines.py leaks [--engine NAME] [--lives N]
    python bench/machines.py many [--engine NAME] [--vms N] [--rounds N] [--trips N]

On the engine named, or on every one that can be used here.

`leaks` makes a machine with one VM, starts it, exchanges a message with it and ends it, again and
again, and compares what this process has afterwards with what it had before: descriptors, threads,
mappings.

`many` keeps two messages in flight between the host and `echo`, on two CPUs, with 2 VMs and with
many, of which the others wait for a message: *two of them* are always the same two VMs, *each in
turn* goes round all.  It prints the processor time of a message there and back; 2 and many VMs are
two processes that take turns, medians over the rounds, and of the ratios within each round.  Then
all VMs exchange at once: each with the host, and in a chain of relays with both neighbours; every
message must arrive, once.

The exit status is 1 if something is left or lost.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "conformance"))

from talk import TARGETS, Target

from hfsched.runtime.threads import ThreadRuntime, tune_process
from hfsched.scheduler.endpoint import Endpoint
from hfsched.scheduler.outbox import Sent
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import MachineSpec, VmSpec

__all__ = ["TARGETS", "Harness", "Target", "belongings", "chain", "everyone", "leaks"]

LIVES = 1000
WARM_UP = 20  # lives, after which all that is kept is there
GROWTH_MAX = 1.5
SHARES = ("two of them", "each in turn")

_MEMORY = 1 << 20  # bytes, of each VM
_WITHIN = 300_000_000_000  # ns; then an answer counts as lost
_ANONYMOUS = "mapping of no file"  # allocators make and join some too: one in ten lives is none
_UNCHANGED = 10.0  # s; then it is one that nobody joined
_PAUSE = 0.001  # s
_WINDOW = 16  # messages on their way through a chain


class Harness(AbstractContextManager["Harness"]):
    """A running machine of `guests`, and the exceptions that left its threads."""

    def __init__(self, target: Target, guests: Iterable[str]) -> None:
        self.failures: list[str] = []
        self.runtime = ThreadRuntime(lambda task, error: self.failures.append(f"{task}: {error!r}"))
        vms = [VmSpec(image=target.image(guest), memory=_MEMORY) for guest in guests]
        spec = MachineSpec(vm=vms, engine=target.engine, name="machines")
        spec.check("machines")
        self.machine = Machine(spec, self.runtime, lambda _vm, _line: None)
        self.machine.start()

    def ends(self) -> list[Endpoint]:
        """Return a connection to each VM."""
        return [self.machine.endpoint(vm, 1) for vm in self.machine.vm_names()]

    def send(self, end: Endpoint, payload: bytes) -> None:
        sent = end.send(payload, self.runtime.now() + _WITHIN)
        assert sent is Sent.SENT, sent

    def receive(self, end: Endpoint) -> bytes:
        port_message = end.recv(self.runtime.now() + _WITHIN)
        assert port_message is not None, "no answer"
        return port_message.payload

    def at_once(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Do all jobs, each on a thread of its own."""
        tasks = [self.runtime.spawn(f"host.{i}", job) for i, job in enumerate(jobs)]
        for task in tasks:
            task.join()

    def __exit__(self, *exc: object) -> None:
        self.failures += [f"{vcpu} did not stop" for vcpu in self.machine.stop()]
        self.failures += [f"{vm} died: {why}" for vm, why in self.machine.aborts.items()]
        self.machine.close()


def _strangers() -> set[int]:
    """Return the threads of this process that Python does not know, or no more."""
    known = {thread.native_id for thread in threading.enumerate()}
    return {int(path.name) for path in Path("/proc/self/task").iterdir()} - known


_FOREIGN = _strangers()


def _wait_for_joined() -> None:
    """Wait until threads that were joined are gone, which takes them a moment."""
    since, left = time.monotonic(), _strangers() - _FOREIGN
    while left and time.monotonic() - since < _UNCHANGED:
        time.sleep(_PAUSE)
        now = _strangers() - _FOREIGN
        if now != left:
            since, left = time.monotonic(), now


def belongings() -> Counter[str]:
    """Return what this process has: descriptors, threads and mappings, by what they are of."""
    gc.collect()
    _wait_for_joined()
    has: Counter[str] = Counter()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            has[f"descriptor of {str(fd.readlink()).split(':[')[0]}"] += 1
        except FileNotFoundError:  # the one that reads the folder
            continue
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            has[f"thread {(thread / 'comm').read_text().strip()}"] += 1
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        has[f"mapping of {fields[5]}" if len(fields) > 5 else _ANONYMOUS] += 1
    return has


def leaks(target: Target, lives: int) -> dict[str, int]:
    """Start and end a VM that often; return what there is more, or less, than before."""

    def life() -> None:
        with Harness(target, ["echo"]) as harness:
            (end,) = harness.ends()
            harness.send(end, b"hello")
            assert harness.receive(end) == b"hello"
        assert harness.failures == [], harness.failures

    for _ in range(WARM_UP):
        life()
    before = belongings()
    for _ in range(lives):
        life()
    after = belongings()
    more = {what: after[what] - before[what] for what in sorted(before | after)}
    allowed = {_ANONYMOUS: lives // 10}
    return {what: count for what, count in more.items() if abs(count) > allowed.get(what, 0)}


def everyone(target: Target, vms: int, messages: int) -> list[str]:
    """Let all VMs exchange messages with the host at once; return what went wrong."""
    with Harness(target, ["echo"] * vms) as harness:
        answered = [0] * vms

        def talk(index: int, end: Endpoint) -> None:
            for number in range(messages):
                payload = f"{index}.{number}".encode()
                harness.send(end, payload)
                assert harness.receive(end) == payload
                answered[index] += 1

        harness.at_once([partial(talk, i, end) for i, end in enumerate(harness.ends())])
    wrong = [f"vm {i}: {got} answers" for i, got in enumerate(answered) if got != messages]
    wrong += [
        f"{vm.name}: {vm}"
        for vm in harness.machine.summary()
        if (vm.from_host, vm.to_host, vm.unread, vm.lost) != (messages, messages, 0, 0)
    ]
    return wrong + harness.failures


def chain(target: Target, vms: int, messages: int) -> list[str]:
    """Send messages through a chain of VMs and back, many at once; return what went wrong."""
    with Harness(target, ["relay"] * (vms - 1) + ["echo"]) as harness:
        end = harness.ends()[0]
        wanted = [f"message {number}".encode() for number in range(messages)]
        room = threading.Semaphore(_WINDOW)
        came: list[bytes] = []

        def send() -> None:
            for payload in wanted:
                room.acquire()
                harness.send(end, payload)

        def receive() -> None:
            for _ in wanted:
                came.append(harness.receive(end))
                room.release()

        harness.at_once([send, receive])
    lost, extra = Counter(wanted) - Counter(came), Counter(came) - Counter(wanted)
    wrong = [f"lost: {sorted(lost)}"] * bool(lost) + [f"not sent: {sorted(extra)}"] * bool(extra)
    return wrong + harness.failures


# What a message costs.


def child(target: Target, vms: int) -> None:
    """Be one of the two processes: a line `SHARE TRIPS` makes messages, and is answered with us."""
    with Harness(target, ["echo"] * vms) as harness:
        ends = harness.ends()
        for end in ends:
            harness.send(end, b"up")
            harness.receive(end)
        print("ready", flush=True)
        for line in sys.stdin:
            share, trips = line.split(":")
            print(
                _cost(harness, ends if share == "each in turn" else ends[:2], int(trips)),
                flush=True,
            )
    assert harness.failures == [], harness.failures


def _cost(harness: Harness, ends: list[Endpoint], trips: int) -> float:
    """Make so many messages there and back, two at a time; return the us of processor time of one."""

    def talk(mine: list[Endpoint]) -> None:
        for number in range(trips // 2):
            end = mine[number % len(mine)]
            harness.send(end, b"x" * 48)
            harness.receive(end)

    began = time.process_time_ns()
    harness.at_once([partial(talk, ends[first::2]) for first in (0, 1)])
    return (time.process_time_ns() - began) / (trips // 2 * 2) / 1000


def _ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


def costs(
    target: Target, vms: int, rounds: int, trips: int
) -> dict[str, list[tuple[float, float]]]:
    """Return for each share {us with 2 VMs, us with `vms`} of every round."""
    command = [sys.executable, __file__, "child", "--engine", target.engine, "--vms"]
    with ExitStack() as stack:
        pair = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            for n in (2, vms)
        ]
        assert [_ask(process, "") for process in pair] == ["ready", "ready"]
        found: dict[str, list[tuple[float, float]]] = {share: [] for share in SHARES}
        for number in range(rounds + 1):
            for share, seen in found.items():
                few, many = (float(_ask(process, f"{share}:{trips}")) for process in pair)
                if number:  # the first is the warm-up
                    seen.append((few, many))
        for process in pair:
            process.communicate()
    return found


def many(target: Target, args: argparse.Namespace) -> int:
    """Print the costs, and what comes of everybody at once."""
    wrong = 0
    print(f"| {target}, median of {args.rounds} | us, 2 VMs | us, {args.vms} VMs | growth |")
    print("|---|---|---|---|")
    for share, seen in costs(target, args.vms, args.rounds, args.trips).items():
        few, lots = (statistics.median(each) for each in zip(*seen, strict=True))
        growth = statistics.median(b / a for a, b in seen)
        wrong += growth >= GROWTH_MAX
        print(f"| {share} | {few:.0f} | {lots:.0f} | {growth:.2f} |")
    for what, do in (("each with the host", everyone), ("in a chain", chain)):
        found = do(target, args.vms, args.trips // 10)
        wrong += len(found)
        print(f"\n{args.vms} VMs at once, {what}: {found or 'all arrived, once'}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description="a thousand VMs one after another, or many at once"
    )
    parser.add_argument("what", choices=("leaks", "many", "child"))
    parser.add_argument("--engine", choices=("unicorn", "kvm"))
    parser.add_argument("--lives", type=int, default=LIVES)
    parser.add_argument("--vms", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--trips", type=int, default=1000)
    args = parser.parse_args()
    targets = [t for t in TARGETS if args.engine in (None, t.engine) and t.why_not() is None]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    tune_process()
    if args.what == "child":
        child(targets[0], args.vms)
        return 0
    wrong = 0
    for target in targets:
        if args.what == "many":
            wrong += many(target, args)
            continue
        began = time.monotonic()
        left = leaks(target, args.lives)
        wrong += len(left)
        took = time.monotonic() - began
        print(f"{target}: {args.lives} starts and stops in {took:.0f} s: {left or 'nothing left'}")
    return 0 if targets and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
