"""QMP, by which QEMU and its storage daemon are controlled: JSON objects, one a line.

The protocol: QEMU's docs/interop/qmp-spec.rst.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from progress import QUIET

from .child import Child, FrontEndError

__all__ = ["Qmp", "QmpError"]


class QmpError(FrontEndError):
    """A command was refused."""


class Qmp:
    """A connection to the monitor of a child; commands are answered in their order."""

    def __init__(self, end: socket.socket, child: Child) -> None:
        self._end = end
        self._end.settimeout(QUIET)
        self._child = child
        self._held = b""  # the beginning of a line
        self._events: list[dict[str, Any]] = []  # that nobody has waited for
        self._receive()  # its greeting
        self.call("qmp_capabilities")

    def call(self, command: str, **arguments: Any) -> Any:
        """Carry out a command and return its result; ``_`` in an argument's name stands for ``-``.

        Raises :class:`QmpError` if it is refused.
        """
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        request = json.dumps({"execute": command, "arguments": given}).encode()
        try:
            self._end.sendall(request + b"\n")
        except TimeoutError:
            raise self._child.failure(f"it does not read {command}") from None
        except ConnectionError as error:
            raise self._child.gone(f"QMP closed before {command}") from error
        while True:
            message = self._receive()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise QmpError(f"{command}: {message['error']['desc']}")

    def forget(self, name: str) -> None:
        """Drop the events of this name that have come."""
        self._events = [event for event in self._events if event["event"] != name]

    def wait_event(self, name: str, **data: Any) -> dict[str, Any]:
        """Wait for an event with these data, unless it has come before, and return its data."""
        at = 0
        while True:
            for event in self._events[at:]:
                found: dict[str, Any] = event.get("data", {})
                if event["event"] == name and data.items() <= found.items():
                    self._events.remove(event)
                    return found
            at = len(self._events)
            self._receive()

    def close(self) -> None:
        """Close the connection."""
        self._end.close()

    def _receive(self) -> dict[str, Any]:
        """Return the next message; it is also kept if it is an event."""
        while b"\n" not in self._held:
            try:
                data = self._end.recv(1 << 16)
            except TimeoutError:
                raise self._child.failure(f"no QMP message in {QUIET:g} s") from None
            except ConnectionError:
                data = b""
            if not data:
                raise self._child.gone("QMP closed")
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            self._events.append(message)
        return message
