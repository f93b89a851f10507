"""Text that somebody else has written, made safe to show: escaped, bounded, on one line.

Guests' logs, file names, exceptions of a guest's author and sockets' messages go through here before
they reach a terminal.  Characters that `str.isprintable` refuses are written as Python's escapes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

__all__ = [
    "count",
    "integer",
    "is_utf8",
    "meant",
    "nearest",
    "one_line",
    "one_of",
    "printable",
    "printable_bytes",
    "safe_repr",
    "there_are",
]


def printable(text: str, *, keep: str = "") -> str:
    """Return `text` with control characters escaped, newlines too, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def printable_bytes(data: bytes) -> str:
    """Return UTF-8 text with control characters escaped, except tabs, and bytes that are no text."""
    return printable(data.decode("utf-8", "backslashreplace"), keep="\t")


def one_line(text: str, limit: int) -> str:
    """Return `text` escaped and cut to `limit` characters; "..." ends what was cut by escaping."""
    safe = printable(text[:limit])
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


def is_utf8(text: str) -> bool:
    """Return whether a name from the command line or the file system is UTF-8, as messages must be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def safe_repr(value: object, limit: int = 200) -> str:
    """Return `repr(value)` cut to `limit` characters, or the type's name if `repr` raises."""
    try:
        return repr(value)[:limit]
    except Exception:  # noqa: BLE001 - a guest's author may have written anything
        return f"a {type(value).__name__} that cannot be shown"


def integer(value: int, form: str = "d") -> str:
    """Return an integer for a message; Python refuses to write very long ones in decimal."""
    if abs(value) >= 1 << 128:
        return f"of {value.bit_length()} bits"
    return f"{value:#{form}}"


def count(amount: int, what: str) -> str:
    """Return "1 line", "2 lines"."""
    return f"{amount} {what}" if amount == 1 else f"{amount} {what}s"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return which of the known words is so like `word` that it may be meant; None: none."""
    import difflib  # noqa: PLC0415 - only for an error

    folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(word[:80].casefold(), folded, 1, 0.65)
    return folded[close[0]] if close else None


def meant(word: str, known: Iterable[str]) -> str:
    """Return ": did you mean ...?" for a word that is like a known one, else nothing."""
    close = nearest(word, known)
    return "" if close is None else f": did you mean {close!r}?"


def one_of(word: str, known: Collection[str]) -> str:
    """Return ": one of a, b: did you mean 'a'?", or ": only a is known"."""
    if len(known) == 1:
        return f": only {next(iter(known))} is known"
    return f": one of {', '.join(known)}{meant(word, known)}"


def there_are(names: Collection[str], limit: int = 20) -> str:
    """Return "there is a", "there are a, b", of many names the first `limit` and how many more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(islice(names, limit))}{more}"
