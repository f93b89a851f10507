"""The state of generators as something hashable, for the explorer."""

from __future__ import annotations

from collections.abc import Generator, Hashable

__all__ = ["frames"]


def frames(guest: object) -> Hashable:
    """Return the positions of a generator and of those it delegates to, with their locals, hashable."""
    out = []
    inner: object = guest
    while isinstance(inner, Generator):
        frame = getattr(inner, "gi_frame", None)
        if frame is None:
            break
        local = tuple((name, _plain(value)) for name, value in sorted(frame.f_locals.items()))
        out.append((frame.f_code.co_qualname, frame.f_lasti, local))
        inner = getattr(inner, "gi_yieldfrom", None)
    return tuple(out)


def _plain(value: object) -> Hashable:
    """Return something hashable for a guest's local; an object may say its state by `key()`."""
    if isinstance(value, (int, str, bytes, bool, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, dict):
        return tuple((_plain(key), _plain(item)) for key, item in value.items())
    key = getattr(value, "key", None)
    return (type(value).__qualname__, key() if callable(key) else None)
