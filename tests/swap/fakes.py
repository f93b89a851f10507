"""A page store and members that a test controls."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hfsched.memory.writeprotect import Run
from hfsched.runtime.base import End, Process, Runtime, Task
from hfsched.runtime.threads import SocketEnd, ThreadRuntime
from hfsched.swap.monitor.controller import Controller
from hfsched.swap.monitor.serving import serve
from hfsched.swap.pages.store import Counts, Phase, Progress
from hfsched.swap.protocol.messages import Begin, Region, Register, Zapped, decode_request, name_of

__all__ = ["FakeMember", "FakeMembers", "FakePages", "FakeRuntime", "Machine", "Plan", "register"]


class FakePages:
    """`resident`, `staged` and `away` pages; `problem` and the errors are what goes wrong next."""

    def __init__(self, resident: int = 1500) -> None:
        self.resident = resident
        self.staged = 0
        self.away = 0
        self.looked_at = 0  # by trim
        self.file = 0  # pages that the file has room for, after a slow release
        self.phase = Phase.OFF
        self.problem: str | None = None
        self.error: Exception | None = None
        self.stage_error: Exception | None = None
        self.bugs = 0  # how many of the next pieces of work raise
        self.held_up = False  # faults wait
        self.release_error: Exception | None = None  # its room cannot be given back
        self.releases: list[bool] = []
        self.discarded: list[tuple[int, int]] = []

    def stage(self, *, pages: bool = True) -> int:
        self._raise()
        if self.stage_error is not None:
            raise self.stage_error
        if pages:
            self.staged += self.resident
            self.resident = 0
        self.phase = Phase.MARKED
        return self.staged

    def zapped(self) -> None:
        assert self.phase is not Phase.OFF
        self.phase = Phase.SETTLED

    def unstage(self) -> None:
        self._raise()
        self.resident += self.staged
        self.staged = 0
        self.phase = Phase.SETTLED

    def _raise(self) -> None:
        if self.bugs:
            self.bugs -= 1
            raise RuntimeError("slot 3 is used twice")
        if self.error is not None:
            raise self.error

    def _stop(self) -> Progress | None:
        self._raise()
        if self.problem is not None:
            return Progress(0, done=False, problem=self.problem)
        return Progress(0, done=False) if self.held_up else None

    def trim(self, limit: int) -> Progress:
        assert self.phase is Phase.SETTLED
        self.looked_at += limit
        return self._stop() or Progress(1, done=self.looked_at >= self.staged)

    has_file = True

    def swap_out(self, limit: int) -> Progress:
        assert self.phase is Phase.SETTLED
        stop = self._stop()
        if stop is not None:
            return stop
        moved = min(limit, self.staged)
        self.staged -= moved
        self.away += moved
        return Progress(moved, done=not self.staged)

    def swap_in(self, limit: int) -> Progress:
        stop = self._stop()
        if stop is not None:
            return stop
        moved = min(limit, self.staged)
        self.staged -= moved
        more = min(limit - moved, self.away)
        self.away -= more
        self.resident += moved + more
        return Progress(moved + more, done=not self.staged and not self.away)

    def discard(self, first: int, count: int) -> Progress:
        if (stop := self._stop()) is not None:
            return stop
        self.discarded.append((first, count))
        return Progress(count, done=True)

    def release(self, *, slow: bool = False, final: bool = False) -> None:
        assert not self.staged
        assert not self.away
        self.phase = Phase.OFF
        self.releases.append(slow)
        self.file = 40_000 if slow or self.release_error is not None else 0
        if self.release_error is not None:
            raise self.release_error

    def shrink(self, limit: int) -> Progress:
        moved = min(limit, self.file)
        self.file -= moved
        return Progress(moved, done=not self.file, problem=self.problem)

    def faults(self) -> int:
        return 0

    def quiesce(self) -> None:
        self._raise()

    def counts(self) -> Counts:
        if self.error is not None:
            raise self.error
        total = self.resident + self.staged + self.away
        return Counts(
            total,
            self.resident,
            self.staged,
            0,
            self.away,
            0,
            0,
            0,
            self.phase,
            events={"faults": 3},
        )


class FakeMembers:
    def __init__(self) -> None:
        self.there: list[int] = []
        self.fds: list[int] = []
        self.gone: list[int] = []
        self.error: Exception | None = None

    def add(self, register: Register, fds: Sequence[int]) -> None:
        if self.error is not None:
            raise self.error
        self.there.append(register.member)
        self.fds += fds

    def dead(self) -> Sequence[int]:
        return [member for member in self.gone if member in self.there]

    def drop(self, member: int) -> None:
        self.there.remove(member)


def register(member: int, *, dynamic: bool = False, zapped: bool = True) -> Register:
    return Register(
        member=member, dynamic=dynamic, zapped=zapped, regions=(Region(0x1000, 0, 0x1000),)
    )


class Machine:
    """A controller over fakes, at a time that a test sets."""

    def __init__(self) -> None:
        self.time = 0
        self.pages = FakePages()
        self.members = FakeMembers()
        self.controller = Controller(lambda: self.time, self.pages, self.members)

    def again(self) -> Controller:
        """Let another controller find what this one has left."""
        self.members = FakeMembers()
        self.controller = Controller(lambda: self.time, self.pages, self.members)
        return self.controller

    def work(self) -> None:
        """Work until nothing is due at once."""
        for _ in range(100):
            if self.controller.due is None or self.controller.due > self.time:
                return
            self.controller.work()
        raise AssertionError("it works for ever")


class DiedError(Exception):
    """A monitor is killed."""


@dataclass
class Plan:
    """The fate of one monitor: it dies `when` a request comes, or when it has been answered.

    `deaf` makes it never answer that request, `mad` answer it with garbage.
    """

    request: str = ""
    when: str = "before"


class _MonitorsEnd:
    """A monitor's end of its channel, which notes what comes and carries a plan out."""

    def __init__(self, end: End, plan: Plan, log: Callable[[str], None]) -> None:
        self._end = end
        self._plan = plan
        self._log = log
        self._now = ""  # the request that is being answered
        self.held: list[bytes] = []  # answers that a deaf one has kept back

    def recv(self, deadline: int | None = None) -> tuple[bytes, list[int]] | None:
        got = self._end.recv(deadline)
        if got is not None:
            _, request = decode_request(got[0])
            self._now = name_of(request)
            zapped = " zapped" if isinstance(request, Register) and request.zapped else ""
            number = f" {request.member}" if isinstance(request, Register | Zapped) else ""
            self._log(self._now + number + zapped)
            self._die("before")
        return got

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        if self._now == self._plan.request and self._plan.when == "deaf":
            self.held.append(data)
            return
        if self._now == self._plan.request and self._plan.when == "mad":
            data = b"garbage"
        for late in self.held:
            self._end.send(late)
        self.held = []
        self._end.send(data, fds)
        self._die("after")

    def _die(self, when: str) -> None:
        if self._now == self._plan.request and self._plan.when == when:
            raise DiedError

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()


