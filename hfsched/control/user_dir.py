"""Where a user's machines have their directories: ``$XDG_RUNTIME_DIR/hfsched``, or ``/tmp/hfsched-<uid>``.

The second is where the variable names no directory that is usable.  Mode 0700.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from hfsched.errors import UserError
from hfsched.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["directory_problem", "make_directory", "roots", "runtime_directory"]

_FALLBACK = Path("/tmp")  # noqa: S108 - what is in it is checked before it is used
_SHOWN = 200  # characters of a value


def directory_problem(path: Path, *, follow: bool = False) -> str | None:
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


def roots() -> list[Path]:
    """Return the directories of this user's machines, the preferred one first; they need not exist.

    Clients search both: a login session has XDG_RUNTIME_DIR, a job of cron does not.
    """
    found = [_FALLBACK / f"hfsched-{os.geteuid()}"]
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and _xdg_problem(xdg) is None:
        found.insert(0, Path(xdg) / "hfsched")
    return found


def _xdg_problem(value: str) -> str | None:
    """Return why a value of XDG_RUNTIME_DIR is not used; None: it is."""
    path = Path(value)
    return directory_problem(path, follow=True) if path.is_absolute() else "is not an absolute path"


def _root_remedy(root: Path) -> str:
    """Return what to do about a runtime directory that is not safe; only its owner can remove it from /tmp."""
    remedy = (
        "set XDG_RUNTIME_DIR to a directory of your own,"
        " such as one made by `mkdir -m 700 ~/.hfsched`"
    )
    if os.geteuid() in (0, root.lstat().st_uid):
        remedy = f"remove it, or {remedy}"
    value = os.environ.get("XDG_RUNTIME_DIR")
    if value and (problem := _xdg_problem(value)) is not None:
        return f"{remedy}; now it is {one_line(value, _SHOWN)}, which {problem}"
    return remedy


def make_directory(path: Path, remedy: Callable[[Path], str]) -> None:
    """Make a directory, or check the existing one."""
    try:
        path.mkdir(0o700)
        path.chmod(0o700)  # for any umask
    except FileExistsError:
        pass
    except OSError as exc:
        raise UserError(f"{path} cannot be created: {exc.strerror}: set XDG_RUNTIME_DIR") from None
    problem = directory_problem(path)
    if problem is not None:
        raise UserError(f"{path} {problem}: {remedy(path)}")


def runtime_directory() -> Path:
    """Return the user's runtime directory, created if needed; raises UserError if it is not safe."""
    root = roots()[0]
    make_directory(root, _root_remedy)
    return root
