"""Replacement of control characters in text from scenarios, one character for one.

`hfsched.text.printable` escapes them instead, and more of them: a column of a drawing must not widen.
"""

from __future__ import annotations

import re

__all__ = ["visible"]

# C0, C1, line and paragraph separators, bidirectional controls, lone surrogates.
_OTHERS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str, *, lines: bool = False) -> str:
    """Return the text with a ? for each control character; with `lines`, newlines are kept."""
    if lines:
        return "\n".join(map(visible, text.split("\n")))
    return _OTHERS.sub("?", text)