class _Thread:
    """A monitor that is a thread of this process."""

    def __init__(self, task: Task, end: SocketEnd, killed: threading.Event) -> None:
        self.name = "monitor"
        self._task = task
        self._end = end
        self._killed = killed

    def kill(self) -> None:
        self._killed.set()
        with contextlib.suppress(OSError):
            self._end._sock.shutdown(socket.SHUT_RDWR)

    def join(self, deadline: int | None = None) -> bool:
        return self._task.join(deadline)

    @property
    def pid(self) -> int | None:
        return None

    @property
    def exit_status(self) -> int | None:
        return 0 if self._task.join(0) else None


class FakeRuntime(ThreadRuntime):
    """A runtime whose processes are monitors over the same fake pages, one for each plan.

    `log` has all that happens; wait for a line by `wait_for`.
    """

    def __init__(self, *plans: Plan) -> None:
        super().__init__(on_failure=lambda _name, _exc: None)
        self.pages = FakePages()
        self.log: list[str] = []
        self._changed = threading.Condition()
        self._plans = list(plans)
        self.refuses: set[int] = set()  # members that cannot be registered with a new monitor
        self.cannot_begin: Exception | None = None
        self.gone: list[int] = []  # members that are dead
        self.no_process: list[OSError] = []  # why no process can be started, the next times
        self.monitors: list[_Thread] = []

    def note(self, line: str) -> None:
        with self._changed:
            self.log.append(line)
            self._changed.notify_all()

    def wait_for(self, line: str, times: int = 1) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: self.log.count(line) >= times, 20)
        assert found, f"no {line!r}: {self.log}"

    def process(
        self, name: str, main: Callable[..., None], ends: Sequence[End], *, outlives: bool = False
    ) -> Process:
        (end,) = ends
        assert isinstance(end, SocketEnd)
        if self.no_process:
            raise self.no_process.pop()
        plan = self._plans.pop(0) if self._plans else Plan()
        killed = threading.Event()

        def run() -> None:
            with contextlib.suppress(DiedError):
                main(self, _MonitorsEnd(end, plan, self.note), killed)

        self.monitors.append(_Thread(self.spawn(name, run), end, killed))
        return self.monitors[-1]

    def monitor(self, _: Runtime, end: End, killed: threading.Event) -> None:
        """Be a monitor's program."""
        members = FakeMembers()

        def make(begin: Begin, _fds: Sequence[int]) -> Controller:
            self.note("fresh" if begin.fresh else "take-over")
            if self.cannot_begin is not None:
                raise self.cannot_begin
            members.gone = self.gone
            return Controller(lambda: 0, self.pages, _Refusing(members, self.refuses, killed))

        serve(self, end, make)


class _Refusing:
    """Members some of which cannot be registered; when the monitor is killed, all are dead."""

    def __init__(self, members: FakeMembers, refused: set[int], killed: threading.Event) -> None:
        self._members = members
        self._refused = refused
        self._killed = killed

    def add(self, register: Register, fds: Sequence[int]) -> None:
        if register.member in self._refused:
            raise ProcessLookupError(3, "no such process")
        self._members.add(register, fds)

    def dead(self) -> Sequence[int]:
        return self._members.there[:] if self._killed.is_set() else self._members.dead()

    def drop(self, member: int) -> None:
        self._members.drop(member)


class FakeMember:
    """A process that maps guest memory, as main sees it; `error` is what its zap raises."""

    regions = (Region(0x1000, 0, 0x1000),)
    tracked: int | None = None

    def __init__(self, number: int, note: Callable[[str], None], *, dynamic: bool = False) -> None:
        self.number = number
        self.dynamic = dynamic
        self.dead = False
        self.error: OSError | None = None
        self.mapped: int | None = None  # an address that it still maps
        self.fds: Sequence[int] = ()
        self._note = note

    def descriptors(self) -> Sequence[int]:
        return self.fds

    def still_mapped(self, matters: Callable[[int], bool]) -> int | None:
        return self.mapped if matters(0) else None

    def zap_mapped(self, _: Sequence[Run] | None = None) -> None:
        self.zap()

    def zap(self) -> None:
        self._note(f"zap {self.number}")
        if self.error is not None:
            raise self.error
