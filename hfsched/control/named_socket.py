"""Unix sockets that have a path: made so that a path never names one that nobody listens at yet.

A socket whose process is dead is a leftover, which the next one replaces; whatever else is there is refused.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from hfsched.errors import UserError
from hfsched.text import one_line

__all__ = [
    "NamedSocket",
    "check_free",
    "check_place",
    "dial",
    "is_dead",
    "is_listening",
    "path_problem",
]

_PATH_MAX = 106  # bytes: sockaddr_un has 108, a zero ends it, and until somebody listens a dot precedes the name
_BACKLOG = 128
_SHOWN = 200  # characters of a link's target


def path_problem(path: Path) -> str | None:
    """Return why no socket can have a path, because of its length; None: it can."""
    length = len(os.fsencode(path))
    if length <= _PATH_MAX:
        return None
    return f"{path}: {length} bytes, a socket's path has at most {_PATH_MAX}"


def check_free(path: Path, *, stream: bool = False, owner: str = "a machine") -> None:
    """Raise UserError for a link, a file, and a socket that has a listener (an `owner`); nothing may be there."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if stat.S_ISLNK(mode):
        target = one_line(os.fspath(path.readlink()), _SHOWN)
        raise UserError(f"{path}: a link to {target}: name the socket itself")
    if not stat.S_ISSOCK(mode):
        raise UserError(f"{path}: not a socket: choose another path")
    if not is_dead(path, stream=stream):
        raise UserError(f"{path}: {owner} listens there: choose another path")


def check_place(path: Path, *, stream: bool = False, owner: str = "a machine") -> None:
    """Raise UserError if no socket can be made at a path of the user's choice, as far as is known before."""
    if (problem := path_problem(path)) is not None:
        raise UserError(f"{problem}: choose a shorter path")
    if not path.parent.is_dir():
        raise UserError(f"{path}: no directory {path.parent}")
    check_free(path, stream=stream, owner=owner)


def _kind(*, stream: bool) -> socket.SocketKind:
    return socket.SOCK_STREAM if stream else socket.SOCK_SEQPACKET


def is_listening(fd: int) -> bool:
    """Return whether a descriptor is a socket that listens; raises OSError for what is no socket, or closed."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def is_dead(path: Path, *, stream: bool = False) -> bool:
    """Return whether no process listens at a socket any more."""
    with socket.socket(socket.AF_UNIX, _kind(stream=stream)) as sock:
        sock.setblocking(False)
        try:
            sock.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def dial(path: Path) -> socket.socket:
    """Return a stream's socket that is connected to a path, without waiting.

    Raises OSError: nobody listens there, or too many others wait to be accepted.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.connect(os.fspath(path))
    except BaseException:
        sock.close()
        raise
    return sock


class NamedSocket:
    """A socket that listens at `path`, mode 0600: of packets, or a stream.  Raises UserError.

    `socket` is the caller's to close; `remove` removes the path, if it is still this socket's.
    """

    def __init__(self, path: Path, *, stream: bool = False) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, _kind(stream=stream))
        try:
            # Before it has a name: no other user can connect in between.
            os.fchmod(self.socket.fileno(), 0o600)
            self._made = self._listen(path)
            self.socket.setblocking(False)
        except OSError as exc:
            self.socket.close()
            raise UserError(f"{path}: the socket cannot be created: {exc.strerror}") from None
        except BaseException:
            self.socket.close()
            raise

    def _listen(self, path: Path) -> os.stat_result:
        """Listen, and only then give the socket its path: what has it and refuses is dead, to whoever looks."""
        new = path.with_name(f".{path.name}")
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(new.lstat().st_mode):  # of one that was killed right here
                new.unlink()
        self.socket.bind(os.fspath(new))
        try:
            self.socket.listen(_BACKLOG)
            made = new.lstat()
            # A rename would replace what is there by now.
            os.link(new, path, follow_symlinks=False)
            return made
        finally:
            new.unlink()

    def remove(self) -> None:
        """Remove the path: in a folder of the user's choice it may be another's by now."""
        with suppress(OSError):
            if os.path.samestat(self.path.lstat(), self._made):
                self.path.unlink()
