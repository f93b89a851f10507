"""Standard input to guests: a line is a message, and its answers are printed.

Reading and sending are two tasks with a bounded queue between them, so that the end of input is
seen even while a guest takes no message.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections import Counter, deque
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from hfsched.cli.addressing import ADDRESS_MAX, address
from hfsched.cli.output import Output, notice
from hfsched.cli.splitter import Splitter
from hfsched.errors import UserError
from hfsched.scheduler.outbox import Sent

if TYPE_CHECKING:
    from hfsched.cli.jobcontrol import JobControl
    from hfsched.runtime.base import Event, Runtime, Task
    from hfsched.scheduler.endpoint import Endpoint
    from hfsched.vmm.machine import Machine

__all__ = ["Console"]

AHEAD_MAX = 10_000  # lines read and not yet sent
AHEAD_BYTES = 16 << 20  # of their text
CONSOLE_PORT = 0x736E6F63  # of the host, "cons" in memory: the same in each run, so a restored machine's answers come
_CHUNK = 1 << 16


class Console:
    """Connects standard input and output to the VMs' text ports.

    A line goes to `default`, or to NAME when it begins with ``@NAME``: see `hfsched.cli.addressing`.
    `changed` is set when `ended` or `unsent` has changed, or something was printed.
    """

    def __init__(
        self,
        runtime: Runtime,
        machine: Machine,
        output: Output,
        default: str,
        changed: Event,
        job: JobControl,
    ) -> None:
        self._job = job
        self._runtime = runtime
        self._machine = machine
        self._output = output
        self._default = default
        self._endpoints: dict[str, Endpoint] = {}
        self._lock = runtime.lock("console", state=self.key)
        self._lines: deque[tuple[str, bytes]] = deque()  # VM, text
        self._bytes = 0  # of their text
        self._filled = runtime.event("console.filled")
        self._space = runtime.event("console.space")
        self.changed = changed
        self.ended = False
        self.refused = 0
        # When the last line was accepted, the end was seen, or the process was continued.
        self.progress = runtime.now()
        self._sending: str | None = None  # the VM
        self._undeliverable: Counter[str] = (
            Counter()
        )  # by VM: their VM had ended, or the machine stopped
        self._printers: list[Task] = []

    def key(self) -> object:
        """Return all that the lock guards."""
        lines = (tuple(self._lines), self._bytes, self._sending)
        return (lines, self.ended, self.refused, self.progress, tuple(self._undeliverable.items()))

    def open(self) -> None:
        """Connect to every VM's text port and print what comes from it."""
        for vm in self._machine.vm_names():
            endpoint = self._machine.endpoint(vm, self._machine.text_port(vm), CONSOLE_PORT)
            self._endpoints[vm] = endpoint
            self._printers.append(self._runtime.spawn(f"console.{vm}", partial(self._print, vm)))

    def drain(self, deadline: int | None) -> None:
        """Once the machine has stopped: wait until all that came from it has been printed."""
        for printer in self._printers:
            printer.join(deadline)

    def listen(self, fd: int) -> None:
        """Start to read lines from a descriptor."""
        self._runtime.spawn("console.read", lambda: self._read(fd))
        self._runtime.spawn("console.send", self._send)

    def restart_linger(self) -> None:
        """Count the time to linger from now on: the process was stopped for a while."""
        with self._lock:
            self.progress = self._runtime.now()

    def unsent(self) -> int:
        """Return how many lines wait for their guest to take them."""
        with self._lock:
            return len(self._lines) + int(self._sending is not None)

    def undelivered(self) -> Mapping[str, int]:
        """Return how many lines were read and not delivered to their guest, by VM."""
        with self._lock:
            waiting = Counter(vm for vm, _ in self._lines)
            waiting.update(filter(None, [self._sending]))
            return waiting + self._undeliverable

    def any_ended(self) -> bool:
        """Return whether a line may be undelivered because its VM has ended."""
        return bool(self._machine.aborts)

    def _print(self, vm: str) -> None:
        endpoint = self._endpoints[vm]
        while (port_message := endpoint.recv()) is not None:
            self._output.answer(vm, port_message.source, port_message.payload)
            self.changed.set()

    def _read(self, fd: int) -> None:
        longest = max(endpoint.payload_max for endpoint in self._endpoints.values())
        splitter = Splitter(ADDRESS_MAX + longest)
        while data := self._chunk(fd):
            for line, whole in splitter.feed(data):
                self._queue(line, whole=whole)
        for line, whole in splitter.end():
            self._queue(line, whole=whole)
        with self._lock:
            self.ended = True
            self.progress = self._runtime.now()
            self._filled.set()
        self.changed.set()

    def _chunk(self, fd: int) -> bytes:
        """Read some bytes; none is the end of input."""
        while True:
            try:
                return os.read(fd, _CHUNK)
            except BlockingIOError:
                select.select([fd], [], [])
            except OSError as exc:
                # A background job gets EIO: it is stopped until the terminal is its own.
                if exc.errno == errno.EIO and self._job.await_foreground(fd, signal.SIGTTIN):
                    continue
                notice(f"standard input: {exc.strerror}: treated as its end")
                return b""

    def _queue(self, line: bytes, *, whole: bool) -> None:
        """Find out whom a line is for, and queue it; refuse what can never be sent."""
        try:
            vm, text = address(line, self._default, self._endpoints.keys())
        except UserError as exc:
            self._refuse("standard input", exc)
            return
        most = self._endpoints[vm].payload_max
        if len(text) > most:
            size = str(len(text)) if whole else f"more than {most}"
            self._refuse(f"vm {vm}", UserError(f"a message of {size} bytes: at most {most}"))
            return
        while True:
            with self._lock:
                if len(self._lines) < AHEAD_MAX and self._bytes + len(text) <= AHEAD_BYTES:
                    self._lines.append((vm, text))
                    self._bytes += len(text)
                    self._filled.set()
                    return
                self._space.clear()
            self._space.wait()

    def _refuse(self, what: str, why: UserError) -> None:
        with self._lock:
            self.refused += 1
        self._output.event({"event": "refused", "text": f"{what}: {why}"})
        notice(f"error: {what}: {why}; the line was not sent")

    def _send(self) -> None:
        while True:
            with self._lock:
                line = self._lines.popleft() if self._lines else None
                self._sending = None if line is None else line[0]
                self._bytes -= len(line[1]) if line is not None else 0
                self._space.set()
                if line is None:
                    if self.ended:
                        return
                    self._filled.clear()
            if line is None:
                self._filled.wait()
                continue
            sent = self._send_line(*line)
            with self._lock:
                self._sending = None
                if sent is Sent.DEAD:
                    self._undeliverable[line[0]] += 1
                else:
                    self.progress = self._runtime.now()
            self.changed.set()

    def _send_line(self, vm: str, text: bytes) -> Sent:
        try:
            return self._endpoints[vm].send(text)
        except UserError as exc:
            self._refuse(f"vm {vm}", exc)
            return Sent.SENT
