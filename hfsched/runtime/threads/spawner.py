"""The spawner, a program: ``python -m hfsched.runtime.threads.spawner FD ERROR_FD MAIN_PID MODULE...``.

ERROR_FD becomes its standard error, unless it is -1.
It forks processes for main, the process that started it, which requests them on the socket FD.  It has
one thread, has imported the MODULEs that its children need, and opens and reads nothing else.  So a
child starts within milliseconds, and main can start one although it may no longer exec.

A child is created with CLONE_PARENT: it is a child of main, which gets its exit status, and it outlives
the spawner.  PR_SET_PDEATHSIG ends both with the thread of main that started the spawner; a job that is to
outlive main undoes that for its child.

Messages.  The spawner sends `READY` once.  Main sends `FORK` with one end of a socket for the child; the
answer is the child's pid with a pidfd, or a negative errno.  Then main sends the child, on that socket,
its job (see `decode_job`) and its descriptors, and the child answers `BEGUN`.  Until then it is in the
spawner's process group, so that main can kill and reap a child whose pid it does not know, because the
spawner died before the answer.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import json
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from hfsched.errors import describe
from hfsched.runtime.threads.channel import FDS_MAX, SocketEnd, receive
from hfsched.runtime.threads.runtime import ThreadRuntime
from hfsched.text import one_line

__all__ = ["ANSWER", "BEGUN", "FORK", "JOB_MAX", "READY", "decode_job", "main"]

READY, FORK, BEGUN = b"ready", b"fork", b"begun"
ANSWER = struct.Struct("=q")  # a pid, or a negative errno
JOB_MAX = 4096  # bytes
_TARGET = re.compile(r"[\w.]+:[\w.<>]+")

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_GET_TID_ADDRESS = 1, 15, 40
_CLONE_PIDFD, _CLONE_PARENT = 0x1000, 0x8000
_CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID = 0x200000, 0x1000000
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}

# A PyDLL keeps the interpreter lock, which the child must have when it returns.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.argtypes = [ctypes.c_long] * 6
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


_TEXT_MAX = 500  # characters


def main(argv: Sequence[str]) -> None:
    """Serve main until it has ended; in a child, run the job."""
    error = int(argv[1])
    if error >= 0:
        os.dup2(error, 2)
        os.close(error)
    try:
        _run(argv)
    except MemoryError as exc:  # for more than a line there is no memory
        _say(exc)
        os._exit(1)


def _run(argv: Sequence[str]) -> None:
    control, parent = socket.socket(fileno=int(argv[0])), int(argv[2])
    _die_with_parent(parent)
    for module in argv[3:]:
        with suppress(Exception):  # the child that needs it imports it, and fails
            importlib.import_module(module)
    gc.freeze()  # the children share these pages for longer
    gate = None
    with suppress(ConnectionError):
        control.send(READY)
        gate = _serve(control, parent)
    control.close()
    if gate is not None:
        try:
            _begin(gate)
        except Exception as exc:
            if os.environ.get("HFSCHED_TRACEBACK") or isinstance(exc, MemoryError):
                raise
            _say(exc)
            os._exit(1)


def _say(error: Exception) -> None:
    """Report on one line what ends a child; there may be no memory for more."""
    short = isinstance(error, MemoryError)
    why = "not enough memory" if short else f"internal error: {describe(error)}"
    with suppress(OSError):
        os.write(2, f"hfsched: a process of this run ends: {one_line(why, _TEXT_MAX)}\n".encode())


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent's thread ends; exit if that has happened."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _serve(control: socket.socket, parent: int) -> socket.socket | None:
    """Fork on request; return in a child its socket, in the spawner None when main has ended."""
    while True:
        data, fds, complete = receive(control, len(FORK) + 1, 2)
        if not data:
            return None
        try:
            if not complete:
                raise OSError(errno.EMFILE, "no descriptor")
            if data != FORK or len(fds) != 1:
                raise OSError(errno.EINVAL, "no request")
            pid, pidfd = _fork()
            if pid == 0:
                _die_with_parent(parent)
                return socket.socket(fileno=fds.pop())
            fds.append(pidfd)
            socket.send_fds(control, [ANSWER.pack(pid)], [pidfd])
        except ConnectionError:
            return None
        except OSError as exc:
            control.send(ANSWER.pack(-(exc.errno or errno.EIO)))
        finally:
            for fd in fds:
                os.close(fd)


def _fork() -> tuple[int, int]:
    """Return (0, -1) in the child, its pid and a pidfd here.  It is a child of this process's parent."""
    pidfd = ctypes.c_int(-1)
    tid = _thread_id_address()
    flags = _CLONE_PARENT | _CLONE_PIDFD | signal.SIGCHLD
    if tid:
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID  # as the C library's fork does
    number = _SYS_CLONE[os.uname().machine]
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    # The last two arguments are the thread id's address and the TLS, or the reverse.
    pid = _libc.syscall(number, flags, 0, ctypes.addressof(pidfd), tid, tid)
    error = ctypes.get_errno()
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0, -1
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, os.strerror(error))
    return pid, pidfd.value


def _thread_id_address() -> int:
    """Return the address of this thread's id in the C library, 0 if it is not known.

    Only the C library's own fork would set it in the child.
    """
    address = ctypes.c_void_p()
    if _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.addressof(address), 0, 0, 0) or not address.value:
        return 0
    known = ctypes.c_int.from_address(address.value).value == os.getpid()
    return address.value if known else 0


# The child.


def _begin(gate: socket.socket) -> None:
    """Receive a job and run it; exit if none is sent."""
    data, fds, _ = receive(gate, JOB_MAX + 1, FDS_MAX)
    if not data:
        os._exit(0)
    name, target, count, outlives = decode_job(data)
    if len(fds) != count:
        raise OSError(errno.EMFILE, f"{name}: got {len(fds)} of {count} descriptors")
    title = ctypes.create_string_buffer(name.encode())  # the kernel cuts it off
    _libc.prctl(_PR_SET_NAME, ctypes.addressof(title), 0, 0, 0)
    os.setsid()
    if outlives:
        _libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    with suppress(ConnectionError):
        gate.send(BEGUN)
    gate.close()
    _resolve(target)(ThreadRuntime(), *[SocketEnd(socket.socket(fileno=fd)) for fd in fds])


def decode_job(data: bytes) -> tuple[str, str, int, bool]:
    """Return name, ``module:function``, number of descriptors, and whether it outlives main.

    Raises ValueError.
    """
    job = json.loads(data) if len(data) <= JOB_MAX else None
    if isinstance(job, list) and [type(each) for each in job] == [str, str, int, bool]:
        name, target, count, outlives = job
        if _TARGET.fullmatch(target) and 0 <= count <= FDS_MAX and "\0" not in name:
            return name, target, count, outlives
    raise ValueError(f"invalid job: {data[:100]!r}")


def _resolve(target: str) -> Callable[..., None]:
    module, _, name = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


if __name__ == "__main__":
    main(sys.argv[1:])
