"""The client's way to a machine's control socket.  Blocking; deadlines are of `time.monotonic`."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from hfsched.control import commands, port_client
from hfsched.control.commands import Answer, CommandError, Refused, Request
from hfsched.errors import UserError

__all__ = ["ask", "find"]


def find(where: str, deadline: float) -> tuple[Path, str | None]:
    """Return the control socket, and the VM, of ``VM``, ``MACHINE/VM`` or a socket's path.

    By its path it is all VMs of the machine: None.  Raises UserError, TimeoutError.
    """
    if os.path.exists(where) and "/" in where:  # noqa: PTH110 - says no where Path raises
        if not stat.S_ISSOCK(os.stat(where).st_mode):  # noqa: PTH116 - likewise
            raise UserError(f"{where}: this is no socket")
        return Path(where), None
    machine, slash, vm = where.rpartition("/")
    if "/" in machine or (slash and not machine) or not vm:
        raise UserError(f"{where}: there is no such socket")
    return port_client.find(vm, machine or None, deadline).with_name(commands.CONTROL), vm


def ask(path: Path, request: Request, deadline: float) -> Answer:
    """Return the answer to a request; raises UserError for one that is refused, TimeoutError."""
    try:
        with port_client._open(path, deadline) as sock:
            answer = commands.decode_answer(_converse(sock, path, request, deadline))
    except port_client._GoneError:
        raise UserError(f"{path}: nobody listens there: the machine has ended") from None
    except CommandError as exc:
        raise UserError(f"{path}: this is no machine's control socket: {exc}") from None
    if isinstance(answer, Refused):
        raise UserError(answer.text)
    return answer


def _converse(sock: socket.socket, path: Path, request: Request, deadline: float) -> bytes:
    with suppress(OSError):  # refused before we spoke: the answer says why
        sock.send(commands.encode(request), socket.MSG_NOSIGNAL)
    while port_client.readable(sock, deadline):
        try:
            data = sock.recv(commands.ANSWER_MAX + 1)
        except BlockingIOError:
            continue
        except OSError as exc:
            if exc.errno == errno.ECONNRESET:
                continue  # said once: what it said comes next
            raise UserError(f"{path}: {exc.strerror}") from None
        if not data:
            raise UserError(f"{path}: the machine has ended, and did not answer")
        return data
    raise TimeoutError(f"{path}: the machine does not answer")
