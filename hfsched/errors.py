"""The hierarchy of exceptions.

A guest's error is no exception: the guest gets an error code.  Exceptions are the user's errors
(`UserError` and below: one line with the object, the value and the remedy) or bugs of this project
(`InternalError`).
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "HfschedError",
    "ImageError",
    "InternalError",
    "MisuseError",
    "UserError",
    "describe",
]


class HfschedError(Exception):
    """The root of every exception that this project raises on purpose."""


class UserError(HfschedError):
    """An error that the user can correct; the message is one line."""


class ImageError(UserError):
    """A guest image that cannot be loaded."""


class ConfigError(UserError):
    """A manifest or a command line that cannot be used."""


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
