"""Where a guest finds its VM's generation id, and which interrupt says that it has changed.

What it is: `hfsched.vmm.generation`.
"""

from __future__ import annotations

__all__ = ["GENERATION_BASE", "GENERATION_INTID", "GENERATION_SIZE"]

GENERATION_BASE = 0x090F_0000  # of a page; QEMU's machine `virt` has nothing there
GENERATION_SIZE = 16  # bytes
GENERATION_INTID = 48
