"""The one writer of standard output: a bounded queue and a task that empties it.

A guest's log must never stop its vCPU, not even when nobody reads our output: a line that finds the
queue full is counted, and the loss is said in its place.  Answers wait for room instead.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections import deque
from typing import TYPE_CHECKING

from hfsched.mailbox.ports import RAW

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["Output", "count", "escape", "notice"]

QUEUE_MAX = 1000  # lines
_COLOURS = (36, 32, 33, 35, 34, 31)
_CHUNK = 1 << 16


def escape(text: bytes) -> str:
    """Return text with nothing in it that a terminal would obey."""
    decoded = text.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\t" else _escaped(c) for c in decoded)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _is_terminal(fd: int) -> bool:
    return os.isatty(fd) and os.environ.get("TERM") != "dumb"


class Output:
    """Writes lines about VMs to a descriptor, as text or as JSON objects, one a line.

    `broken`, and then `changed`, is set when nobody reads any more.
    """

    def __init__(
        self, runtime: Runtime, fd: int, names: list[str], *, as_json: bool, changed: Event
    ) -> None:
        self._fd = fd
        self._json = as_json
        self._changed = changed
        self._names = names
        self._terminal = _is_terminal(fd)
        self._colour = self._terminal and "NO_COLOR" not in os.environ
        self._lock = runtime.lock("output")
        self._lines: deque[bytes] = deque()
        self._filled = runtime.event("output.filled")
        self._room = runtime.event("output.room")
        self._dropped = 0
        self._closing = False
        self.broken = runtime.event("output.broken")
        self._task = runtime.spawn("output", self._write)

    # What to say.

    def log(self, vm: str, line: bytes) -> None:
        """Print a line of a guest's log; never blocks."""
        if self._json:
            text = self._object({"event": "log", "vm": vm, **_payload("line", line)})
        else:
            text = self._prefixed(vm, f"[{vm}]", line)
        with self._lock:
            if len(self._lines) >= QUEUE_MAX:
                self._dropped += 1
                return
            if self._dropped:
                self._lines.append(self._loss())
            self._lines.append(text)
            self._filled.set()

    def answer(self, vm: str, source: int, payload: bytes) -> None:
        """Print a message from a guest; waits for room."""
        if self._json:
            port = None if source == RAW else source
            event = {"event": "message", "vm": vm, "port": port, **_payload("text", payload)}
            text = self._object(event)
        else:
            text = self._prefixed(vm, f"{vm}:", payload.rstrip(b"\n"))
        self._put(text)

    def event(self, event: dict[str, object]) -> None:
        """Print a JSON object; nothing without --json."""
        if self._json:
            self._put(self._object(event))

    def close(self, deadline: int | None = None) -> bool:
        """Write what is left; tell whether all of it was written before the deadline."""
        with self._lock:
            if self._dropped:
                self._lines.append(self._loss())
            self._closing = True
            self._filled.set()
        return self._task.join(deadline) and not self.broken.is_set()

    # How.

    def _prefixed(self, vm: str, prefix: str, line: bytes) -> bytes:
        if not self._terminal:
            return prefix.encode() + b" " + line + b"\n"
        text = escape(line)
        if self._colour:
            colour = _COLOURS[self._names.index(vm) % len(_COLOURS)]
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        return f"{prefix} {text}\n".encode()

    def _object(self, event: dict[str, object]) -> bytes:
        return json.dumps(event).encode() + b"\n"

    def _loss(self) -> bytes:
        lines, self._dropped = self._dropped, 0
        if self._json:
            return self._object({"event": "log-lost", "lines": lines})
        lost = f"{count(lines, 'line')} of guests' logs"
        return f"hfsched: {lost} lost: nobody read them\n".encode()

    def _put(self, text: bytes) -> None:
        while True:
            with self._lock:
                if len(self._lines) < QUEUE_MAX or self.broken.is_set():
                    self._lines.append(text)
                    self._filled.set()
                    return
                self._room.clear()
            self._room.wait()

    def _write(self) -> None:
        while True:
            with self._lock:
                chunk = b"".join(self._lines)
                self._lines.clear()
                self._room.set()
                if not chunk:
                    if self._closing:
                        return
                    self._filled.clear()
            if not chunk:
                self._filled.wait()
                continue
            try:
                for start in range(0, len(chunk), _CHUNK):
                    _write_all(self._fd, chunk[start : start + _CHUNK])
            except OSError:
                with self._lock:
                    self.broken.set()
                    self._room.set()
                self._changed.set()
                return


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _payload(name: str, data: bytes) -> dict[str, object]:
    """Return text as it is, and what is no text in base64 under ``data``."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {"data": base64.b64encode(data).decode()}


def count(number: int, what: str) -> str:
    """Return "1 line", "2 lines"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def notice(text: str) -> None:
    """Tell the user something, on standard error."""
    sys.stderr.write(f"hfsched: {text}\n")
    sys.stderr.flush()
