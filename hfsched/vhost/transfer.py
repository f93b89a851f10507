"""The transfer of a device's state, to its front-end or from it, as versioned CBOR.

It goes on while messages are answered, as its pipe has room or data, so a state may be larger than a pipe.  A restore happens in `check`:
one that fails leaves the device as it was.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cbor2

from hfsched.vhost.errors import RefusedError
from hfsched.vhost.protocol.numbers import STATE_MAX

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime, Waitable
    from hfsched.vhost.channel import Descriptors
    from hfsched.vhost.device import Device
    from hfsched.vhost.files import Files, StateFile

__all__ = ["CHECK_WITHIN", "Transfers", "decode", "encode"]

VERSION = 1
CHECK_WITHIN = 5_000_000_000  # ns that a front-end waits for the answer to CHECK
_SAVE, _LOAD, _STOPPED = 0, 1, 0


def encode(type_id: int, features: int, protocol: int, state: Any) -> bytes:
    """Return a device's state as it travels, with the features that were acknowledged."""
    found: bytes = cbor2.dumps(
        {
            "hfsched": VERSION,
            "type": type_id,
            "features": features,
            "protocol": protocol,
            "device": state,
        }
    )
    return found


def decode(type_id: int, data: bytes) -> Any:
    """Return the state of a device of this type; raises RefusedError."""
    stream = io.BytesIO(data)
    try:
        found = cbor2.load(stream)
    except Exception as exc:  # noqa: BLE001 - a parser of what is not trusted
        raise RefusedError(f"a state that is no CBOR: {exc}") from None
    if stream.tell() != len(data):
        raise RefusedError(f"a state with {len(data) - stream.tell()} bytes behind it")
    if not isinstance(found, dict) or found.get("hfsched") != VERSION:
        version = found.get("hfsched") if isinstance(found, dict) else None
        raise RefusedError(f"a state of version {version!r}, not {VERSION}")
    if found.get("type") != type_id:
        raise RefusedError(f"a state of device type {found.get('type')!r}, not {type_id}")
    if "device" not in found:
        raise RefusedError("a state without a device")
    return found["device"]


class Transfers:
    """The transfer that is under way, if one is.  Everything is done on the device's task."""

    def __init__(self, runtime: Runtime, device: Device, files: Files) -> None:
        self._runtime = runtime
        self._device = device
        self._files = files
        self._file: StateFile | None = None
        self._left = memoryview(b"")  # to be written
        self._read: bytearray | None = None  # what has come; None: it is a save
        self._through: bool | None = None  # None: no transfer; whether it is at its end
        self._problem = ""

    def begin(
        self, direction: int, phase: int, fds: Descriptors, acknowledged: Sequence[int]
    ) -> None:
        """Begin a transfer; raises RefusedError."""
        if direction not in (_SAVE, _LOAD) or phase != _STOPPED:
            raise RefusedError(f"direction {direction}, phase {phase}: 0 or 1, and 0")
        if self._through is not None:
            raise RefusedError("the transfer before was not checked")
        left = b""
        if direction == _SAVE:
            features, protocol = acknowledged
            left = encode(self._device.type_id, features, protocol, self._device.save())
        self._file = self._files.state_file(fds.take())
        self._left = memoryview(left)
        self._read = bytearray() if direction == _LOAD else None
        self._through, self._problem = False, ""

    @property
    def sources(self) -> Sequence[Waitable]:
        """What it waits for."""
        if self._file is None:
            return ()
        return (self._file,) if self._read is not None else (self._file.room,)

    def go_on(self) -> None:
        """Carry it on, when its source is ready."""
        if self._file is None:
            return
        try:
            if self._read is not None:
                self._take(self._file.read())
            else:
                self._left = self._left[self._file.write(self._left) :]
                if not len(self._left):
                    self._end("")
        except OSError as exc:
            self._end(str(exc.strerror))

    def _take(self, data: bytes) -> None:
        assert self._read is not None
        self._read += data
        if not data:
            self._end("")
        elif len(self._read) > STATE_MAX:
            self._end(f"a state of more than {STATE_MAX} bytes")

    def _end(self, problem: str) -> None:
        self._problem = problem
        self._through = True
        if self._file is not None:
            self._file.close()
            self._file = None

    def check(self) -> int:
        """Wait for the end, and restore what came; return 0, or 1 if that failed.  Raises RefusedError without a transfer."""
        if self._through is None:
            raise RefusedError("there was no transfer")
        deadline = self._runtime.now() + CHECK_WITHIN
        while self._file is not None:
            if not self._runtime.select(self.sources, deadline):
                self._end("the front-end took too long over it")
                break
            self.go_on()
        read, problem = self._read, self._problem
        self._through = self._read = None
        if problem:
            raise RefusedError(problem)
        if read is not None:
            self._device.restore(decode(self._device.type_id, bytes(read)))
        return 0

    def close(self) -> None:
        """Give it up."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._through = self._read = None
