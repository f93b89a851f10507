"""A machine that works while eight processes are hostile to it.

    python bench/siege.py [--engine NAME] [--seconds N] [--seed S] [--flood]

On the engine named, or on every one that can be used here.  Messages of known content go from here to
`relay`, on to `echo`, and back; meanwhile each role of ROLES is a process of its own, with the rights of
this user: it kills monitors; swaps, and takes the status; connects and never reads; connects and never
speaks; sends garbage, with descriptors, to the sockets `control` and `ports`.

Every message must come back once and in order, and the machine must end with its input: status 0, and
nothing left.  With `--flood` one process has guests answer it and never reads at all; what it is sent is
dropped then, so the status must be 3, as `hfsched run --help` says.  The exit status is 1 if something else was seen.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "conformance"))

from live_run import WITHIN, FaultError, LiveRun, monitor, send, until
from talk import TARGETS, Target

import hfsched
from hfsched.client import Connection
from hfsched.control import commands, wire
from hfsched.control.command_client import ask
from hfsched.control.commands import (
    EventsSubscribe,
    SwapDisable,
    SwapEnable,
    SwapOut,
    SwapStatus,
)
from hfsched.errors import HfschedError

__all__ = ["ROLES", "TARGETS", "Target", "siege"]

WINDOW = 4  # messages on their way
RELAYED = (
    32  # messages of a deaf client: `relay` has room for 96, and a chain of full guests is stuck
)
MANY = 24  # connections that a hostile process has at once
UNREAD_LIMIT = "1s"
_END_WITHIN = 60.0  # seconds, for the machine's end


@dataclass
class Front:
    """What a hostile process knows of the machine."""

    pid: int
    control: Path
    ports: Path
    choose: random.Random

    def connect(self, path: Path) -> socket.socket:
        """Connect; the caller need not close it."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(5)
        sock.connect(os.fspath(path))
        return sock


def kill(front: Front) -> None:
    """Kill the monitor, some time after the last one."""
    time.sleep(front.choose.random() ** 2)
    send(monitor(front.pid), signal.SIGKILL)


def swap(front: Front) -> None:
    """Move memory, and take the status."""
    for request in (SwapEnable(), SwapOut(), SwapStatus(fine=True), SwapStatus(), SwapDisable()):
        with suppress(HfschedError, TimeoutError):
            ask(front.control, request, time.monotonic() + 5)
        time.sleep(front.choose.random() / 20)


def deaf_to_control(front: Front) -> None:
    """Subscribe to events, or ask, and read nothing."""
    with ExitStack() as stack:
        for _ in range(MANY):
            sock = stack.enter_context(front.connect(front.control))
            sock.setblocking(False)
            first = front.choose.choice((EventsSubscribe(), SwapStatus(fine=True)))
            with suppress(OSError):
                sock.send(commands.encode(first))
                while True:
                    sock.send(commands.encode(SwapStatus(fine=True)))
        time.sleep(front.choose.random() * 3)


def deaf_to_ports(front: Front) -> None:
    """Have a guest answer, and read nothing for up to 3 s; then read all, so that nothing is dropped."""
    vm, count = front.choose.choice((("relay", RELAYED), ("echo", 1000)))
    with front.connect(front.ports) as sock:
        sock.settimeout(1)
        sock.send(wire.encode({"v": 1, "vm": vm, "port": 2, "local": None}))
        answers = 1  # the welcome
        with suppress(TimeoutError):  # the guest takes no more, for nobody reads its answers
            while answers <= count:
                sock.send(wire.DATA + b"x" * 4000)
                answers += 1
        time.sleep(front.choose.random() * 3)
        sock.settimeout(WITHIN)
        for _ in range(answers):
            sock.recv(1 << 16)


def flood(front: Front) -> None:
    """Have a guest answer, and never read."""
    vm, count = front.choose.choice((("relay", RELAYED), ("echo", 1000)))
    with front.connect(front.ports) as sock:
        sock.send(wire.encode({"v": 1, "vm": vm, "port": 2, "local": None}))
        sock.settimeout(front.choose.random() * 3)
        for _ in range(count):
            sock.send(wire.DATA + b"x" * 4000)
        time.sleep(front.choose.random() * 3)


def mute(front: Front) -> None:
    """Connect, and never speak."""
    path = front.choose.choice((front.control, front.ports))
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(front.connect(path))
        time.sleep(front.choose.random() * 4)


def _garbage(front: Front) -> bytes:
    """Return bytes that are no request, or nearly one."""
    choose = front.choose
    valid = choose.choice(
        (
            commands.encode(SwapStatus()),
            commands.encode(EventsSubscribe()),
            wire.encode({"v": 1, "vm": "relay", "port": 9, "local": None}),
            wire.encode({"v": 1, "ask": "relay"}),
            b"[" * 4000,
            b"",
        )
    )
    data = bytearray(valid or choose.randbytes(choose.choice((1, 100, 5000, 60000))))
    for _ in range(choose.randint(1, 4)):
        data[choose.randrange(len(data))] = choose.randrange(256)
    return bytes(data)


def garbage(front: Front) -> None:
    """Send garbage and descriptors to a socket."""
    path = front.choose.choice((front.control, front.ports))
    with front.connect(path) as sock:
        sock.settimeout(0.2)
        for _ in range(front.choose.randint(1, 20)):
            if front.choose.random() < 0.2:
                socket.send_fds(sock, [_garbage(front)], [sock.fileno()] * 3)
            else:
                sock.send(_garbage(front))
            if front.choose.random() < 0.5:
                sock.recv(1 << 16)
    time.sleep(front.choose.random() / 100)


