"""Whom a line of standard input is for: the default VM, or NAME in ``@NAME TEXT``.

``@@`` at the start stands for one ``@`` that the guest gets.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from hfsched.errors import UserError
from hfsched.text import meant, one_line, there_are

__all__ = ["ADDRESS_MAX", "address"]

_NAME_MAX = 63
ADDRESS_MAX = _NAME_MAX + 2  # bytes: "@", a VM's name and a blank
_ADDRESSED = re.compile(rb"@([^ \t]*)[ \t]?(.*)", re.DOTALL)


def address(line: bytes, default: str, names: Collection[str]) -> tuple[str, bytes]:
    """Return the VM that gets a line, and the text for it; raises UserError for a VM that is not there."""
    if not line.startswith(b"@"):
        return default, line
    if line.startswith(b"@@"):
        return default, line[1:]
    found = _ADDRESSED.fullmatch(line)
    assert found is not None
    name = found[1].removesuffix(b"\r").decode("utf-8", "backslashreplace")
    if name in names:
        return name, found[2]
    if not name:
        raise UserError("no VM's name after '@': '@@' begins a line that is to begin with '@'")
    there = there_are(names)
    raise UserError(f"no VM {one_line(name, _NAME_MAX + 1)}: {there}{meant(name, names)}")
