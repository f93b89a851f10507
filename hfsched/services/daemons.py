"""What serves requests: the state of each service's daemon, without waiting.

`Daemon.serve` gets a request's body and the time; a request that cannot be parsed gets an answer that says
so.  `Daemon.cancel` is called when the other side is gone, hibernates or comes back: nothing half done stays.
`Daemon.tick` is called now and then, at `due` at the latest.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from hfsched.services.bodies import (
    FileOp,
    FileRequest,
    FreezeOp,
    FreezeRequest,
    Heartbeat,
    KvpOp,
    KvpRequest,
    Request,
    SetTime,
    ShutdownRequest,
    parse,
)
from hfsched.services.transaction import Answer, Status
from hfsched.services.wire import BODY_MAX, ServiceId, WireError

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["Daemon", "FileReceiver", "Files", "Freezer", "HostKeys", "KeyValues", "Simple", "serve"]

_MS = 1_000_000  # ns
_DONE = Answer(Status.OK)
_UNSUPPORTED = Answer(Status.UNSUPPORTED)


class Daemon:
    """A daemon without a state; others override what they need."""

    due: int | None = None  # when `tick` has something to do, ns

    def serve(self, request: Request, now: int) -> Answer:  # noqa: ARG002
        """Carry a request out."""
        return _UNSUPPORTED

    def cancel(self) -> None:
        """Undo what is half done."""

    def tick(self, now: int) -> None:
        """Do what is due at `now`."""


def serve(daemon: Daemon, service: ServiceId, body: bytes, now: int) -> Answer:
    """Parse a request and carry it out; whatever bytes it has, there is an answer."""
    try:
        request = parse(service, body)
    except WireError as exc:
        return Answer(Status.MALFORMED, str(exc).encode())
    return daemon.serve(request, now)


class KeyValues(Daemon):
    """Key-value exchange: at most `entries_max` keys.  `values` is what the other side may read too."""

    def __init__(self, values: Mapping[str, bytes] | None = None, entries_max: int = 1024) -> None:
        self.values = dict(values or {})
        self._max = entries_max

    def serve(self, request: Request, now: int) -> Answer:  # noqa: ARG002
        """See `Daemon.serve`."""
        match request:
            case KvpRequest(KvpOp.LIST, key):
                return Answer(Status.OK, self._keys_after(key))
            case KvpRequest(KvpOp.SET, key, value):
                if key not in self.values and len(self.values) >= self._max:
                    return Answer(Status.FAILED, b"too many keys")
                self.values[key] = value
                return _DONE
            case KvpRequest(op, key) if key in self.values:
                value = self.values[key]
                if op is KvpOp.DELETE:
                    del self.values[key]
                    return _DONE
                return Answer(Status.OK, value)
            case KvpRequest():
                return Answer(Status.NOT_FOUND)
        return _UNSUPPORTED

    def _keys_after(self, key: str) -> bytes:
        found = b""
        for each in sorted(self.values):
            more = each.encode() + b"\0"
            if each > key and len(found) + len(more) <= BODY_MAX:
                found += more
            elif each > key:
                break
        return found


class HostKeys(Daemon):
    """The keys that the host keeps for a guest: the guest's requests and the host's programs use them."""

    def __init__(self, runtime: Runtime, name: str, values: Mapping[str, bytes]) -> None:
        self._keys = KeyValues(values)
        self._lock = runtime.lock(f"{name}.keys", state=self._key)

    def _key(self) -> object:
        return tuple(sorted(self._keys.values.items()))

    def serve(self, request: Request, now: int) -> Answer:
        """See `Daemon.serve`."""
        with self._lock:
            return self._keys.serve(request, now)

    def all(self) -> dict[str, bytes]:
        """Return all values, by key."""
        with self._lock:
            return dict(self._keys.values)

    def replace(self, values: Mapping[str, bytes]) -> None:
        """Have these values, and no others."""
        with self._lock:
            self._keys.values = dict(values)


class Freezer(Daemon):
    """Freeze and thaw; it thaws by itself at the time-out, and when it is cancelled.

    `act(frozen)` does it, and returns whether it could.
    """

    def __init__(self, act: Callable[[bool], bool]) -> None:
        self._act = act
        self.frozen = False

    def serve(self, request: Request, now: int) -> Answer:
        """See `Daemon.serve`."""
        if not isinstance(request, FreezeRequest):
            return _UNSUPPORTED
        if request.op is FreezeOp.THAW:
            self.cancel()
            return _DONE
        if not self.frozen and not self._act(True):
            return Answer(Status.FAILED, b"cannot freeze")
        self.frozen = True
        self.due = now + request.timeout_ms * _MS
        return _DONE

    def cancel(self) -> None:
        """Thaw."""
        self.due = None
        if self.frozen:
            self.frozen = False
            self._act(False)

    def tick(self, now: int) -> None:
        """Thaw at the time-out."""
        if self.due is not None and self.due <= now:
            self.cancel()


class Files(Protocol):
    """Where received files go; what is not committed does not exist under its name."""

    def begin(self, name: str, mode: int, size: int) -> bool:
        """Begin a part file; return whether that is possible."""

    def write(self, offset: int, data: bytes) -> bool:
        """Write into the part."""

    def commit(self) -> bool:
        """Give the part its name."""

    def remove(self) -> None:
        """Remove the part."""


class FileReceiver(Daemon):
    """A file's copy arrives: whole, under its name, or not at all.  One at a time, in the order of offsets."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._transfer: int | None = None
        self._size = self._at = self._crc = 0

    def key(self) -> object:
        """Return the whole state, but for the files."""
        return (self._transfer, self._size, self._at, self._crc)

    def serve(self, request: Request, now: int) -> Answer:  # noqa: ARG002
        """See `Daemon.serve`."""
        if not isinstance(request, FileRequest):
            return _UNSUPPORTED
        if request.op is FileOp.BEGIN:
            return self._begin(request)
        if request.transfer != self._transfer:
            cancelled = request.op is FileOp.CANCEL  # nothing is there, which is what it wants
            return _DONE if cancelled else Answer(Status.NOT_FOUND, b"no such transfer")
        if request.op is FileOp.CANCEL:
            self.cancel()
            return _DONE
        problem = self._write(request) if request.op is FileOp.DATA else self._finish(request)
        if problem is None:
            return _DONE
        self.cancel()
        return Answer(Status.FAILED, problem)

    def _begin(self, request: FileRequest) -> Answer:
        self.cancel()
        if not self._files.begin(request.name, request.mode, request.number):
            return Answer(Status.FAILED, b"cannot create the file")
        self._transfer, self._size = request.transfer, request.number
        self._at = self._crc = 0
        return _DONE

    def _write(self, request: FileRequest) -> bytes | None:
        if request.number != self._at or self._at + len(request.data) > self._size:
            return b"data out of order"
        if not self._files.write(self._at, request.data):
            return b"cannot write"
        self._at += len(request.data)
        self._crc = zlib.crc32(request.data, self._crc)
        return None

    def _finish(self, request: FileRequest) -> bytes | None:
        if self._at != self._size or self._crc != request.number:
            return b"not what was sent"
        if not self._files.commit():
            return b"cannot rename"
        self._transfer = None
        return None

    def cancel(self) -> None:
        """Remove what is half copied."""
        if self._transfer is not None:
            self._transfer = None
            self._files.remove()


class Simple(Daemon):
    """Heartbeat; time and shutdown as functions that return whether they could."""

    def __init__(
        self,
        set_time: Callable[[int], bool] = lambda _ns: False,
        shut_down: Callable[[ShutdownRequest], bool] = lambda _request: False,
    ) -> None:
        self._set_time = set_time
        self._shut_down = shut_down

    def serve(self, request: Request, now: int) -> Answer:  # noqa: ARG002
        """See `Daemon.serve`."""
        match request:
            case Heartbeat(number):
                return Answer(Status.OK, number.to_bytes(8, "little"))
            case SetTime(ns):
                return _DONE if self._set_time(ns) else Answer(Status.FAILED)
            case ShutdownRequest():
                return _DONE if self._shut_down(request) else Answer(Status.FAILED)
        return _UNSUPPORTED
