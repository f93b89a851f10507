"""The host's side of the machine's ports: what QEMU calls character devices.

Two kinds. Sockets make the machine wait while we are slow to read, and carry standard input. Files in
memory never make it wait and carry nothing in: the machine's run depends on nothing of the host, at
the price of memory for all that it prints.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Protocol

__all__ = ["FilePorts", "Ports", "SocketPorts"]

_PIECE = 1 << 16
_INTERVAL = 0.02  # s between looks at a file


class Ports(Protocol):
    """The ports of one machine; closed with the stack that they were made with."""

    def devices(self) -> dict[str, str]:
        """Return QEMU's character device for each port."""

    def descriptors(self) -> list[int]:
        """Return the file descriptors that these name, for QEMU to inherit."""

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """Say that QEMU has them."""

    def wait(self, timeout: float | None) -> list[tuple[str, bytes]]:
        """Return what came, by port; nothing (b"") where the machine has ended.

        Waits up to `timeout` seconds for something to come.
        """


class SocketPorts:
    """Ports that are sockets, and the input `hf.in`, fed from the descriptor `stdin` if any."""

    def __init__(self, stack: ExitStack, names: Sequence[str], stdin: int | None) -> None:
        self._ours: dict[str, socket.socket] = {}
        self._theirs: dict[str, socket.socket] = {}
        for name in ("hf.in", *names):
            self._ours[name], self._theirs[name] = socket.socketpair()
            stack.enter_context(self._ours[name])
            stack.enter_context(self._theirs[name])
        # poll, for epoll refuses plain files.
        self._selector = stack.enter_context(selectors.PollSelector())
        for name in names:
            self._selector.register(self._ours[name], selectors.EVENT_READ, name)
        self._input = self._ours["hf.in"]
        self._input.setblocking(False)
        self._stdin = stdin
        self._typed = b""  # read, and not yet taken by the machine
        if stdin is None:
            self._end_input()
        else:
            self._selector.register(stdin, selectors.EVENT_READ, "stdin")

    def devices(self) -> dict[str, str]:  # noqa: D102
        return {name: f"socket,fd={end.fileno()}" for name, end in self._theirs.items()}

    def descriptors(self) -> list[int]:  # noqa: D102
        return [end.fileno() for end in self._theirs.values()]

    def started(self, process: subprocess.Popen[bytes]) -> None:  # noqa: ARG002, D102
        for end in self._theirs.values():
            end.close()

    def wait(self, timeout: float | None) -> list[tuple[str, bytes]]:  # noqa: D102
        came = []
        for key, _ in self._selector.select(timeout):
            if key.data == "stdin":
                self._read_input()
            elif key.data == "hf.in":
                self._write_input()
            else:
                try:
                    came.append((key.data, self._ours[key.data].recv(_PIECE)))
                except ConnectionResetError:  # QEMU died with input unread
                    came.append((key.data, b""))
        return came

    def _read_input(self) -> None:
        assert self._stdin is not None
        self._typed = os.read(self._stdin, _PIECE)
        self._selector.unregister(self._stdin)
        if self._typed:
            self._selector.register(self._input, selectors.EVENT_WRITE, "hf.in")
        else:
            self._end_input()

    def _write_input(self) -> None:
        assert self._stdin is not None
        try:
            self._typed = self._typed[self._input.send(self._typed) :]
        except (BrokenPipeError, ConnectionResetError):  # another port tells the end
            self._selector.unregister(self._input)
            return
        if not self._typed:
            self._selector.unregister(self._input)
            self._selector.register(self._stdin, selectors.EVENT_READ, "stdin")

    def _end_input(self) -> None:
        # Half a close: after a whole one QEMU drops what is on its way.
        with suppress(OSError):
            self._input.shutdown(socket.SHUT_WR)


class FilePorts:
    """Ports that are files in memory; there is no input."""

    def __init__(self, stack: ExitStack, names: Sequence[str]) -> None:
        self._files = {name: os.memfd_create(name) for name in names}
        self._read = dict.fromkeys(names, 0)
        self._process: subprocess.Popen[bytes] | None = None
        for file in self._files.values():
            stack.callback(os.close, file)

    def devices(self) -> dict[str, str]:  # noqa: D102
        return {name: f"file,path=/proc/self/fd/{file}" for name, file in self._files.items()}

    def descriptors(self) -> list[int]:  # noqa: D102
        return list(self._files.values())

    def started(self, process: subprocess.Popen[bytes]) -> None:  # noqa: D102
        self._process = process

    def wait(self, timeout: float | None) -> list[tuple[str, bytes]]:  # noqa: D102
        assert self._process is not None
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            ended = self._process.poll() is not None
            came = [(name, data) for name in self._files if (data := self._next(name))]
            if came or (until is not None and time.monotonic() >= until):
                return came
            if ended:
                return [(name, b"") for name in self._files]
            time.sleep(_INTERVAL)

    def _next(self, name: str) -> bytes:
        data = os.pread(self._files[name], _PIECE, self._read[name])
        self._read[name] += len(data)
        return data
