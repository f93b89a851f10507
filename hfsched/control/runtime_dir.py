"""The directories of running machines' sockets, and their owners.

::

    with claim("demo") as directory:          # raises UserError while another "demo" runs
        listener = directory.listen("ports")  # .../hfsched/demo/ports, mode 0600

The user's runtime directory is ``$XDG_RUNTIME_DIR/hfsched`` where that is usable, else
``/tmp/hfsched-<uid>``; mode 0700.  Each machine has a directory in it with the machine's name, so two
machines never share a socket, also with VMs of the same name.

Implementation note.  A machine holds a file lock on ``lock`` in its directory for as long as it
lives; the kernel releases it with the process, so a directory whose lock is free is a leftover.
After taking a lock a process checks that the file still has its name: its last holder may have
removed it in between.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Self

from hfsched.errors import UserError

__all__ = [
    "NAME",
    "PORTS",
    "MachineDirectory",
    "check_place",
    "claim",
    "port_sockets",
    "roots",
    "runtime_directory",
]

PORTS = "ports"
_LOCK = "lock"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PATH_MAX = 107  # bytes: sockaddr_un has 108, and a zero ends it
_BACKLOG = 128


def _problem(path: Path, *, follow: bool = False) -> str | None:
    """Return why a directory is not safe to use; None: it is."""
    try:
        status = os.stat(path, follow_symlinks=follow)  # noqa: PTH116 - Path.lstat has no flag
    except OSError as exc:
        return exc.strerror or "cannot be read"
    if not stat.S_ISDIR(status.st_mode):
        return "is not a directory"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others"
    return None


def path_problem(path: Path) -> str | None:
    """Return why no socket can have a path, because of its length; None: it can."""
    length = len(os.fsencode(path))
    if length <= _PATH_MAX:
        return None
    return f"{path}: {length} bytes, a socket's path has at most {_PATH_MAX}"


def check_place(path: Path) -> None:
    """Raise UserError if no socket can be made at a path of the user's choice, as far as is known before."""
    if (problem := path_problem(path)) is not None:
        raise UserError(f"{problem}: choose a shorter path")
    if not path.parent.is_dir():
        raise UserError(f"{path}: no directory {path.parent}")
    if os.path.lexists(path) and not (path.is_socket() and _is_dead(path)):
        raise UserError(
            f"{path}: there is such a file already, or a machine that has it: remove it"
        )


def roots() -> list[Path]:
    """Return the directories of this user's machines, the preferred one first; they need not exist.

    Clients search both: a login session has XDG_RUNTIME_DIR, a job of cron does not.
    """
    found = [Path("/tmp") / f"hfsched-{os.geteuid()}"]  # noqa: S108 - checked before it is used
    xdg = Path(os.environ.get("XDG_RUNTIME_DIR") or ".")
    if xdg.is_absolute() and _problem(xdg, follow=True) is None:
        found.insert(0, xdg / "hfsched")
    return found


def _make(path: Path) -> None:
    """Make a directory, or check the existing one."""
    try:
        path.mkdir(0o700)
        path.chmod(0o700)  # for any umask
    except FileExistsError:
        pass
    except OSError as exc:
        raise UserError(f"{path} cannot be created: {exc.strerror}: set XDG_RUNTIME_DIR") from None
    problem = _problem(path)
    if problem is not None:
        raise UserError(
            f"{path} {problem}: remove it, or set XDG_RUNTIME_DIR to a directory of yours"
        )


def runtime_directory() -> Path:
    """Return the user's runtime directory, created if needed; raises UserError if it is not safe."""
    root = roots()[0]
    _make(root)
    return root


def _is_dead(path: Path) -> bool:
    """Return whether no process listens at a socket any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.setblocking(False)
        try:
            sock.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


class MachineDirectory:
    """A machine's directory, while its lock is held.  Made by `claim`; use it in a ``with``."""

    def __init__(self, name: str, path: Path, lock: int) -> None:
        self.name = name
        self.path = path
        self._lock = lock
        self._made: list[Path] = []

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
        """Return one like that at a path of the user's choice; a socket without a listener is replaced."""
        with suppress(OSError):
            if stat.S_ISSOCK(path.lstat().st_mode) and _is_dead(path):
                path.unlink()
        return self._add(path)

    def _add(self, path: Path) -> socket.socket:
        if (problem := path_problem(path)) is not None:
            raise UserError(f"{problem}: use a shorter machine name or XDG_RUNTIME_DIR")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            os.fchmod(
                sock.fileno(), 0o600
            )  # before it has a name: no other user can connect in between
            sock.bind(os.fspath(path))
            self._made.append(path)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except OSError as exc:
            sock.close()
            raise UserError(f"{path}: the socket cannot be created: {exc.strerror}") from None
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Remove the sockets, the lock and the directory.  The second call does nothing."""
        if self._lock < 0:
            return
        for path in (*self._made, self.path / _LOCK):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # it has other files, or another process claims the name now
            self.path.rmdir()
        os.close(self._lock)
        self._lock = -1


def claim(name: str | None = None) -> MachineDirectory:
    """Create the directory of machine `name` (None: ``m<pid>``); remove what a dead one left.

    Raises UserError when a machine of that name runs, or for a directory that is not safe.
    """
    name = name or f"m{os.getpid()}"
    if not NAME.fullmatch(name):
        raise UserError(
            f"machine name {name!r}: use 1 to 63 letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )
    path = runtime_directory() / name
    while True:
        try:
            lock = _take(path, name)
        except OSError as exc:
            raise UserError(f"{path}: {exc.strerror}: set XDG_RUNTIME_DIR") from None
        if lock is not None:
            break
    for left in path.iterdir():
        if left.name != _LOCK and not left.is_dir():
            left.unlink(missing_ok=True)
    return MachineDirectory(name, path, lock)


def _take(path: Path, name: str) -> int | None:
    """Return the lock's descriptor; None: it was removed meanwhile, so try again."""
    _make(path)
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
        raise UserError(f"a machine {name!r} is running ({path}): choose another name") from None
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
        if _problem(root) is None:
            for path in sorted(root.glob(f"*/{PORTS}")):
                if path.parent.name not in found and not _is_dead(path):
                    found[path.parent.name] = path
    return found
