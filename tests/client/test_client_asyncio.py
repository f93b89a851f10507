"""The public client in asyncio, against real machines of script guests."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import suppress

import pytest
from control.harness import (
    WITHIN,
    Harness,
)

import hfsched
from hfsched.client import Connection, ConnectionClosed, connect
from hfsched.client_asyncio import AsyncConnection
from hfsched.errors import UserError

from .clients import in_turn


async def soon(awaitable: asyncio.Task[bytes]) -> bytes:
    return await asyncio.wait_for(awaitable, WITHIN)


async def waits(alpha: AsyncConnection) -> None:
    """Return once a call of `alpha` waits for its socket."""
    async with asyncio.timeout(WITHIN):
        while not alpha._waiting:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0)


def test_asyncio_messages_go_to_the_vm_and_back() -> None:
    async def story() -> None:
        async with await hfsched.connect_async("alpha", port=1) as alpha:
            assert (alpha.machine, alpha.vm, alpha.payload_max) == ("demo", "alpha", 4080)
            await alpha.send(b"hello")
            await alpha.send(b"")
            async with asyncio.timeout(WITHIN):
                assert [await alpha.recv(), await alpha.recv()] == [b"hello", b""]

    with Harness("demo", {"alpha": "echo"}):
        asyncio.run(story())


def test_asyncio_connects_in_a_with_alone() -> None:
    async def story(harness: Harness) -> None:
        async with hfsched.connect_async("alpha") as alpha:
            await alpha.send(b"hello")
            assert await alpha.recv(timeout=WITHIN) == b"hello"
        with pytest.raises(ConnectionClosed):
            await alpha.recv()
        other = await asyncio.create_task(hfsched.connect_async("alpha"))
        await other.close()

    with Harness("demo", {"alpha": "echo"}) as harness:
        asyncio.run(story(harness))
        harness.until(lambda: harness.server.clients() == 0)


def test_asyncio_methods_take_what_the_blocking_ones_take() -> None:
    for name in ("send", "recv", "close", "shutdown", "fileno"):
        blocking, other = (
            inspect.signature(getattr(kind, name)).parameters
            for kind in (Connection, AsyncConnection)
        )
        assert dict(blocking) == dict(other), name
    blocking, other = (
        inspect.signature(each).parameters for each in (connect, hfsched.connect_async)
    )
    assert dict(blocking) == dict(other)

    async def story() -> None:
        async with hfsched.connect_async("alpha") as alpha:
            with pytest.raises(BlockingIOError, match="no message yet"):
                await alpha.recv(block=False)
            with pytest.raises(TimeoutError, match=r"port 1>: no message within 0\.01 s"):
                await alpha.recv(timeout=0.01)
            with suppress(BlockingIOError):
                for message in in_turn(1000):
                    await alpha.send(message, block=False)
            with pytest.raises(BlockingIOError, match="it takes no more now"):  # noqa: PT012
                while True:  # the machine may have taken one of them meanwhile
                    await alpha.send(b"more", block=False)
            with pytest.raises(TimeoutError, match=r"port 1>: not taken within 0\.01 s"):  # noqa: PT012
                while True:
                    await alpha.send(b"more", timeout=0.01)
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.01):
                    await alpha.recv(timeout=WITHIN)
            assert "within" not in str(caught.value)  # that limit is the caller's

    with Harness("demo", {"alpha": "gated"}):
        asyncio.run(story())


def test_asyncio_a_cancelled_recv_has_taken_no_message() -> None:
    async def story(harness: Harness) -> None:
        async with await hfsched.connect_async("alpha") as alpha:
            for message in in_turn(30):
                await alpha.send(message)
            harness.open("alpha")
            heard: list[bytes] = []
            cancelled = 0
            while len(heard) < 30:
                receiving = asyncio.create_task(alpha.recv())
                await asyncio.sleep(0)
                if len(heard) % 2 == cancelled % 2:
                    receiving.cancel()
                    cancelled += 1
                try:
                    heard.append(await soon(receiving))
                except asyncio.CancelledError:
                    continue
            assert heard == in_turn(30)
            assert cancelled
            assert not asyncio.get_running_loop().remove_reader(alpha.fileno())

    with Harness("demo", {"alpha": "gated"}) as harness:
        asyncio.run(story(harness))


def test_asyncio_a_cancelled_send_sent_nothing_and_the_order_is_kept() -> None:
    async def story(harness: Harness) -> None:
        async with await hfsched.connect_async("alpha") as alpha:
            sent: list[bytes] = []

            async def send_on() -> None:
                while True:
                    message = b"message %d" % len(sent)
                    await alpha.send(message)
                    sent.append(message)

            for _ in range(2):
                sending = asyncio.create_task(send_on())
                await waits(alpha)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
            assert sent
            harness.open("alpha")
            async with asyncio.timeout(WITHIN):
                assert [await alpha.recv() for _ in sent] == sent
                await alpha.send(b"last")
                assert await alpha.recv() == b"last"

    with Harness("demo", {"alpha": "gated"}) as harness:
        asyncio.run(story(harness))


def test_asyncio_a_full_mailbox_makes_the_sender_wait_and_the_loop_goes_on() -> None:
    async def story(harness: Harness) -> None:
        async with await hfsched.connect_async("alpha") as alpha:

            async def send_all() -> None:
                for message in in_turn(200):
                    await alpha.send(message)

            sending = asyncio.create_task(send_all())
            await waits(alpha)
            assert not sending.done()
            harness.open("alpha")
            async with asyncio.timeout(WITHIN):
                assert [await alpha.recv() for _ in range(200)] == in_turn(200)
                await sending

    with Harness("demo", {"alpha": "gated"}) as harness:
        asyncio.run(story(harness))


def test_asyncio_iteration_ends_with_the_vm() -> None:
    async def story() -> None:
        async with await hfsched.connect_async("alpha") as alpha, asyncio.timeout(WITHIN):
            await alpha.send(b"adieu")
            assert [message async for message in alpha] == [b"adieu"] * 3
            assert alpha.reason == "vm alpha has ended: the guest function returned"

    with Harness("demo", {"alpha": "dying"}):
        asyncio.run(story())


def test_asyncio_two_receivers_take_turns_and_closing_ends_both() -> None:
    async def story() -> None:
        alpha = await hfsched.connect_async("alpha")
        first, second = (asyncio.create_task(alpha.recv()) for _ in range(2))
        await waits(alpha)
        await alpha.send(b"one")
        assert await soon(first) == b"one"
        await waits(alpha)
        await alpha.close()
        with pytest.raises(ConnectionClosed, match="closed by this program"):
            await soon(second)
        assert alpha.fileno() == -1

    with Harness("demo", {"alpha": "echo"}):
        asyncio.run(story())


def test_asyncio_a_cancelled_connect_disconnects_again() -> None:
    async def story(harness: Harness) -> None:
        connecting = asyncio.create_task(hfsched.connect_async("demo/alpha"))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    with Harness("demo", {"alpha": "echo"}) as harness:
        asyncio.run(story(harness))
        harness.until(lambda: harness.server.clients() == 0)


def test_asyncio_errors_of_connecting_come_through() -> None:
    async def story() -> None:
        with pytest.raises(UserError, match=r"^no machine 'six': no machine is running$"):
            await hfsched.connect_async("alpha", machine="six")

    asyncio.run(story())
