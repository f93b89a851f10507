"""What programs that tests of swap start need as well: no pytest, which takes long to import."""

from __future__ import annotations

from hfsched.errors import UserError
from hfsched.swap.core.guestpages import open_userfault

__all__ = ["MIB", "PAGE", "userfault"]

PAGE = 4096
MIB = 1 << 20


def userfault() -> int:
    try:
        return open_userfault()
    except UserError:
        return open_userfault(user_mode_only=True)
