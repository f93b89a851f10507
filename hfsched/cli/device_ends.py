"""`hfsched device console|vsock`: devices with sockets of their own besides the front-end's."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hfsched.control.named_socket import NamedSocket, check_place, dial
from hfsched.errors import MisuseError, UserError
from hfsched.runtime.base import ChannelClosedError
from hfsched.runtime.threads.channel import poll_until
from hfsched.runtime.waitable import Condition

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Listener, Runtime
    from hfsched.vhost import Device

__all__ = ["StandardLine", "add_arguments", "console", "listen", "vsock"]

_PART = 4096  # bytes that a pipe takes without waiting when poll() says that it has room


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of both."""
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument(
        "--connect",
        metavar="PATH",
        help="console: a Unix socket to connect to, instead of standard input and output",
    )
    ends.add_argument(
        "--listen", metavar="PATH", help="console: a Unix socket to connect to it by, likewise"
    )
    parser.add_argument("--cid", type=int, metavar="N", help="vsock: the guest's, 3 or more")
    parser.add_argument(
        "--uds",
        metavar="PATH",
        help="vsock: the Unix socket by which to connect to the guest ('CONNECT PORT'); PATH_PORT is where the guest's connections go",
    )


@contextmanager
def listen(runtime: Runtime, name: str, where: str) -> Iterator[Listener]:
    """Listen at a path while it is open; raises UserError."""
    path = Path(where)
    check_place(path, stream=True, owner="another program")
    path.unlink(missing_ok=True)
    made = NamedSocket(path, stream=True)
    listener = runtime.adopt_listener(name, made.socket.detach())
    try:
        yield listener
    finally:
        made.remove()
        listener.close()


def vsock(args: argparse.Namespace, runtime: Runtime, stack: ExitStack) -> Device:
    """Return the socket device that is asked for; raises MisuseError, UserError."""
    from hfsched.vhost.devices.vsock import Vsock  # noqa: PLC0415 - the one that is needed

    if args.cid is None or args.uds is None:
        raise MisuseError(f"vsock needs {'--cid' if args.cid is None else '--uds'}")

    def connect(port: int) -> Connection | None:
        try:
            sock = dial(Path(f"{args.uds}_{port}"))
        except OSError:
            return None
        return runtime.adopt_connection(f"vsock.{port}", sock.detach())

    return Vsock(args.cid, connect, stack.enter_context(listen(runtime, "vsock", args.uds)))


def console(args: argparse.Namespace, runtime: Runtime, stack: ExitStack) -> Device:
    """Return the console that is asked for; raises UserError."""
    from hfsched.vhost.devices.console import Console  # noqa: PLC0415 - likewise

    if args.listen is not None:
        return Console(
            listener=stack.enter_context(listen(runtime, "console.listener", args.listen))
        )
    if args.connect is None:
        return Console(StandardLine(sys.stdin.fileno(), sys.stdout.fileno()))
    try:
        sock = dial(Path(args.connect))
    except OSError as exc:
        raise UserError(f"{args.connect}: {exc.strerror or exc}") from None
    return Console(runtime.adopt_connection("console", sock.detach()))


class StandardLine:
    """See `hfsched.vhost.devices.console.Line`: two descriptors, which stay the caller's; their flags are left as they are."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self.room = Condition(target, select.POLLOUT)
        self.hangup = Condition(target, 0)

    def fileno(self) -> int:
        """See `Waitable`."""
        return self._source

    def send(self, data: bytes) -> int:
        """See `Line`."""
        if not poll_until((self._target,), 0, select.POLLOUT):
            return 0
        try:
            return os.write(self._target, data[:_PART])
        except BlockingIOError:
            return 0
        except BrokenPipeError as exc:
            raise ChannelClosedError from exc

    def recv(self, size: int, deadline: int | None = None) -> bytes | None:  # noqa: ARG002 - it never waits
        """See `Line`."""
        if not poll_until((self._source,), 0):
            return None
        try:
            return os.read(self._source, size)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """See `Line`: they stay open."""
