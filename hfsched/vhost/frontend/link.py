"""A device's link to whichever back-end serves it now, and what outlives a back-end: rings, in-flight memory.

One task uses it.  A method that speaks to the back-end and finds it gone or wrong ends the link (`lost`), and never raises for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hfsched.vhost.frontend.backend import Backend, InflightMemory, Offer, SharedRegion
from hfsched.vhost.frontend.client import Client
from hfsched.vhost.frontend.wire import BackendError, BackendRefusalError

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Event, Runtime, Waitable
    from hfsched.vhost.frontend.peers import Peers
    from hfsched.vhost.frontend.rings import ActiveRing

__all__ = ["Link"]


class Link:
    """`memory` is what is shared, and `read(address, size)` reads it; `on_lost(why)` is told when a back-end is lost."""

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        peers: Peers,
        closing: Event,
        memory: Sequence[SharedRegion],
        read: Callable[[int, int], bytes],
        on_lost: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._peers = peers
        self._closing = closing
        self._memory = tuple(memory)
        self._read = read
        self._on_lost = on_lost
        self.backend: Backend | None = None
        self.rings: list[ActiveRing] = []  # that the driver uses
        self.features = 0  # that it has acknowledged
        self.running = False  # the back-end serves the rings
        self.unsure = False  # a back-end that did not answer may still write to guest memory
        self._inflight: InflightMemory | None = None

    def connect(self) -> Offer:
        """Reach a back-end, and return what it offers.  Raises OSError, BackendError: then there is none."""
        connection = self._peers.connect()
        client = Client(self._runtime, connection, self._closing, self._peers.close)
        try:
            backend = Backend(client)
            offer = backend.negotiate()
            if backend.wants_requests:
                ours, theirs = self._peers.pair(f"{self._name}.requests")
                try:
                    backend.hear(self._runtime, ours, theirs)
                finally:
                    self._peers.close(theirs)
        except BaseException:
            client.close()
            raise
        self.backend = backend
        self.unsure = False
        return offer

    def drop(self, why: str, *, gone: bool = True) -> None:
        """End the link to a back-end that is lost."""
        if self.backend is None:
            return
        self.backend.client.close()
        self.backend = None
        if self.running:
            self.running = False
            self.unsure = not gone
            for ring in self.rings:
                ring.base = None
        self._on_lost(why)

    def start(self) -> str | None:
        """Have the rings served, if there is a back-end; return why it refuses to, None if it does not."""
        backend = self.backend
        if backend is None or not self.rings or self.running:
            return None
        rings = [ring.ring(self._read) for ring in self.rings]
        self.running = True  # from here on it may touch them
        try:
            if self._inflight is None and backend.keeps_inflight:
                self._inflight = backend.new_inflight(rings)
            inflight = self._inflight if backend.keeps_inflight else None
            backend.start(self.features, self._memory, rings, inflight)
            for ring in self.rings:
                ring.kick.signal()  # the one before may have taken the driver's kick, and done nothing
        except BackendRefusalError as exc:
            self.drop(str(exc), gone=False)
            return str(exc)
        except BackendError as exc:
            self.drop(str(exc), gone=exc.gone)
        return None

    def stop(self, rings: Sequence[ActiveRing] | None = None) -> bool:
        """Have rings (all) served no more, and note where they go on; return whether it is sure that none is served."""
        backend = self.backend
        if backend is None or not self.running:
            return not self.unsure
        try:
            for ring in self.rings if rings is None else rings:
                ring.base = backend.stop(ring.layout.index)
        except BackendError as exc:
            self.drop(str(exc), gone=exc.gone)
            return not self.unsure
        if rings is None:
            self.running = False
        return True

    def forget(self) -> None:
        """Have no rings any more, which are stopped: the driver has reset the device."""
        self.rings = []
        self.features = 0
        self.running = False
        self._drop_inflight()
        if self.backend is not None:
            try:
                self.backend.reset()
            except BackendError as exc:
                self.drop(str(exc), gone=exc.gone)

    def read_config(self, size: int) -> bytes | None:
        """Return the configuration space as it is now; None: it cannot be had."""
        if self.backend is None:
            return None
        try:
            return self.backend.read_config(size)
        except BackendError as exc:
            self.drop(str(exc), gone=exc.gone)
            return None

    def write_config(self, offset: int, data: bytes) -> None:
        """Change a part of it, as far as the back-end lets it be changed."""
        if self.backend is None:
            return
        try:
            self.backend.write_config(offset, data)
        except BackendRefusalError:
            pass
        except BackendError as exc:
            self.drop(str(exc), gone=exc.gone)

    def save_state(self) -> bytes:
        """Return the state of the back-end, whose rings are stopped; raises BackendError."""
        assert self.backend is not None
        ours, theirs = self._pair("state")
        try:
            return self.backend.save_state(ours, theirs, self._peers.close)
        except BackendError as exc:
            self.drop(str(exc), gone=exc.gone)
            raise
        finally:
            ours.close()

    def load_state(self, state: bytes) -> None:
        """Have the back-end take over a state; raises BackendError."""
        assert self.backend is not None
        ours, theirs = self._pair("state")
        try:
            self.backend.acknowledge(self.features)
            self.backend.load_state(state, ours, theirs, self._peers.close)
        finally:
            ours.close()

    def _pair(self, what: str) -> tuple[Connection, int]:
        try:
            return self._peers.pair(f"{self._name}.{what}")
        except OSError as exc:
            raise BackendError(f"no connection for its {what}: {exc.strerror}") from None

    @property
    def sources(self) -> Sequence[Waitable]:
        """What is ready when the back-end asks, or is gone: `serve`."""
        if self.backend is None:
            return ()
        client = self.backend.client
        requests = client.requests
        return (client.connection, *(() if requests is None else (requests.connection,)))

    def serve(self, ready: Sequence[Waitable]) -> None:
        """Take what the back-end asks, and find out why it speaks although nothing was asked."""
        if self.backend is None:
            return
        client = self.backend.client
        try:
            if client.connection in ready:
                client.unasked()
            if client.requests is not None and client.requests.connection in ready:
                client.requests.serve()
        except BackendError as exc:
            self.drop(str(exc), gone=exc.gone)

    def take_config_change(self) -> bool:
        """Return whether the back-end has said, since the last time, that the configuration space has changed."""
        requests = None if self.backend is None else self.backend.client.requests
        if requests is None or not requests.config_changed:
            return False
        requests.config_changed = False
        return True

    def _drop_inflight(self) -> None:
        if self._inflight is not None:
            self._peers.close(self._inflight.fd)
            self._inflight = None

    def close(self) -> None:
        """Close the connection, and free what is left."""
        if self.backend is not None:
            self.backend.client.close()
            self.backend = None
        self._drop_inflight()
