"""A userfaultfd of this process, with the fewest privileges that are enough."""

from __future__ import annotations

from hfsched.errors import UserError
from hfsched.swap.core.guestpages import open_userfault

__all__ = ["userfault"]


def userfault(*, kernel: bool) -> int:
    """Return a userfaultfd; raises UserError.

    `kernel`: faults of the kernel (KVM, system calls) must be served, which takes more privileges;
    else one that serves only faults in user mode is enough.
    """
    try:
        return open_userfault()
    except UserError:
        if kernel:
            raise
    return open_userfault(user_mode_only=True)
