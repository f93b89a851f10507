"""A program that has a machine's guest memory mapped, as a device would; and the host's side of it."""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

from progress import QUIET

from hfsched.runtime.base import ChannelClosedError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.child import child as child_module
from hfsched.swap.child.child import Child
from hfsched.swap.core.guestpages import open_userfault
from hfsched.swap.core.pagemap import open_pagemap
from hfsched.swap.protocol.childmessages import ChildAnswer, ChildRequest, Zap
from hfsched.swap.protocol.messages import Done

from .basics import PAGE
from .children import pid_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfsched.memory.ram import Ram
    from hfsched.runtime.base import End, Process, Runtime
    from hfsched.vmm.swapping import MachineSwap

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


@functools.cache
def stress_page(seed: int, page: int) -> bytes:
    """Return what the guest `stress` fills its page of that number with (guests/stress/fill.c)."""
    state = seed ^ (page + 1) * _GOLDEN & _MASK
    state ^= state >> 12
    state ^= state << 25 & _MASK
    state ^= state >> 27
    first = state * 0x2545F4914F6CDD1D
    words = (first + number * _GOLDEN & _MASK for number in range(PAGE // 8))
    return b"".join(word.to_bytes(8, "little") for word in words)


def first_of(ram: Ram, seed: int) -> int:
    """Return the number of the first page that `stress` has filled."""
    wanted = stress_page(seed, 0)
    return next(page for page in range(ram.size // PAGE) if ram.read(page * PAGE, PAGE) == wanted)


class Work:
    """What the program does when the host asks for it."""

    def __init__(self, child: Child, spares: Sequence[End] = ()) -> None:
        self._child = child
        self._spares = list(spares)
        self._started: list[Process] = []
        self._ending = threading.Event()
        self._churns: list[threading.Thread] = []
        self._bad = 0

    def start(self, name: str, vms: list[str] | None, *options: str) -> int:
        """Start a child that is such a program, `deep`: with all spares; return its process id."""
        started = self._child.start_child(
            name,
            user_mode_backend,
            [self._spares.pop(0) for _ in range(len(self._spares) if "deep" in options else 1)],
            dynamic="static" not in options,
            vms=vms,
        )
        self._started.append(started)
        return pid_of(started)

    def start_inside(self, name: str) -> int:
        """Start one while guest memory may be accessed; go on when the host has sent something else."""
        with self._child.touching():
            return self.start(name, None)

    def announce(self, data: str, *kinds: str) -> None:
        """Tell main anything, with descriptors of these kinds."""
        end, fds = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), []
        pids = {"own": os.getpid(), "main's": os.getppid()}
        for kind in kinds:
            what, _, whose = kind.partition(" of ")
            pid = pids.get(whose, 0)
            if what == "end":
                fds.append(os.dup(end[0].fileno()))
            elif what == "internet":
                fds.append(socket.socket().detach())
            elif what == "pidfd":
                fds.append(os.pidfd_open(pid))
            elif what == "pagemap":
                fds.append(open_pagemap(pid))
            else:
                fds.append(os.open("/dev/null", os.O_RDONLY))
        announce = self._child._announce
        assert announce is not None
        try:
            while not announce.send(bytes.fromhex(data), fds):
                threading.Event().wait(0.001)
        except ChannelClosedError:
            pass
        for fd in fds:
            os.close(fd)
        for each in end:
            each.close()

    def flood(self, data: str, times: int, *kinds: str) -> None:
        for _ in range(times):
            self.announce(data, *kinds)

    def names(self) -> list[str]:
        return sorted(self._child.memory())

    def fill(self, seed: int, first: int, pages: int, vm: str) -> None:
        ram = self._child.memory()[vm]
        for page in range(pages):
            with self._child.touching():
                ram.write((first + page) * PAGE, stress_page(seed, page))

    def check(self, seed: int, first: int, pages: int, vm: str) -> int:
        """Return how many pages are wrong."""
        bad, ram = 0, self._child.memory()[vm]
        for page in range(pages):
            with self._child.touching():
                found = ram.read((first + page) * PAGE, PAGE)
            bad += found != stress_page(seed, page)
        return bad

    def churn(self, first: int, pages: int, vm: str) -> None:
        """Write and check pages that are this program's alone, until `calm`."""

        def run() -> None:
            version = 0
            self.fill(version, first, pages, vm)
            while not self._ending.is_set():
                self._bad += self.check(version, first, pages, vm)
                version = (version + 1) % 4
                self.fill(version, first, pages, vm)

        self._churns.append(threading.Thread(target=run, daemon=True))
        self._churns[-1].start()

    def calm(self) -> int:
        """End `churn`; return how many pages were wrong."""
        self._ending.set()
        for each in self._churns:
            each.join()
        return self._bad

    def hold(self) -> None:
        """Never suspend again."""
        self._child.memory()
        threading.Thread(target=self._hold, daemon=True).start()
        self._ending.wait()
        self._ending.clear()

    def _hold(self) -> None:
        with self._child.touching():
            self._ending.set()
            threading.Event().wait()


def program(child: Child, runtime: Runtime, requests: End, *spares: End) -> None:
    work = Work(child, spares)

    def listen() -> None:
        try:
            while (got := requests.recv()) is not None:
                name, arguments = json.loads(got[0])
                requests.send(json.dumps(getattr(work, name)(*arguments)).encode())
        except ChannelClosedError:
            pass

    runtime.spawn("work", listen)
    child.serve()


def backend(runtime: Runtime, end: End, requests: End) -> None:
    program(Child(runtime, end, kernel=True), runtime, requests)


def user_mode_backend(runtime: Runtime, end: End, requests: End, *spares: End) -> None:
    program(Child(runtime, end), runtime, requests, *spares)


def unprivileged_backend(runtime: Runtime, end: End, requests: End) -> None:
    """Act for a user who may have no other userfaultfd."""
    vars(child_module)["userfault"] = lambda **_: open_userfault(user_mode_only=True)
    program(Child(runtime, end), runtime, requests)


class _Stubborn(Child):
    def _answer(self, request: ChildRequest, fds: list[int]) -> tuple[ChildAnswer, Sequence[int]]:
        if isinstance(request, Zap):
            threading.Event().wait()
        return super()._answer(request, fds)


class _Liar(Child):
    def _answer(self, request: ChildRequest, fds: list[int]) -> tuple[ChildAnswer, Sequence[int]]:
        return (Done(), ()) if isinstance(request, Zap) else super()._answer(request, fds)


def liar(runtime: Runtime, end: End, requests: End) -> None:
    """Say that guest memory is unmapped, and leave it mapped."""
    program(_Liar(runtime, end), runtime, requests)


def stubborn(runtime: Runtime, end: End, requests: End) -> None:
    """Never zap."""
    program(_Stubborn(runtime, end), runtime, requests)


class Asked:
    """The host's side of a process that does what it is asked for."""

    requests: End
    pid: int

    def post(self, name: str, *arguments: object) -> None:
        self.requests.send(json.dumps([name, arguments]).encode())

    def answer(self) -> Any:
        got = self.requests.recv()
        assert got is not None
        return json.loads(got[0])

    def ask(self, name: str, *arguments: object) -> Any:
        self.post(name, *arguments)
        return self.answer()


class Grandchild(Asked):
    """The host's side of a process that a `Backend` has started."""

    def __init__(self, requests: End, pid: int) -> None:
        self.requests = requests
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def ended(self, within: float = QUIET) -> bool:
        """Return whether it ends in so many seconds."""
        return bool(select.select([self._pidfd], [], [], within)[0])

    def kill(self) -> None:
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        assert self.ended()

    def close(self) -> None:
        self.kill()
        self.requests.close()
        os.close(self._pidfd)


class Backend(Asked):
    """The host's side: the process is a member of the machine's swap from here on.

    It may start as many children as `spares`.
    """

    def __init__(
        self,
        swap: MachineSwap,
        main: Any = user_mode_backend,
        vms: Sequence[str] | None = None,
        *,
        dynamic: bool = True,
        spares: int = 0,
    ) -> None:
        self._runtime = runtime = ThreadRuntime()
        channels = [runtime.channel("spare") for _ in range(spares)]
        self._spares = [ours for ours, _ in channels]
        self.children: list[Grandchild] = []
        end, theirs = runtime.channel("backend")
        self.requests, asked = runtime.channel("requests")
        self.process = runtime.process(
            "backend", main, [theirs, asked, *(its for _, its in channels)]
        )
        self.pid = pid_of(self.process)
        try:
            swap.add_process("backend", end, open_pagemap(self.pid), vms, dynamic=dynamic)
        except BaseException:
            self.close()
            raise

    def start(self, name: str, vms: Sequence[str] | None = None, *options: str) -> Grandchild:
        """Have it start a child, which is served some time later."""
        return self.started(self.ask("start", name, vms, *options))

    def started(self, pid: int) -> Grandchild:
        self.children.append(Grandchild(self._spares.pop(0), pid))
        return self.children[-1]

    def kill(self) -> None:
        self.process.kill()
        assert self.process.join()

    def close(self) -> None:
        self.kill()
        for child in self.children:
            child.close()
        for spare in self._spares:
            spare.close()
        self.requests.close()
        self._runtime.close()
