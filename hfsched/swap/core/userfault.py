"""A userfaultfd of this process, of the kind that this user may have and that is enough."""

from __future__ import annotations

from hfsched.errors import UserError
from hfsched.swap.core.guestpages import open_userfault

__all__ = ["userfault"]


def userfault(*, kernel: bool) -> int:
    """Return a userfaultfd; raises UserError.

    `kernel`: accesses from inside the kernel (KVM, system calls) must be served, which takes more
    privileges; else one that serves this process's own alone will do.
    """
    try:
        return open_userfault()
    except UserError:
        if kernel:
            raise
    return open_userfault(user_mode_only=True)
