"""A running machine: QEMU as a child, its ports, and how a command in it ended."""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from . import MachineError, command, cpio
from .cache import key_of
from .command import Settings
from .image import Image
from .ports import FilePorts, Ports, SocketPorts

__all__ = ["TIMED_OUT", "Marked", "run", "shell"]

TIMED_OUT = 124
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

Sink = Callable[[bytes], object]


class Marked:
    """A stream that ends with a mark: what comes before it goes to a sink, at once."""

    def __init__(self, mark: bytes, sink: Sink) -> None:
        self._mark = mark
        self._sink = sink
        self._held = b""  # what may be the beginning of the mark
        self.tail: bytes | None = None  # what follows the mark, once it has come

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.tail is not None:
            self.tail += data
            return
        data = self._held + data
        before, found, after = data.partition(self._mark)
        self._held = b""
        if found:
            self.tail = after
        else:
            size = next(
                size
                for size in range(min(len(self._mark) - 1, len(data)), -1, -1)
                if data.endswith(self._mark[:size])
            )
            before, self._held = data[: len(data) - size], data[len(data) - size :]
        if before:
            self._sink(before)


def run(
    image: Image,
    settings: Settings,
    words: Sequence[str],
    *,
    out: Sink,
    err: Sink,
    stdin: int | None = None,
    timeout: float | None = None,
    silence: float | None = None,
    extra: Mapping[str, Path] | None = None,
) -> int:
    """Run a command in a new machine and return its exit status, or `TIMED_OUT`.

    Its working directory is the project. `out` and `err` get what it prints, `stdin` is a file
    descriptor that it reads (an empty input when None, and with `icount`), `timeout` is in seconds from now, `silence`
    is how long (s) the machine may say nothing at all, `extra` as in :meth:`Image.project`. Raises :class:`MachineError` if the machine dies.
    """
    text = command.run_script(words)
    mark = f"<{key_of(text, b'end')}>"
    script = command.environment_script(settings, {"MARK": mark})
    with ExitStack() as stack:
        kernel, initrd = _boot_files(
            stack, image, settings, extra, {"run.sh": text, "environment.sh": script}
        )
        deadline = None if timeout is None else time.monotonic() + timeout
        errors = os.memfd_create("errors")
        stack.callback(os.close, errors)
        names = ("console", *command.OUTPUTS)
        ports: Ports = (
            SocketPorts(stack, names, stdin) if settings.icount is None else FilePorts(stack, names)
        )
        process = _start(
            stack,
            command.arguments(settings, kernel, _path(initrd), ports.devices()),
            [initrd, *ports.descriptors()],
            errors,
        )
        ports.started(process)
        console = _Console(errors)
        streams = {
            name: Marked(mark.encode(), sink)
            for name, sink in zip(command.OUTPUTS, (out, err), strict=True)
        }
        heard = time.monotonic()
        while (status := _status(*streams.values())) is None:
            ends = [deadline, None if silence is None else heard + silence]
            left = min((end - time.monotonic() for end in ends if end is not None), default=None)
            if left is not None and left <= 0:
                return TIMED_OUT
            for name, data in ports.wait(left):
                heard = time.monotonic()
                if not data:
                    raise MachineError(console.obituary(process, ports))
                streams.get(name, console).feed(data)
        return status


def _status(out: Marked, err: Marked) -> int | None:
    """Return the command's status, once both of its streams have ended."""
    if out.tail is None or err.tail is None or b"\n" not in out.tail:
        return None
    return int(out.tail.partition(b"\n")[0])


def shell(image: Image, settings: Settings, extra: Mapping[str, Path] | None = None) -> int:
    """Give the terminal to a shell in a new machine, until it ends; return QEMU's exit status."""
    size = shutil.get_terminal_size()
    variables = {"LINES": str(size.lines), "COLUMNS": str(size.columns)}
    variables["TERM"] = os.environ.get("TERM", "vt100")
    script = command.environment_script(settings, variables)
    with ExitStack() as stack:
        kernel, initrd = _boot_files(stack, image, settings, extra, {"environment.sh": script})
        if sys.stdin.isatty():  # QEMU does so itself, unless it is killed
            modes = termios.tcgetattr(sys.stdin)
            stack.callback(termios.tcsetattr, sys.stdin, termios.TCSADRAIN, modes)
        process = _start(stack, command.arguments(settings, kernel, _path(initrd)), [initrd])
        return process.wait()


def _boot_files(
    stack: ExitStack,
    image: Image,
    settings: Settings,
    extra: Mapping[str, Path] | None,
    scripts: Mapping[str, bytes],
) -> tuple[str, int]:
    """Return the kernel's path and a descriptor of the archives on end, in memory only."""
    if shutil.which(command.PROGRAM) is None:
        raise MachineError(
            f"missing: {command.PROGRAM}. Install it as root: apt-get install qemu-system-arm"
        )
    kernel = image.kernel(settings.kernel)
    parts = [image.base(), kernel / "modules.cpio", image.project(extra)]
    initrd = os.memfd_create("initrd")
    stack.callback(os.close, initrd)
    for part in parts:
        with part.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            while size:
                size -= os.sendfile(initrd, source.fileno(), None, size)
    last = io.BytesIO()
    archive = cpio.Writer(last)
    for name, text in scripts.items():
        archive.file(name, text)
    archive.finish()
    with os.fdopen(os.dup(initrd), "wb") as out:
        out.write(last.getvalue())
    return str(kernel / "vmlinuz"), initrd


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _start(
    stack: ExitStack, words: list[str], descriptors: list[int], errors: int | None = None
) -> subprocess.Popen[bytes]:
    """Start QEMU, which does not outlive us, on the terminal or with its `errors` in a file."""
    parent = os.getpid()

    def die_with_us() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    hidden = None if errors is None else subprocess.DEVNULL
    process = subprocess.Popen(
        words,
        stdin=hidden,
        stdout=hidden,
        stderr=errors,
        pass_fds=descriptors,
        start_new_session=errors is not None,  # or Ctrl-C would reach it beside us
        preexec_fn=die_with_us,  # noqa: PLW1509 - we have one thread
    )

    def end() -> None:
        process.kill()
        process.wait()

    stack.callback(end)
    return process


class _Console:
    """The last of what the machine's kernel said, for when it dies."""

    def __init__(self, errors: int) -> None:
        self._said = b""
        self._errors = errors  # the file of what QEMU itself said

    def feed(self, data: bytes) -> None:
        self._said = (self._said + data)[-8192:]

    def obituary(self, process: subprocess.Popen[bytes], ports: Ports) -> str:
        """Tell what is known of a machine that died."""
        try:
            status = process.wait(5)
        except subprocess.TimeoutExpired:
            return "QEMU closed a port of the machine"
        while more := [data for name, data in ports.wait(0) if name == "console" and data]:
            for data in more:
                self.feed(data)
        lines = [line for line in self._said.decode(errors="replace").splitlines() if line.strip()]
        reasons = [line.partition("] ")[2] for line in lines if "Kernel panic" in line]
        if not reasons:
            reasons = os.pread(self._errors, 8192, 0).decode(errors="replace").splitlines()
        reason = reasons[0] if reasons else f"QEMU ended with status {status}"
        message = f"the machine died before the command ended: {reason}"
        return message + "".join(f"\n    {line}" for line in lines[-20:])
