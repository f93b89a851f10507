"""Processes like those of ``python -m hfsched``, forked from one that has imported what they import.

Starting Python and importing is most of what a short run takes of the processor. `Warm` has a
process that does both once, and forks for each run. What is forked is a child of the process that
asked (CLONE_PARENT), and ends as any Python does. A run that depends on how Python is started is
started as usual.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import platform
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

__all__ = ["COMMANDS", "Forked", "Warm"]

COMMANDS = (
    "run",
    "swap",
    "kvp",
    "guest",
    "events",
    "suspend",
    "resume",
    "image",
    "completion",
    "doctor",
    "fuzz",
)
_IMPORTED = (
    "hfsched.cli.main",
    *(f"hfsched.cli.{command}" for command in COMMANDS),
    "hfsched.control.command_server",
    "hfsched.control.port_server",
    "hfsched.explore.campaign.run",
    "hfsched.explore.registry",
    "hfsched.explore.replay",
    "hfsched.programs.bundled",
)
_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
_CLONE_PARENT = 0x8000


class Forked:
    """A process, with as much of `subprocess.Popen` as is used here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        self._handle = os.pidfd_open(pid)
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end up to `timeout` seconds; return the exit status as `Popen` does."""
        if self._status is None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("hfsched", timeout or 0)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._handle)
        return self._status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it is known to have ended."""
        if self._status is None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Warm:
    """The process that forks."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )

    def start(
        self,
        arguments: tuple[str, ...],
        environment: dict[str, str],
        *,
        memory: int | None = None,
        cwd: str | None = None,
        **streams: Any,
    ) -> Forked:
        """Fork a process; `streams` are like those of `Popen`, `memory` bounds its addresses (bytes)."""
        request = {
            "arguments": arguments,
            "environment": environment,
            "memory": memory,
            "cwd": str(Path(cwd or ".").absolute()),
        }
        ours: dict[str, int] = {}
        theirs: list[int] = []
        made: list[int] = []
        for name in ("stdin", "stdout", "stderr"):
            stream = streams[name]
            if stream == subprocess.PIPE:
                ends = os.pipe()
                theirs.append(ends[name != "stdin"])
                ours[name] = ends[name == "stdin"]
                made.append(theirs[-1])
            else:
                theirs.append(stream if isinstance(stream, int) else stream.fileno())
        socket.send_fds(self._ours, [json.dumps(request).encode()], theirs)
        for end in made:
            os.close(end)
        forked = Forked(int(self._ours.recv(32)))
        for name, end in ours.items():
            setattr(forked, name, os.fdopen(end, "wb" if name == "stdin" else "rb", 0))
        return forked

    def close(self) -> None:
        """End it."""
        self._ours.close()
        self._process.wait()


def _fork() -> int:
    """Fork a child of our parent; return its process id, 0 in it."""
    libc = ctypes.PyDLL(None, use_errno=True)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = libc.syscall(_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        if pid < 0:
            raise OSError(ctypes.get_errno(), "clone")
    return pid


def _serve(connection: socket.socket) -> bool:
    """Fork for each request; return True in what was forked, False at the end."""
    while True:
        data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        if not data:
            return False
        if pid := _fork():
            connection.send(str(pid).encode())
            for fd in fds:
                os.close(fd)
            continue
        connection.detach()  # or its number would be closed, which another file may have by then
        _become(json.loads(data), fds)
        return True


def _become(request: dict[str, Any], fds: list[int]) -> None:
    """Be as if Python had just been started so."""
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    os.closerange(3, 256)
    os.chdir(request["cwd"])
    kept = {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ}
    os.environ.clear()
    os.environ.update(kept | request["environment"])
    sys.argv[1:] = request["arguments"]
    sys.path[0] = request["cwd"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, f"__{name}__")
        new = open(  # noqa: SIM115 - it stays
            number,
            "w" if number else "r",
            encoding=old.encoding,
            errors=old.errors,
            closefd=False,
        )
        new.reconfigure(line_buffering=number == 2 or new.isatty())
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    if request["memory"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for _name in _IMPORTED:
        importlib.import_module(_name)
    gc.freeze()
    if _serve(socket.socket(fileno=int(sys.argv[1]))):
        runpy.run_module("hfsched", run_name="__main__", alter_sys=True)
