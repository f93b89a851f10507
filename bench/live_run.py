"""`hfsched run` as a process of its own: its monitor and spawner, what it has, and what it leaves."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from processes import children, children_named

__all__ = [
    "BASE",
    "WITHIN",
    "FaultError",
    "LiveRun",
    "is_at_rest",
    "limit",
    "monitor",
    "send",
    "size",
    "until",
]

ROOT = Path(__file__).resolve().parent.parent
WITHIN = 120.0  # seconds without what is waited for: then it counts as a hang
BASE = 0x7FF0_0000  # guest-physical, of the memory of the second of two small VMs
_STEP = 0.002  # seconds
_SPAWNER = b"hfsched.runtime.threads.spawner"


class FaultError(Exception):
    """What was found."""


def until(condition: Callable[[], bool], what: str, within: float = WITHIN) -> None:
    """Wait; raises FaultError if it does not become true."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise FaultError(f"after {within:.0f} s: {what}")
        time.sleep(_STEP)


class LiveRun:
    """A machine that can swap; `directory` is its own: its sockets, its swap file, what it prints.

    With `restore` it is that of a snapshot, by the option `restored_by`; `guests` are what is in it.
    """

    def __init__(
        self,
        engine: str,
        guests: Mapping[str, str],
        directory: Path,
        *options: str,
        memory: int = 1 << 19,
        stdin: int = subprocess.DEVNULL,
        restore: Path | None = None,
        restored_by: str = "--restore",
    ) -> None:
        self.sockets, self.swap, self._said = (directory / name for name in ("run", "swap", "said"))
        for made in (self.sockets, self.swap):
            made.mkdir(exist_ok=True)
        self.machine = self.sockets / "hfsched" / "m"
        self.ports, self.control = self.machine / "ports", self.machine / "control"
        words = [f"{name}={image}.bin" for name, image in guests.items()]
        words += ["--engine", engine, "--memory", f"{memory // 1024}KiB"]
        if restore is not None:
            words = [restored_by, str(restore)]
        command = [sys.executable, "-m", "hfsched", "run", "--name", "m"]
        command += ["--swap-dir", str(self.swap)]
        command += ["--no-stdin"] if stdin == subprocess.DEVNULL else []
        self._marker = f"XDG_RUNTIME_DIR={self.sockets}".encode()
        environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.sockets),
            "PYTHONPATH": str(ROOT),
            "HFSCHED_TRACEBACK": "1",
        }
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [*command, *options, *words],
                stdin=stdin,
                stdout=said,
                stderr=said,
                env=environment,
                start_new_session=True,
            )
        self.pid = self.process.pid
        booting = guests.items() if restore is None else ()
        up = [f"[{name}] {image}: up".encode() for name, image in booting]
        try:
            until(lambda: self._is_up(up), "the machine is not up")
        except FaultError:
            self.kill()
            raise

    def _is_up(self, lines: list[bytes]) -> bool:
        self.look()
        said = self._said.read_bytes()
        return all(line in said for line in lines) and self._listens()

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            return sock.connect_ex(os.fspath(self.control)) == 0

    def look(self) -> None:
        """Raise FaultError if it has ended."""
        status = self.process.poll()
        if status is not None:
            raise FaultError(f"the machine is lost, status {status}: {self.said()}")

    def said(self) -> str:
        """Return the end of what it has printed."""
        return self._said.read_text(errors="backslashreplace")[-2000:]

    # Processes.

    def monitor(self) -> int | None:
        """Return the monitor's process, None if there is none."""
        return monitor(self.pid)

    def spawner(self) -> int | None:
        """Return the process that forks monitors, None if there is none."""
        for pid in children(self.pid):
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if _SPAWNER in line and os.getpgid(pid) == pid and _name(pid) != "monitor":
                    return pid
        return None

    # What it has.

    def memfd(self, name: str, flags: int) -> int:
        """Open its memory of that name: a VM's, or ``swap-table``."""
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):
                if str(fd.readlink()) == f"/memfd:hfsched:{name} (deleted)":
                    return os.open(fd, flags | os.O_CLOEXEC)
        raise FaultError(f"the machine has no memory {name}")

    def descriptors(self) -> Counter[str]:
        """Return what its descriptors are of."""
        has: Counter[str] = Counter()
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):
                has[str(fd.readlink()).split(":[")[0]] += 1
        return has

    def free_descriptor(self) -> int:
        """Return the lowest number that is free."""
        taken = {int(fd.name) for fd in Path(f"/proc/{self.pid}/fd").iterdir()}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def swap_file_size(self) -> int:
        """Return the bytes of the swap file."""
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):
                if str(fd.readlink()).startswith(f"{self.swap}/"):
                    return fd.stat().st_size
        raise FaultError("the machine has no swap file")

    # Its end.

    def belongings(self) -> list[int]:
        """Return the processes that belong to it, by their environment."""
        mine = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self._marker in (path / "environ").read_bytes().split(b"\0"):
                    mine.append(int(path.name))
        return mine

    def left(self, *, crashed: bool) -> list[str]:
        """Wait for the end of its processes; return what is there still that should not."""
        with suppress(FaultError):
            until(lambda: not self.belongings(), "")
        found = [f"process {pid} ({_name(pid)})" for pid in self.belongings()]
        found += [f"file {each}" for each in self.swap.iterdir()]
        if not crashed:  # the next run removes those of one that was killed
            found += [f"socket {each}" for each in self.machine.glob("*")]
        return found

    def kill(self) -> None:
        """Kill it, and all that belongs to it."""
        self.process.kill()
        self.process.wait()
        for pid in self.belongings():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def monitor(pid: int) -> int | None:
    """Return the monitor of a machine's process, None if there is none."""
    return next(iter(children_named(pid, "monitor")), None)


def is_at_rest(pid: int) -> bool:
    """Return whether all threads of a process wait, and none has run between two looks."""
    first = _switches(pid)
    return first is not None and first == _switches(pid)


def _switches(pid: int) -> dict[str, list[str]] | None:
    """Return how often each thread was taken off a processor; None: one is on it, or about to be."""
    seen = {}
    with suppress(OSError):  # a thread has just ended: then it is not known
        for task in Path(f"/proc/{pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            if not any(line.startswith("State:\tS") for line in lines):
                return None
            seen[task.name] = [line for line in lines if "ctxt_switches" in line]
        return seen
    return None


def limit(pid: int | None, what: int, soft: int) -> None:
    """Set a soft limit of a process, if it is there still."""
    if pid is not None:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, what, (soft, resource.prlimit(pid, what)[1]))


def send(pid: int | None, number: int) -> None:
    """Send a signal to a process, if it is there still."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def size(pid: int) -> int:
    """Return the bytes of a process's address space; 0 if it has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    return 0


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