ROLES: Mapping[str, Callable[[Front], None]] = {
    "kill": kill,
    "swap": swap,
    "deaf-to-control": deaf_to_control,
    "deaf-to-ports": deaf_to_ports,
    "mute-1": mute,
    "mute-2": mute,
    "garbage-1": garbage,
    "garbage-2": garbage,
}
FLOOD = "flood"  # in place of `deaf-to-ports`


def _be_hostile(role: str, pid: int, directory: str, seed: int) -> None:
    machine = Path(directory)
    front = Front(pid, machine / "control", machine / "ports", random.Random(seed))
    rounds = 0
    print("up", flush=True)
    while os.getppid() != 1 and not _ended.is_set():
        with suppress(OSError):  # refused, or disconnected
            (flood if role == FLOOD else ROLES[role])(front)
        rounds += 1
    print(rounds)


class _Ended:
    """Set by SIGTERM."""

    def __init__(self) -> None:
        self._set = False

    def set(self, *_: object) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


_ended = _Ended()


class Worker:
    """Sends numbers through the VMs; they must come back once and in order."""

    def __init__(self, relay: Connection) -> None:
        self._relay = relay
        self.sent = self.back = 0

    def step(self) -> None:
        while self.sent - self.back < WINDOW:
            self._relay.send(self._text(self.sent), timeout=WITHIN)
            self.sent += 1
        self.receive()

    def receive(self) -> None:
        got = self._relay.recv(WITHIN)
        if got != self._text(self.back):
            raise FaultError(f"message {self.back} came back as {got[:40]!r}")
        self.back += 1

    def end(self) -> None:
        """Wait for what is on its way; nothing may come after it."""
        while self.back < self.sent:
            self.receive()
        with suppress(BlockingIOError):
            raise FaultError(f"more came than was sent: {self._relay.recv(block=False)[:40]!r}")

    def _text(self, number: int) -> bytes:
        return b"%d " % number * (1 + number % 97)


def _hostile(run: LiveRun, seed: int, roles: Sequence[str]) -> dict[str, subprocess.Popen[bytes]]:
    command = [sys.executable, str(Path(__file__).resolve())]
    return {
        role: subprocess.Popen(
            [*command, "--hostile", role, str(run.pid), str(run.machine), str(seed + number)],
            stdout=subprocess.PIPE,
        )
        for number, role in enumerate(roles)
    }


def _rounds(hostile: Mapping[str, subprocess.Popen[bytes]]) -> str:
    """End the hostile processes; return how often each has done its part."""
    for process in hostile.values():
        process.terminate()
    done = []
    for role, process in hostile.items():
        out, _ = process.communicate(timeout=WITHIN)
        if process.returncode:
            raise FaultError(f"{role} failed itself: status {process.returncode}")
        done.append(f"{int(out)} {role}")
    return ", ".join(done)


def siege(
    target: Target, seconds: float, seed: int, directory: Path, *, flooded: bool = False
) -> str:
    """Return what was done; raises FaultError."""
    roles = [FLOOD if flooded and role == "deaf-to-ports" else role for role in ROLES]
    status = 3 if flooded else 0
    guests = {"relay": "relay", "echo": "echo"}
    options = ("--unread-limit", UNREAD_LIMIT) if flooded else ()
    hostile: dict[str, subprocess.Popen[bytes]] = {}
    with LiveRun(target.engine, guests, directory, *options, stdin=subprocess.PIPE) as run:
        try:
            with hfsched.connect("relay", port=2, machine=str(run.ports)) as relay:
                worker = Worker(relay)
                hostile = _hostile(run, seed, roles)
                for process in hostile.values():
                    assert process.stdout is not None
                    process.stdout.readline()  # it is up
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    worker.step()
                    run.look()
                rounds = _rounds(hostile)
                worker.end()
        except (HfschedError, TimeoutError, OSError) as exc:
            run.look()
            raise FaultError(f"{type(exc).__name__}: {exc}: {run.said()}") from exc
        finally:
            for process in hostile.values():
                process.kill()
                process.wait()
        assert run.process.stdin is not None
        run.process.stdin.close()
        until(lambda: run.process.poll() is not None, "the machine does not end", _END_WITHIN)
        left = run.left(crashed=False)
        if run.process.returncode != status or left:
            raise FaultError(
                f"status {run.process.returncode}, left: {', '.join(left) or 'nothing'}: {run.said()}"
            )
    return f"{worker.back} messages, all back in order; status {status}, nothing left; {rounds}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", choices=("unicorn", "kvm"))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--flood", action="store_true")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--directory", default=tempfile.gettempdir())
    args = parser.parse_args()
    run = 0
    for target in TARGETS:
        if args.engine not in (None, target.engine):
            continue
        if target.why_not() is not None:
            print(f"{target}: left out: {target.why_not()}", file=sys.stderr)
            continue
        run += 1
        try:
            with tempfile.TemporaryDirectory(dir=args.directory) as directory:
                said = siege(target, args.seconds, args.seed, Path(directory), flooded=args.flood)
        except FaultError as exc:
            print(f"{target}: seed {args.seed}: a fault: {exc}", flush=True)
            return 1
        print(f"{target}: seed {args.seed}: {args.seconds:.0f} s: {said}", flush=True)
    return 0 if run else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hostile"]:
        signal.signal(signal.SIGTERM, _ended.set)
        _be_hostile(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    else:
        sys.exit(main())
