"""`hfsched run` as a shell's job: Ctrl-Z and fg, and what the guests see of it."""

from __future__ import annotations

import os
import pty
import re
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
from talk import TARGETS, Target

if TYPE_CHECKING:
    from conftest import Process, Start

CTRL_Z, END = b"\x1a", b"\x04"
MS = 1_000_000  # ns

# What a shell is to its job: it leads the terminal's session, learns how the job is (one line for
# each change on descriptor 3), and continues it in the foreground ("f" on 4) or background ("b").
SHELL = """
import fcntl, os, signal, subprocess, sys, termios

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it may take the terminal back

def to_the_front():
    os.setpgid(0, 0)
    if "IN_BACKGROUND" not in os.environ:
        os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)

job = subprocess.Popen(sys.argv[1:], preexec_fn=to_the_front)
os.write(3, f"began {job.pid}\\n".encode())
while True:
    _, status = os.waitpid(job.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    os.tcsetpgrp(0, os.getpgrp())
    with open(f"/proc/{job.pid}/stat") as stat:
        state = stat.read().rpartition(")")[2].split()[0]
    os.write(3, f"{state} {signal.Signals(os.WSTOPSIG(status)).name}\\n".encode())
    if os.read(4, 1) == b"f":
        os.tcsetpgrp(0, job.pid)
    os.killpg(job.pid, signal.SIGCONT)
    os.write(3, b"continued\\n")
os.write(3, f"ended {os.waitstatus_to_exitcode(status)}\\n".encode())
"""

# Its grandchild is in the background of the terminal, and nobody is left who could continue it.
ORPHAN = """
import fcntl, os, sys, termios, time

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
ended, alive = os.pipe()
if os.fork() == 0:
    os.setpgid(0, 0)
    parent = os.getpid()
    if os.fork() == 0:
        os.set_inheritable(alive, True)
        while os.getppid() == parent:
            time.sleep(0.001)
        os.execv(sys.argv[1], sys.argv[1:])
    os._exit(0)
os.close(alive)
os.read(ended, 1)
"""


class Job:
    """`hfsched run ARGUMENTS...` on a terminal, in the foreground or background.

    The terminal does not echo, nor discard its input at Ctrl-Z.
    """

    def __init__(
        self, hfsched: Start, *arguments: str, background: bool = False, tostop: bool = False
    ) -> None:
        self._terminal, theirs = pty.openpty()
        mode = termios.tcgetattr(theirs)
        mode[3] = mode[3] & ~termios.ECHO | termios.NOFLSH | (termios.TOSTOP if tostop else 0)
        termios.tcsetattr(theirs, termios.TCSANOW, mode)
        news, tell = os.pipe()
        obey, self._order = os.pipe()

        def descriptors() -> None:
            kept = [os.dup(descriptor) for descriptor in (tell, obey)]
            for number, descriptor in enumerate(kept, 3):
                os.dup2(descriptor, number)

        self.process: Process = hfsched(
            *("run", *arguments),
            command=(sys.executable, "-c", SHELL, sys.executable, "-m", "hfsched"),
            **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
            environment={"NO_COLOR": "1"} | ({"IN_BACKGROUND": "1"} if background else {}),
            start_new_session=True,
            close_fds=False,
            preexec_fn=descriptors,
        )
        for descriptor in (theirs, tell, obey):
            os.close(descriptor)
        self.process.watch(os.dup(self._terminal))
        self.process.watch(news, "err")
        self._stops = self._asked = 0

    def type(self, text: bytes) -> None:
        os.write(self._terminal, text)

    def until(self, pattern: str) -> re.Match[bytes]:
        return self.process.until(pattern)

    def end_input(self) -> None:
        """Type an end of input, and see it read: the thread that reads has ended."""
        threads = Path(f"/proc/{self.pid()}/task")
        before = len(list(threads.iterdir()))
        self.type(END)
        while len(list(threads.iterdir())) >= before:
            time.sleep(0.001)

    def tell_time(self) -> int:
        """Return a guest's counter in ns."""
        self._asked += 1
        self.type(b"time\n")
        found = self.until(rf"(?:counter (\d+) frequency (\d+)\r\n(?s:.*)){{{self._asked}}}")
        return int(found[1]) * 1_000_000_000 // int(found[2])

    def stopped(self) -> str:
        """Wait until it is stopped once more; return its state and the signal."""
        self._stops += 1
        self.process.until(rf"(?:^[A-Z] .*\n(?s:.)*){{{self._stops}}}", "err")
        return self.process.err.splitlines()[-1]

    def pid(self) -> int:
        """Return the process of hfsched."""
        return int(self.process.until(r"^began (\d+)\n", "err")[1])

    def go_on(self, *, background: bool = False) -> None:
        """Do what `fg` does, or `bg`."""
        os.write(self._order, b"b" if background else b"f")
        self.process.until(rf"(?:^continued\n(?s:.)*){{{self._stops}}}", "err")

    def ended(self) -> int:
        """Wait for the end; return the exit status."""
        return int(self.process.until(r"^ended (-?\d+)\n", "err")[1])

    def close(self) -> None:
        for descriptor in (self._terminal, self._order):
            os.close(descriptor)


