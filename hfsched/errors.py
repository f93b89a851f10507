"""The hierarchy of exceptions.

A guest's error is no exception: the guest gets an error code.  Exceptions are the user's errors
(`UserError` and below: one line with the object, the value and the remedy) or bugs of this project
(`InternalError`).
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = [
    "ConfigError",
    "HfschedError",
    "ImageError",
    "IncomparableError",
    "InternalError",
    "MisuseError",
    "SnapshotError",
    "UserError",
    "describe",
    "place_of",
]

_OTHERS = (Path(__file__).parent, Path(os.__file__).parent)


class HfschedError(Exception):
    """The root of every exception that this project raises on purpose."""


class UserError(HfschedError):
    """An error that the user can correct; the message is one line."""


class ImageError(UserError):
    """A guest image that cannot be loaded."""


class ConfigError(UserError):
    """A manifest or a command line that cannot be used."""


class SnapshotError(UserError):
    """A snapshot that cannot be written, read or used here."""


class IncomparableError(UserError):
    """A value that belongs to a state, and cannot be compared with that of another state."""


class MisuseError(ConfigError):
    """A command line that is wrong whatever the files that it names hold."""


class InternalError(HfschedError):
    """A bug of this project: an invariant that does not hold."""


def describe(error: BaseException) -> str:
    """Return an exception's type and text; a class whose `str` raises has no text."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        text = ""
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def place_of(error: BaseException) -> str:
    """Return " (FILE:LINE)", the last line of the user's code that an exception went through; else nothing.

    Lines of this package, of Python's library and of installed packages are left out.
    """
    found = ""
    trace = error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        theirs = "site-packages" in file.parts or any(map(file.is_relative_to, _OTHERS))
        if not theirs and not file.name.startswith("<"):
            found = f" ({file.name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found
