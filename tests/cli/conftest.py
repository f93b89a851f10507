"""`hfsched` as a user runs it, in a separate process; every wait has an end."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import pytest
from progress import QUIET, Quiet
from warm import COMMANDS, Forked, Warm

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))  # for the ELF and FDT writers of tests/memory

PIPE = subprocess.PIPE
WARM = {"stdin", "stdout", "stderr", "cwd", "memory"}

# Guests for these tests; each test's directory has them in guests.py.
GUESTS = '''
from hfsched.abi.ffa import FfaId, HfId, Intid
from hfsched.programs.library import GuestMailbox, interrupt_enable, interrupt_get, log, swap_ports
from hfsched.vcpu.script import Hvc, Step, Wfi


def echo(cpu):
    """Answer every message with itself, after a line of log."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from log("up")
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data))


def boot(cpu):
    """Say what it found, and then what comes to which port."""
    yield from log(f"{cpu.size} bytes, argument at {cpu.arg - cpu.base:#x}")
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        _, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from log(f"port {data[8]}: {data[16:]!r}")


def bare(cpu):
    """Answer a message without a header."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, b"bare " + data)


def unmapped(cpu):
    """Have no mailbox."""
    yield from log("up")
    while True:
        yield Wfi()


def keeper(cpu):
    """Read a message and keep RX."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from mailbox.wait()
    while True:
        yield Wfi()


def short(cpu):
    """Answer a message by one that is shorter than a header."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        sender, _ = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, b"short")


def deaf(cpu):
    """Have a mailbox and never look into it."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        yield Wfi()


def careless(cpu):
    """Read a message, and map RX anew when the next is in it."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from interrupt_enable(Intid.MAILBOX_READABLE)
    yield from mailbox.wait()
    yield from mailbox.release()
    yield from log("careless")
    while b"two" not in cpu.read(mailbox.rx, 64):  # an interrupt about the first one may come late
        yield Wfi()
        yield from interrupt_get()
    yield Hvc(FfaId.RXTX_UNMAP)
    yield from mailbox.map()
    while True:
        yield from mailbox.wait()


def stray(cpu):
    """Answer to host port 77."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, data[8:16] + (77).to_bytes(8, "little") + data[16:])


def later(cpu):
    """Answer a quarter of a second later, from the timer's interrupt."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from interrupt_enable(Intid.VIRTUAL_TIMER)
    sender, data = yield from mailbox.wait()
    yield from mailbox.release()
    cpu.arm(250_000_000)
    yield Wfi()
    yield from interrupt_get()
    cpu.arm(None)
    yield from mailbox.send(sender, swap_ports(data))
    while True:
        yield from mailbox.wait()


def clock(cpu):
    """Like trusty: `time` is answered with the counter, `sleep MS` that much later."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from interrupt_enable(Intid.VIRTUAL_TIMER)
    yield from log("up")
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        command, _, ms = data[16:].decode().partition(" ")
        cpu.arm(int(ms or 0) * 1_000_000)
        text = f"counter {cpu.timer} frequency 1000000000"
        if command == "sleep":
            yield from log("begun")
            yield Wfi()
            yield from interrupt_get()
            text = "slept"
        cpu.arm(None)
        yield from mailbox.send(sender, swap_ports(data[:16]) + text.encode())


def stuck(cpu):
    """Be inside one instruction until the test opens the FIFO `gate`; then answer `open`."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    sender, data = yield from mailbox.wait()
    yield from mailbox.release()
    yield from log("stuck")
    with open("gate"):
        pass
    yield from mailbox.send(sender, swap_ports(data[:16]) + b"open")
    while True:
        yield from mailbox.wait()


def ugly(cpu):
    """Log and send what a terminal would obey."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    for byte in b"red \\x1b[31m bell \\x07 not text \\xff\\n":
        yield Hvc(HfId.DEBUG_LOG, byte)
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data[:16] + b"clear \\x1b[2J"))


def windows(cpu):
    """End lines in the log and in answers with CR LF, and overwrite one."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from log("up\\r")
    yield from log("10%\\r20%")
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data[:16]) + b"a\\r\\nb\\rc\\r\\n\\r\\n")


def loud(cpu):
    """Log without end; write to the FIFO `heard` once no queue can hold it."""
    yield from loudly("xxxx", lines=5000)
    with open("heard", "w") as heard:
        heard.write("all of it\\n")
    while True:
        yield from log("more")


def loudly(text, lines):
    for _ in range(lines):
        yield from log(text)


def witness(cpu):
    """Write every message into the FIFO `seen`."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    while True:
        _, data = yield from mailbox.wait()
        yield from mailbox.release()
        with open("seen", "wb") as seen:
            seen.write(data[16:] + b"\\n")


def spin(cpu):
    while True:
        yield Step()


def busy(cpu):
    """Call without end."""
    while True:
        yield Hvc(FfaId.YIELD)


def returns(cpu):
    yield Step()


def raises(cpu):
    yield Step()
    raise ValueError("broken\\nin two")
