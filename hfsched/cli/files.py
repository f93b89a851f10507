"""Writes a file atomically."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from hfsched.errors import UserError

__all__ = ["write_whole"]


def write_whole(what: str, path: str, text: str) -> None:
    """Write a text to the file at `path`: a reader sees the former content, or all of the new one.

    `what` is the option that names the file.  Raises UserError, which begins with it.
    """
    try:
        target = Path(path).resolve()  # a link is kept, and points to the new file
        if target.exists() and not target.is_file():
            raise UserError(f"{what} {path}: not a regular file")
        beside = target.with_name(f".hfsched-{os.getpid()}-{os.urandom(8).hex()}")
        made = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(made, "wb") as file:
                file.write(text.encode())
            beside.replace(target)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
    except OSError as exc:
        raise UserError(f"{what} {path}: {exc.strerror}") from exc
    except (ValueError, RuntimeError):  # a NUL; a loop of links
        raise UserError(f"{what} {path!r}: not a valid file name") from None
