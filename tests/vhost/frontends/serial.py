"""The guest's serial port: shell lines are typed there, and their output is read."""

from __future__ import annotations

import secrets
import socket

from progress import QUIET

from .child import Child, FrontEndError

__all__ = ["Serial", "ShellError"]

_LONGEST = 4000  # bytes of a line: what the guest's terminal holds
_SHOWN = 4000  # characters


class ShellError(FrontEndError):
    """A shell line of the guest ended with a status other than 0."""


class Serial:
    """Waits as long as something comes; it gives up when the guest is silent for `QUIET`."""

    def __init__(self, end: socket.socket, child: Child) -> None:
        self._end = end
        self._end.settimeout(QUIET)
        self._child = child
        self._held = ""  # what nobody has waited for
        self.transcript = ""  # the end of all that the guest has printed

    def wait_up(self) -> None:
        """Wait until a guest that boots takes lines."""
        printed = self._until("UP\n")
        if "not loaded" in printed:
            raise self._child.failure(f"the guest's modules do not fit: {printed!r}")

    def begin(self, line: str) -> str:
        """Type a line; return the token by which :meth:`result` waits for its end."""
        token = secrets.token_hex(4)
        data = f"{token} {line}\n".encode()
        assert len(data) < _LONGEST, "too long for the guest's terminal"
        assert "\n" not in line, "one line at a time"
        try:
            self._end.sendall(data)
        except TimeoutError:
            raise self._child.failure(f"the guest does not read {line!r}") from None
        except ConnectionError as error:
            raise self._child.gone(f"the serial port closed before {line!r}") from error
        return token

    def result(self, token: str) -> str:
        """Wait for a line's end and return its output; raises :class:`ShellError` if it failed.

        A line that was begun before a migration ends in the guest that was restored from it.
        """
        output = self._until(f"\n{token} ")
        status = self._until("\n").strip()
        if status != "0":
            raise ShellError(f"it ended with status {status}: {output!r}")
        return output

    def close(self) -> None:
        """Close our end."""
        self._end.close()

    def _until(self, mark: str) -> str:
        """Return what comes before the mark, which is dropped with all before it."""
        while mark not in self._held:
            try:
                data = self._end.recv(1 << 16)
            except TimeoutError:
                raise self._child.failure(
                    f"the guest was silent for {QUIET:g} s, after {self.transcript!r}"
                ) from None
            except ConnectionError:
                data = b""
            if not data:
                raise self._child.gone(f"the serial port closed, after {self.transcript!r}")
            text = data.decode(errors="replace").replace("\r", "")
            self._held += text
            self.transcript = (self.transcript + text)[-_SHOWN:]
        before, _, self._held = self._held.partition(mark)
        return before
