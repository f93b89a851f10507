"""`hfsched.client` for asyncio.

::

    async with hfsched.connect_async("trusty", port=1) as trusty:
        await trusty.send(b"hello")
        print(await trusty.recv(timeout=5))

``trusty = await hfsched.connect_async(...)`` connects too, and ``await trusty.close()`` ends that.

Cancelling is safe: a cancelled `recv` has taken no message, a cancelled `send` sent the whole
message or none of it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from hfsched.client import Connection, ConnectionClosed, check_timeout, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator

__all__ = ["AsyncConnection", "Connecting", "connect_async"]


class AsyncConnection:
    """A connection to a port of a VM, in one event loop.  Made by `connect_async`.

    The names and parameters are those of `hfsched.client.Connection`; `send`, `recv` and `close` are
    awaited.  Any number of tasks may send and receive;
    they wait for each other.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.machine = connection.machine
        self.vm = connection.vm
        self.port = connection.port
        self.host_port = connection.host_port
        self.payload_max = connection.payload_max
        self._sending = asyncio.Lock()
        self._receiving = asyncio.Lock()
        self._waiting: dict[asyncio.Future[None], Callable[[int], Any]] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.machine}/{self.vm} port {self.port}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield messages until the connection ends; `reason` is why it did."""
        while True:
            try:
                message = await self.recv()
            except ConnectionClosed:
                return
            yield message

    @property
    def reason(self) -> str | None:
        """Why the connection ended, as far as that is known."""
        return self._connection.reason

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._connection.fileno()

    async def send(
        self,
        data: bytes | bytearray | memoryview,
        *,
        block: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - as the blocking client
    ) -> None:
        """Send one message, as `hfsched.client.Connection.send`; see there."""
        check_timeout(timeout)
        if timeout is None or not block:
            return await self._send(data, block=block)
        try:
            async with asyncio.timeout(timeout) as limit:
                await self._send(data, block=True)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"{self}: not taken within {timeout} s") from None

    async def _send(self, data: bytes | bytearray | memoryview, *, block: bool) -> None:
        loop = asyncio.get_running_loop()
        if not block:
            return self._connection.send(data, block=False)
        async with self._sending:
            while True:
                try:
                    return self._connection.send(data, block=False)
                except BlockingIOError:
                    await self._ready(loop.add_writer, loop.remove_writer)

    async def recv(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as the blocking client
        *,
        block: bool = True,
    ) -> bytes:
        """Return the next message of the VM, as `hfsched.client.Connection.recv`; see there."""
        check_timeout(timeout)
        if timeout is None or not block:
            return await self._recv(block=block)
        try:
            async with asyncio.timeout(timeout) as limit:
                return await self._recv(block=True)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"{self}: no message within {timeout} s") from None

    async def _recv(self, *, block: bool) -> bytes:
        loop = asyncio.get_running_loop()
        if not block:
            return self._connection.recv(block=False)
        async with self._receiving:
            while True:
                try:
                    return self._connection.recv(block=False)
                except BlockingIOError:
                    await self._ready(loop.add_reader, loop.remove_reader)

    def shutdown(self) -> None:
        """End sending; `recv` still works."""
        self._connection.shutdown()

    async def close(self) -> None:
        """Disconnect, and end calls in other tasks; what was sent before is delivered."""
        # Before another file can get the descriptor's number.
        for future, remove in self._waiting.items():
            remove(self.fileno())
            _wake(future)
        self._waiting.clear()
        self._connection.close()

    async def _ready(self, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = remove
        add(self.fileno(), _wake, future)
        try:
            await future
        finally:
            if self._waiting.pop(future, None) is not None:
                remove(self.fileno())


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Connecting(Coroutine[Any, Any, AsyncConnection]):
    """What `connect_async` returns: await it for the connection, or use it in an ``async with``."""

    def __init__(self, coroutine: Coroutine[Any, Any, AsyncConnection]) -> None:
        self._coroutine = coroutine
        self._connection: AsyncConnection | None = None

    def __await__(self) -> Generator[Any, Any, AsyncConnection]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> AsyncConnection:
        self._connection = await self._coroutine
        return self._connection

    async def __aexit__(self, *exc: object) -> None:
        assert self._connection is not None
        await self._connection.close()

    # A coroutine, so that `asyncio.create_task` takes it.

    def send(self, value: Any) -> Any:
        """See `Coroutine`."""
        return self._coroutine.send(value)

    def throw(self, *exc: Any) -> Any:
        """See `Coroutine`."""
        return self._coroutine.throw(*exc)

    def close(self) -> None:
        """See `Coroutine`."""
        self._coroutine.close()


def connect_async(
    vm: str,
    port: int | str = 1,
    machine: str | None = None,
    timeout: float | None = None,
    *,
    local: int | None = None,
    unread_limit: float | str | None = None,
) -> Connecting:
    """Connect as `hfsched.connect` does; see there.

    A thread of the loop's executor connects; cancelled meanwhile, it disconnects again.
    """
    make = partial(connect, vm, port, machine, timeout, local=local, unread_limit=unread_limit)
    return Connecting(_connect(make))


async def _connect(make: Callable[[], Connection]) -> AsyncConnection:
    connecting = _Attempt(make)
    try:
        connection = await asyncio.get_running_loop().run_in_executor(None, connecting.run)
    except asyncio.CancelledError:
        connecting.abandon()
        raise
    return AsyncConnection(connection)


class _Attempt:
    """A connection being made in a thread; if it is abandoned, it is closed."""

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._mutex = threading.Lock()
        self._abandoned = False
        self._connection: Connection | None = None

    def run(self) -> Connection:
        """Make it; the thread's part."""
        connection = self._make()
        with self._mutex:
            self._connection = connection
            if self._abandoned:
                connection.close()
        return connection

    def abandon(self) -> None:
        """Close it now, or as soon as it is made; the loop's part."""
        with self._mutex:
            self._abandoned = True
            if self._connection is not None:
                self._connection.close()