Jobs: TypeAlias = Callable[..., Job]


@pytest.fixture
def jobs(hfsched: Start) -> Iterator[Jobs]:
    """Make jobs."""
    made: list[Job] = []

    def make(*arguments: str, **options: bool) -> Job:
        made.append(Job(hfsched, *arguments, **options))
        return made[-1]

    yield make
    for job in made:
        job.close()


class Clocks:
    """Guests that tell the time, by engine."""

    def __init__(self, target: Target | None) -> None:
        self.target = target

    def __str__(self) -> str:
        return "script" if self.target is None else str(self.target).replace(" ", "-")

    def arguments(self) -> list[str]:
        """Return what starts it as VM g; skip the test where it cannot."""
        if self.target is None:
            return ["--guest", "g=guests.py:clock"]
        why_not = self.target.why_not()
        if why_not is not None:
            pytest.skip(f"{self.target}: {why_not}")
        image = f"g={self.target.image('trusty')}"
        return ["--guest", image, "--engine", self.target.engine, "--no-sockets"]


every_clock = pytest.mark.parametrize("clocks", [Clocks(None), *map(Clocks, TARGETS)], ids=str)


@every_clock
def test_a_guests_clock_stops_while_the_job_is_stopped(jobs: Jobs, clocks: Clocks) -> None:
    job = jobs(*clocks.arguments())
    job.until("up")
    began = time.monotonic_ns()
    first = job.tell_time()
    stopped = 0
    for _ in range(2):
        job.type(CTRL_Z)
        assert job.stopped() == "T SIGTSTP"
        since = time.monotonic_ns()
        time.sleep(0.3)  # what the guest must not see
        stopped += time.monotonic_ns() - since
        job.go_on()
    last = job.tell_time()
    assert first < last <= first + time.monotonic_ns() - began - stopped + MS
    job.type(END)
    assert job.ended() == 0


@every_clock
def test_a_guests_timer_does_not_fire_for_the_time_of_a_stop(jobs: Jobs, clocks: Clocks) -> None:
    job = jobs(*clocks.arguments(), "--linger", "30")
    job.until("up")
    began = time.monotonic_ns()
    job.type(b"sleep 200\n" if clocks.target is None else b"sleep 200\necho begun\n")
    job.until("begun")
    job.type(END + CTRL_Z)
    job.stopped()
    since = time.monotonic_ns()
    time.sleep(0.4)
    stopped = time.monotonic_ns() - since
    job.go_on()
    job.until("g: slept")
    assert time.monotonic_ns() - began - stopped >= 200 * MS
    assert job.ended() == 0


def test_messages_under_way_come_once_and_in_order(jobs: Jobs) -> None:
    job = jobs("--guest", "guests.py:echo")
    job.until("up")
    lines = [b"line %d\n" % number for number in range(200)]
    for start in range(0, 200, 20):
        job.type(b"".join(lines[start : start + 20]))
        job.type(CTRL_Z)
        assert job.stopped() == "T SIGTSTP"
        job.go_on()
    job.until("guests: line 199")
    job.type(END)
    assert job.ended() == 0
    assert re.findall(r"guests: line (\d+)", job.process.out) == [str(n) for n in range(200)]


def test_the_time_to_linger_does_not_pass_during_a_stop(jobs: Jobs) -> None:
    job = jobs("--guest", "guests.py:clock", "--linger", "1.5", "--no-sockets")
    job.type(b"sleep 86400000\nunread\nnot accepted\n")
    job.until("begun")
    job.end_input()
    job.type(CTRL_Z)
    job.stopped()
    time.sleep(1.6)
    went_on = time.monotonic_ns()
    job.go_on()
    assert job.ended() == 3
    assert time.monotonic_ns() - went_on >= 1500 * MS