'''


class Process:
    """One `hfsched` in a process; every method fails the test when that says nothing for too long."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        folder: Path,
        options: dict[str, Any],
        warm: Warm | None = None,
    ) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(map(str, [*options.pop("paths", ()), TESTS.parent])),
            "XDG_RUNTIME_DIR": str(folder),
            **options.pop("environment", {}),
        }
        self.directory = folder  # of sockets
        self._quiet = Quiet()
        command = options.pop("command", (sys.executable, "-m", "hfsched"))
        streams = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE} | options
        self._popen: subprocess.Popen[bytes] | Forked
        if warm is not None:
            self._popen = warm.start(arguments, environment, **streams)
        else:
            popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
            self._popen = popen([*command, *arguments], env=environment, **streams)
        self._texts = {"out": b"", "err": b""}
        self._streams: dict[int, tuple[str, IO[bytes]]] = {}
        for name, stream in (("out", self._popen.stdout), ("err", self._popen.stderr)):
            if stream is not None:
                self._streams[stream.fileno()] = (name, stream)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._popen.pid

    @property
    def out(self) -> str:
        """All of stdout that was read."""
        return self._texts["out"].decode("utf-8", "backslashreplace")

    @property
    def err(self) -> str:
        """All of stderr that was read."""
        return self._texts["err"].decode("utf-8", "backslashreplace")

    @property
    def raw(self) -> bytes:
        """All of stdout that was read."""
        return self._texts["out"]

    def watch(self, descriptor: int, name: str = "out") -> None:
        """Take what comes from a descriptor (a terminal's other end) for stdout, or stderr."""
        stream = os.fdopen(descriptor, "rb", buffering=0)
        self._streams[descriptor] = (name, stream)

    def type(self, text: str | bytes) -> None:
        """Write to stdin; little enough for a pipe."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(text.encode() if isinstance(text, str) else text)
        self._popen.stdin.flush()

    def end_input(self) -> None:
        """Close stdin."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def until(self, pattern: str, stream: str = "out") -> re.Match[bytes]:
        """Read until a stream has the pattern."""
        wanted = re.compile(pattern.encode(), re.MULTILINE)
        self._quiet.moved()
        while (found := wanted.search(self._texts[stream])) is None:
            if not self._read():
                pytest.fail(f"no {pattern!r} before the end: {self._state()}")
        return found

    def first_line_then_close(self) -> str:
        """Read the first line of stdout, and no more: what ``| head -1`` does."""
        self.until(r"\n")
        assert self._popen.stdout is not None
        del self._streams[self._popen.stdout.fileno()]
        self._popen.stdout.close()
        return self.out.partition("\n")[0]

    def from_fifo(self, name: str) -> bytes:
        """Return all that the next writer of a FIFO in this directory writes."""
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
        data = b""
        self._quiet.moved()
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            while poll.poll(self._quiet.left * 1000):
                self._quiet.moved()
                part = os.read(descriptor, 1 << 16)
                if not part:
                    return data
                data += part
        finally:
            os.close(descriptor)
        pytest.fail(f"no writer of {name}: {self._state()}")

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Send a signal."""
        self._popen.send_signal(number)

    def wait(self) -> int:
        """Close stdin, read all that comes and return the exit status."""
        self.end_input()
        self._quiet.moved()
        while self._read():
            pass
        try:
            status = self._popen.wait(self._quiet.left)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running: {self._state()}")
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        return status

    def wait_unread(self) -> int:
        """Return the exit status; stdout is left unread, stderr is read to its end."""
        assert self._popen.stdout is not None
        self._streams.pop(self._popen.stdout.fileno(), None)
        return self.wait()

    def close(self) -> None:
        """Kill it."""
        self._popen.kill()
        self._popen.wait()
        for _, stream in self._streams.values():
            stream.close()
        for own in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if own is not None:
                own.close()

    def _read(self) -> bool:
        """Read once; False: there is no stream left."""
        if not self._streams:
            return False
        poll = select.poll()
        for descriptor in self._streams:
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(self._quiet.left * 1000)
        if not ready:
            pytest.fail(f"it has said nothing for {QUIET:g} s: {self._state()}")
        self._quiet.moved()
        for descriptor, _ in ready:
            name, stream = self._streams[descriptor]
            try:
                data = os.read(descriptor, 1 << 16)
            except OSError:  # a terminal without a program
                data = b""
            self._texts[name] += data
            if not data:
                del self._streams[descriptor]
                stream.close()
        return True

    def _state(self) -> str:
        return f"stdout {self.raw[-1000:]!r}, stderr {self._texts['err'][-1000:]!r}"


Start: TypeAlias = Callable[..., Process]


@pytest.fixture(scope="session")
def runtime_directory() -> Iterator[Path]:
    """A directory for sockets; its path is short, since a socket's has a limit."""
    path = Path(tempfile.mkdtemp(prefix="hf-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """What starts most processes."""
    made = Warm({"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS.parent)})
    yield made
    made.close()


@pytest.fixture
def hfsched(
    tmp_path: Path, runtime_directory: Path, monkeypatch: pytest.MonkeyPatch, warm: Warm
) -> Iterator[Start]:
    """Start `hfsched ARGUMENTS...` in a directory that has guests.py; options go to Popen.

    Where these are of `WARM` alone, Python and what is imported have been started before.
    """
    started: list[Process] = []
    (tmp_path / "guests.py").write_text(GUESTS)
    monkeypatch.chdir(tmp_path)

    def start(*arguments: str, **options: Any) -> Process:
        usual = arguments[:1] and arguments[0] in COMMANDS and set(options) <= WARM
        process = Process(arguments, runtime_directory, options, warm if usual else None)
        started.append(process)
        return process

    yield start
    for process in started:
        process.close()


@pytest.fixture
def run(hfsched: Start) -> Start:
    """Start `hfsched run ARGUMENTS...`."""
    return lambda *arguments, **options: hfsched("run", *arguments, **options)
