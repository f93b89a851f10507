"""A file written whole, or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from hfsched.errors import UserError

__all__ = ["write_whole"]


def write_whole(what: str, path: str, text: str) -> None:
    """Put a text into the file at `path`: who looks sees what was there before, or all of it.

    `what` is the option that names the file, for the UserError where that cannot be.
    """
    try:
        target = Path(path).resolve()  # a link stays, and leads to the new file
        if target.exists() and not target.is_file():
            raise UserError(f"{what} {path}: is no regular file")
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
        raise UserError(f"{what} {path!r}: no file can have this name") from None