def test_a_machine_that_cannot_be_suspended_is_stopped_all_the_same(jobs: Jobs) -> None:
    os.mkfifo("gate")
    job = jobs("--guest", "guests.py:stuck")
    job.type(b"hello\n")
    job.until("stuck")
    job.type(CTRL_Z)
    assert job.stopped() == "T SIGTSTP"
    job.until(
        r"^hfsched: stopped, but the guests' clocks keep running: suspend: vCPUs and senders did not stop"
        r" in time\r?$"
    )
    job.go_on()
    with Path("gate").open("w"):
        pass
    job.until("guests: open")
    job.type(END)
    assert job.ended() == 0


def test_ctrl_c_after_a_stop(jobs: Jobs) -> None:
    job = jobs("--guest", "guests.py:echo")
    job.until("up")
    job.type(CTRL_Z)
    job.stopped()
    job.go_on()
    job.type(b"hello\n")
    job.until("guests: hello")
    job.type(b"\x03")
    assert job.ended() == 128 + signal.SIGINT


# Stops without Ctrl-Z.


@every_clock
def test_a_stop_that_no_handler_sees_is_taken_out_of_the_clocks(jobs: Jobs, clocks: Clocks) -> None:
    job = jobs(*clocks.arguments())
    job.until("up")
    began = time.monotonic_ns()
    first = job.tell_time()
    stopped = 0
    for number in range(2):
        os.kill(job.pid(), signal.SIGSTOP)
        assert job.stopped() == "T SIGSTOP"
        since = time.monotonic_ns()
        time.sleep(0.4)
        stopped += time.monotonic_ns() - since
        job.go_on()
        told = (
            r"hfsched: the process was stopped for 0\.\d\d s: taken out of the guests' clocks\r\n"
        )
        job.until(rf"(?:{told}(?s:.*)){{{number + 1}}}")
    last = job.tell_time()
    assert first < last <= first + time.monotonic_ns() - began - stopped + 50 * MS
    job.type(END)
    assert job.ended() == 0
    assert job.process.out.count("the process was stopped") == 2


@every_clock
def test_a_background_job_that_reads_its_terminal_is_stopped(jobs: Jobs, clocks: Clocks) -> None:
    job = jobs(*clocks.arguments())
    job.until("up")
    began = time.monotonic_ns()
    first = job.tell_time()
    job.type(CTRL_Z)
    job.stopped()
    since = time.monotonic_ns()
    time.sleep(0.1)
    job.go_on(background=True)
    assert job.stopped() == "T SIGTTIN"
    job.go_on(background=True)
    assert job.stopped() == "T SIGTTIN"
    time.sleep(0.5)
    stopped = time.monotonic_ns() - since
    job.go_on()
    last = job.tell_time()
    # It has run twice for a moment, to find out that the terminal is not its own.
    assert first < last <= first + time.monotonic_ns() - began - stopped + 350 * MS
    job.type(END)
    assert job.ended() == 0
    assert "the process was stopped" not in job.process.out


@pytest.mark.parametrize("tostop", [False, True])
def test_a_job_that_is_started_in_the_background(jobs: Jobs, tostop: bool) -> None:
    """It reads the terminal, and writes to it: with `stty tostop` it is stopped by whichever comes first."""
    job = jobs("--guest", "guests.py:echo", background=True, tostop=tostop)
    assert job.stopped() in ("T SIGTTIN", *(["T SIGTTOU"] if tostop else []))
    job.go_on()
    job.type(b"hello\n" + END)
    assert job.ended() == 0
    assert "guests: hello" in job.process.out


@pytest.mark.parametrize("number", [signal.SIGTTIN, signal.SIGTTOU])
def test_a_stop_by_another_program(jobs: Jobs, number: signal.Signals) -> None:
    job = jobs("--guest", "guests.py:clock")
    job.until("up")
    began = time.monotonic_ns()
    first = job.tell_time()
    os.kill(job.pid(), number)
    assert job.stopped() == f"T {number.name}"
    since = time.monotonic_ns()
    time.sleep(0.2)
    stopped = time.monotonic_ns() - since
    job.go_on()
    last = job.tell_time()
    assert first < last <= first + time.monotonic_ns() - began - stopped + MS
    job.type(END)
    assert job.ended() == 0


def test_a_terminal_that_nobody_could_give_back_is_the_end_of_input(run: Start) -> None:
    ours, theirs = pty.openpty()
    lost = run(
        "guests.py:echo",
        command=(sys.executable, "-c", ORPHAN, sys.executable, "-m", "hfsched"),
        stdin=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    assert lost.wait() == 0
    os.close(ours)
    assert "standard input: Input/output error: treated as its end" in lost.err
    assert lost.out == "[guests] up\n"
