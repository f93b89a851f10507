"""Host programs that connect when this process has no descriptor left."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from hfsched.runtime.base import Connection, Runtime, Waitable
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vhost.devices.vsock.callers import Callers


class Watcher:
    """A `DeviceHost` that has watched things looked at by `turn`."""

    def __init__(self) -> None:
        self.runtime: Runtime = ThreadRuntime()
        self.watched: dict[Waitable, Callable[[], None]] = {}
        self.notices: list[str] = []

    def post(self, work: Callable[[], None]) -> None:
        work()

    def watch(self, source: Waitable, ready: Callable[[], None]) -> None:
        assert source not in self.watched
        self.watched[source] = ready

    def unwatch(self, source: Waitable) -> None:
        self.watched.pop(source, None)

    def config_changed(self) -> None:
        raise AssertionError

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def turn(self) -> None:
        for source in self.runtime.select(list(self.watched), 0):
            if source in self.watched:
                self.watched[source]()


class Short:
    """A listener with connections, and then none, for lack of descriptors."""

    def __init__(self, runtime: Runtime, found: list[socket.socket]) -> None:
        self._found = [runtime.adopt_connection("caller", each.detach()) for each in found]
        self._ready, self._other = socket.socketpair()
        self._other.send(b"x")

    def fileno(self) -> int:
        return self._ready.fileno()

    def accept(self) -> Connection | None:
        if not self._found:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._found.pop()

    def close(self) -> None:
        self._ready.close()
        self._other.close()


def test_it_accepts_again_when_a_connection_has_ended() -> None:
    host = Watcher()
    ours, theirs = socket.socketpair()
    listener = Short(host.runtime, [theirs])
    callers = Callers(listener, lambda _connection, _port: False)
    callers.accept(host)
    host.turn()
    host.turn()
    assert host.notices == ["a connection to the guest: Too many open files"]
    assert listener not in host.watched  # it would be ready for ever
    assert len(host.watched) == 1
    ours.sendall(b"nonsense\n")
    host.turn()
    assert ours.recv(1) == b""
    assert list(host.watched) == [listener]
    host.turn()
    callers.hang_up()
    assert not host.watched
    callers.accept(host)
    assert list(host.watched) == [listener]
    callers.close()
    ours.close()
