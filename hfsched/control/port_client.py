"""The client's side of a machine's ports: finds the machine that has a VM, and connects.

Blocking, with deadlines in seconds of `time.monotonic`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
import time
from contextlib import suppress
from pathlib import Path

from hfsched.control import runtime_dir, wire
from hfsched.errors import UserError
from hfsched.text import meant, one_line

__all__ = ["dial", "find", "is_socket", "readable"]

_LISTED = 20  # names in a message
# Seconds for one machine's answer, when several are asked; a clock: one that is stopped must not hide the others.
_ASK_WITHIN = 1.0
_TIMEVAL = struct.Struct("@ll")
_PEERCRED = struct.Struct("=iII")  # pid, uid, gid
_GONE = (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR)


class _GoneError(UserError):
    """No process listens there."""


def readable(sock: socket.socket, deadline: float | None) -> bool:
    """Wait until a socket can be read; False: not before the deadline."""
    return _wait(sock, select.POLLIN, deadline)


def _wait(sock: socket.socket, what: int, deadline: float | None) -> bool:
    waiter = select.poll()
    waiter.register(sock, what)
    if deadline is None:
        return bool(waiter.poll())
    # poll() rounds a fraction of a millisecond up; a negative time is no limit.
    return bool(waiter.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _open(path: Path, deadline: float) -> socket.socket:
    """Return a non-blocking socket connected to `path`, whose peer has been checked."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wire.SEND_BUFFER)
        # The kernel's own time limit: a non-blocking connect() fails when many call at once.
        left = max(0.001, deadline - time.monotonic())
        limit = _TIMEVAL.pack(int(left), int(left % 1 * 1e6) or 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            sock.connect(os.fspath(path))
        except BlockingIOError:
            raise TimeoutError(f"{path}: the machine does not answer") from None
        except OSError as exc:
            kind = _GoneError if exc.errno in _GONE else UserError
            raise kind(f"{path}: {exc.strerror or exc}") from None
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        wire.check_peer(_PEERCRED.unpack(raw)[1])
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _converse(sock: socket.socket, path: Path, hello: bytes, deadline: float) -> bytes:
    with suppress(OSError):  # refused before the hello: the answer gives the reason
        sock.send(hello, socket.MSG_NOSIGNAL)
    while readable(sock, deadline):
        try:
            answer = sock.recv(wire.ANSWER_MAX + 1)
        except ConnectionResetError:
            continue  # reported once: the hello was not read, and the answer comes next
        except BlockingIOError:
            continue
        if not answer:
            raise _GoneError(f"{path}: the machine closed the connection without an answer")
        return answer
    raise TimeoutError(f"{path}: the machine does not answer")


def dial(path: Path, hello: wire.Hello, deadline: float) -> tuple[socket.socket, wire.Welcome]:
    """Connect; return the non-blocking socket, which the caller closes, and what it is connected to.

    Raises UserError (RefusedError when the machine refuses) or TimeoutError.
    """
    try:
        sock = _open(path, deadline)
    except _GoneError:
        raise UserError(_nobody(path)) from None
    try:
        return sock, wire.parse_welcome(_converse(sock, path, hello.encode(), deadline))
    except _GoneError as exc:
        sock.close()
        raise UserError(str(exc)) from None
    except wire.RefusedError as exc:
        sock.close()
        if exc.code == "bad-answer":
            raise wire.RefusedError(exc.code, f"{path}: {exc}") from None
        raise
    except BaseException:
        sock.close()
        raise


def _nobody(path: Path) -> str:
    """Return why no connection can be made to a path at which nobody listens."""
    if not os.path.lexists(path):
        return f"{path}: there is no such socket{_near(path)}"
    if not is_socket(path):
        return f"{path}: not a socket: name a machine, or the socket `ports` in its directory"
    return f"{path}: no process listens there: the machine has ended"


def _near(path: Path) -> str:
    """Return what to add for a socket that is missing in a directory that is there."""
    there = os.path.isdir(path.parent)  # noqa: PTH112 - False where Path raises
    return "" if there else f": there is no directory {path.parent}"


def is_socket(path: str | Path) -> bool:
    """Return whether a path is that of a socket; False for what no file can be called."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - a name may have a NUL
    except (OSError, ValueError):
        return False


def _has(path: Path, vm: str, deadline: float) -> tuple[bool, list[str]]:
    """Return whether a machine has a VM, and the VMs that it names."""
    with _open(path, deadline) as sock:
        answer = wire.parse_answer(_converse(sock, path, wire.Ask(vm).encode(), deadline))
    vms = answer.get("vms")
    names = vms if isinstance(vms, list) else []  # an earlier version sends none
    return answer.get("has") is True, [one_line(name, 64) for name in names if type(name) is str]


def find(vm: str, machine: str | None, deadline: float) -> Path:
    """Return the socket of `machine` (a name, or the path of its socket or directory), or of the one that has `vm`.

    Raises UserError, which names the machines there are, when there is none or more than one.
    """
    if machine is not None and "/" in machine:
        inside = Path(machine, runtime_dir.PORTS)
        return inside if is_socket(inside) else Path(machine)
    sockets = runtime_dir.port_sockets()
    if machine is not None:
        if machine not in sockets:
            raise UserError(_no_machine(machine, list(sockets)))
        return sockets[machine]
    having, running, silent = [], [], []
    vms: dict[str, list[str]] = {}
    for asked, (name, path) in enumerate(sockets.items()):
        # A machine that does not answer takes its share of the time, not that of the others.
        share = (deadline - time.monotonic()) / (len(sockets) - asked + 1)
        try:
            has, vms[name] = _has(path, vm, time.monotonic() + min(share, _ASK_WITHIN))
            if has:
                having.append(name)
            running.append(name)
        except _GoneError:
            continue
        except (TimeoutError, UserError) as exc:
            silent.append(f"; {name} could not be asked: {exc}")
    if len(having) == 1:
        return sockets[having[0]]
    if having:
        found = ", ".join(f"{name}/{vm}" for name in having)
        raise UserError(f"several machines have a VM {vm!r}: name one: {found}")
    if vms.get(vm):
        raise UserError(f"{vm!r} is a machine: name a VM of it: {_some(_named(vm, vms[vm]))}")
    names = [full for name in running for full in _named(name, vms[name])]
    close = meant(vm, {each for name in running for each in vms[name]})
    raise UserError(
        f"no machine has a VM {vm!r}: {_listed(names)}{''.join(silent)}{close}{socket_hint(vm)}"
    )


def _named(machine: str, vms: list[str]) -> list[str]:
    return [f"{machine}/{vm}" for vm in vms] or [machine]


def _no_machine(machine: str, known: list[str]) -> str:
    return f"no machine {machine!r}: {_listed(known)}{meant(machine, known)}{socket_hint(machine)}"


def socket_hint(name: str) -> str:
    """Return what to add to the refusal of a name that a socket here has; else nothing."""
    return f": for the socket of that name write ./{name}" if is_socket(name) else ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _listed(names: list[str]) -> str:
    return f"running: {_some(names)}" if names else "no machine is running"
