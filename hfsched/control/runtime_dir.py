"""The directories of running machines' sockets, and their owners.

::

    with claim("demo") as directory:          # raises UserError while another "demo" runs
        listener = directory.listen("ports")  # .../hfsched/demo/ports, mode 0600
    with claim_numbered("demo") as other:     # "demo-2", or the next that nobody has

Each machine has a directory in the user's (`hfsched.control.user_dir`) with the machine's name, so two
machines never share a socket, also with VMs of the same name.

Implementation note.  A machine holds a file lock on ``lock`` in its directory for as long as it
lives; the kernel releases it with the process, so a directory whose lock is free is a leftover.
After taking a lock a process checks that the file still has its name: its last holder may have
removed it in between.  Each claim removes the leftovers of all machines first.  It does both under a
lock on the runtime directory itself, so that no machine takes the lock of one that looks for leftovers
for that of a machine that runs.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hfsched.control.named_socket import NamedSocket, check_free, is_dead, path_problem
from hfsched.control.user_dir import directory_problem, make_directory, roots, runtime_directory
from hfsched.errors import UserError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

__all__ = [
    "NAME",
    "PORTS",
    "MachineDirectory",
    "claim",
    "claim_numbered",
    "port_sockets",
]

PORTS = "ports"
_LOCK = "lock"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_NAME_MAX = 63
_NUMBERS = range(2, 10_000)  # of machines that are copies


class _TakenError(UserError):
    """A machine of that name runs."""


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock of a runtime directory, for a few operations on files; waits for it."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_dead() -> None:
    """Remove the directories of machines whose process is dead, as far as that can be done."""
    for root in roots():
        with suppress(OSError):
            if directory_problem(root) is None:
                with _alone(root):
                    for path in root.iterdir():
                        _remove_if_dead(path)


def _remove_if_dead(path: Path) -> None:
    """Remove a machine's directory if its lock is free; under the lock of the runtime directory."""
    if not NAME.fullmatch(path.name) or directory_problem(path) is not None:
        return
    with suppress(OSError), ExitStack() as undo:  # the machine runs, or there are other files
        with suppress(FileNotFoundError):  # it was killed before it had a lock
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in path.iterdir():
                if stat.S_ISSOCK(left.lstat().st_mode):
                    left.unlink()
            (path / _LOCK).unlink()
        path.rmdir()


class MachineDirectory:
    """A machine's directory, while its lock is held.  Made by `claim`; use it in a ``with``."""

    def __init__(self, name: str, path: Path, lock: int) -> None:
        self.name = name
        self.path = path
        self._lock = lock
        self._made: list[NamedSocket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def listen(self, what: str) -> socket.socket:
        """Return a listening, non-blocking seqpacket socket, mode 0600; the caller closes it.

        Raises UserError when the path is too long for a socket, or it cannot be created.
        """
        return self._add(self.path / what)

    def listen_at(self, path: Path) -> socket.socket:
        """Return one like that at a path of the user's choice; a socket without a listener is replaced.

        Links are not followed: UserError for one, and for anything else that is there.
        """
        check_free(path)
        with suppress(OSError):
            path.unlink()
        return self._add(path)

    def _add(self, path: Path) -> socket.socket:
        if (problem := path_problem(path)) is not None:
            raise UserError(f"{problem}: use a shorter machine name or XDG_RUNTIME_DIR")
        made = NamedSocket(path)
        self._made.append(made)
        return made.socket

    def close(self) -> None:
        """Remove the sockets, the lock and the directory.  The second call does nothing."""
        if self._lock < 0:
            return
        for made in self._made:
            made.remove()
        (self.path / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # it has other files, or another process claims the name now
            self.path.rmdir()
        os.close(self._lock)
        self._lock = -1


def claim(name: str | None = None) -> MachineDirectory:
    """Create the directory of machine `name` (None: ``m<pid>``); remove what dead ones left.

    Raises UserError when a machine of that name runs, or for a directory that is not safe.
    """
    name = name or f"m{os.getpid()}"
    if not NAME.fullmatch(name):
        raise UserError(
            f"machine name {name!r}: use 1 to 63 letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )
    root = runtime_directory()
    _remove_dead()
    return _claim(root, name)


def claim_numbered(stem: str) -> MachineDirectory:
    """Create the directory of a machine whose name begins with that of another: NAME-2, or the next free number.

    Raises UserError for a directory that is not safe.
    """
    root = runtime_directory()
    _remove_dead()
    for number in _NUMBERS:
        end = f"-{number}"
        with suppress(_TakenError):
            return _claim(root, stem[: _NAME_MAX - len(end)] + end)
    raise UserError(
        f"machines {stem}-{_NUMBERS[0]} to {stem}-{_NUMBERS[-1]} are running: give a --name"
    )


def _claim(root: Path, name: str) -> MachineDirectory:
    path = root / name
    try:
        with _alone(root):
            while (lock := _take(path, name)) is None:
                pass
            for left in path.iterdir():
                if left.name != _LOCK and not left.is_dir():
                    left.unlink(missing_ok=True)
    except OSError as exc:
        raise UserError(f"{path}: {exc.strerror}: set XDG_RUNTIME_DIR") from None
    return MachineDirectory(name, path, lock)


def _take(path: Path, name: str) -> int | None:
    """Return the lock's descriptor; None: it was removed meanwhile, so try again."""
    make_directory(path, lambda _: "remove it, or choose another name")
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(path / _LOCK, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), (path / _LOCK).lstat()):
            return lock
    except BlockingIOError:
        os.close(lock)
        raise _TakenError(f"a machine {name!r} is running ({path}): choose another name") from None
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def port_sockets() -> dict[str, Path]:
    """Return the sockets `PORTS` of this user's machines by machine name.

    Those of machines that were killed are left out, and directories that are not safe.  One may end
    between this and a connection.
    """
    found: dict[str, Path] = {}
    for root in roots():
        if directory_problem(root) is None:
            for path in sorted(root.glob(f"*/{PORTS}")):
                if path.parent.name not in found and not is_dead(path):
                    found[path.parent.name] = path
    return found
