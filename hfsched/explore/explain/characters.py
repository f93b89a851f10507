"""What may be shown of a text that somebody else has written."""

from __future__ import annotations

import re

__all__ = ["visible"]

# C0, C1, separators of lines and paragraphs, overrides of direction, lone surrogates.
_OTHERS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str, *, lines: bool = False) -> str:
    """Return the text with a ? for each character that a terminal or a page would obey.

    With `lines`, ends of lines stay.
    """
    if lines:
        return "\n".join(map(visible, text.split("\n")))
    return _OTHERS.sub("?", text)
