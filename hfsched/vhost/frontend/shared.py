"""What a front-end's task shares with vCPUs' threads: the configuration space as it was last read, and the eventfds."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import EventFd, Runtime

__all__ = ["ConfigSpace", "EventFds"]


class ConfigSpace:
    """A copy of the configuration space, so that a driver's reads never wait for a back-end."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._lock = runtime.lock(f"{name}.config", state=self.key)
        self._bytes = b""

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        return self._bytes

    def get(self) -> bytes:
        """Return it."""
        with self._lock:
            return self._bytes

    def put(self, config: bytes) -> bool:
        """Replace it; return whether it is another than before."""
        with self._lock:
            changed = self._bytes != config
            self._bytes = config
        return changed

    def change(self, offset: int, data: bytes) -> None:
        """Replace a part that is within it."""
        with self._lock:
            before = self._bytes
            self._bytes = before[:offset] + data + before[offset + len(data) :]


class EventFds:
    """Eventfds by queue and use, made when they are first needed, and kept until `close`."""

    def __init__(
        self, runtime: Runtime, name: str, make: Callable[[str], tuple[EventFd, int]]
    ) -> None:
        self._lock = runtime.lock(f"{name}.eventfds", state=self.key)
        self._name = name
        self._make = make
        self._made: dict[tuple[int, str], tuple[EventFd, int]] = {}

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        return tuple(self._made)

    def get(self, index: int, use: str) -> tuple[EventFd, int]:
        """Return a queue's eventfd and its descriptor, on the task; raises OSError."""
        found = self._made.get((index, use))
        if found is None:
            found = self._make(f"{self._name}.{index}.{use}")
            with self._lock:
                self._made[index, use] = found
        return found

    def signal(self, index: int, use: str) -> None:
        """Signal one; nothing if there is none yet."""
        with self._lock:
            found = self._made.get((index, use))
        if found is not None:
            found[0].signal()

    def close(self) -> None:
        """Close all, once nobody uses them."""
        for eventfd, _ in self._made.values():
            eventfd.close()
        self._made.clear()
