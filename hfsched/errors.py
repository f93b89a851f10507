"""The one tree of exceptions.

A guest's mistake is never here: it is an error code to the guest.  What is here is the user's
mistake (`UserError` and below: one line, the thing, the value, what to do) or our own bug
(`InternalError`).
"""

from __future__ import annotations

__all__ = ["ConfigError", "HfschedError", "ImageError", "InternalError", "UserError", "describe"]


class HfschedError(Exception):
    """The root of every exception that this project raises on purpose."""


class UserError(HfschedError):
    """Something the user can mend; the message is one line that says how."""


class ImageError(UserError):
    """A guest image that cannot be loaded."""


class ConfigError(UserError):
    """A manifest or a command line that cannot be used."""


class InternalError(HfschedError):
    """A bug of ours: an invariant that does not hold."""


def describe(error: BaseException) -> str:
    """Return an exception's type and text, whatever somebody else's class makes of that."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a guest's author may have written anything
        text = ""
    name = type(error).__name__
    return f"{name}: {text}" if text else name
