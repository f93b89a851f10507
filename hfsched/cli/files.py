"""Writes a file atomically, never through a link: another user may have put one under its name.

The folder is opened once, and the name is only used in it, so that a folder that is exchanged meanwhile
changes nothing.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from hfsched.errors import UserError
from hfsched.text import one_line

__all__ = ["STANDARD_OUTPUT", "write_whole"]

STANDARD_OUTPUT = "-"
_SHOWN = 200  # characters of a link's target
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_whole(what: str, path: str, text: str) -> None:
    """Write a text to the file at `path`: a reader sees the former content, or all of the new one.

    "-" is standard output.  `what` is the option that names the file.  Raises UserError, which begins
    with it, also for a link and for anything else that is no regular file.
    """
    data = text.encode("utf-8", "backslashreplace")
    if path == STANDARD_OUTPUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        _replace(f"{what} {one_line(path, _SHOWN)}", path, data)
    except OSError as exc:
        raise UserError(f"{what} {path}: {exc.strerror}") from exc
    except ValueError:  # a NUL
        raise UserError(f"{what} {path!r}: not a valid file name") from None


def _replace(shown: str, path: str, data: bytes) -> None:
    name = Path(path).name
    if not name or name == ".." or path.endswith("/"):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder = os.open(Path(path).parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(shown, name, folder)
        beside = f".hfsched-{os.getpid()}-{os.urandom(8).hex()}"
        made = os.open(beside, _MAKE, 0o666, dir_fd=folder)
        try:
            with os.fdopen(made, "wb") as file:
                file.write(data)
            os.replace(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside, dir_fd=folder)
            raise
    finally:
        os.close(folder)


def _check(shown: str, name: str, folder: int) -> None:
    """Raise UserError for a name that is there and no regular file."""
    try:
        mode = os.lstat(name, dir_fd=folder).st_mode
        if stat.S_ISLNK(mode):
            target = one_line(os.readlink(name, dir_fd=folder), _SHOWN)
            raise UserError(f"{shown}: a link to {target}: name a file, or '-' for standard output")
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise UserError(f"{shown}: not a regular file: name one, or '-' for standard output")
