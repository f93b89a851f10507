"""Guest memory, and what is put into it at start: RAM, images, device trees.

The host accesses guest memory only through `ram`.  This package knows no VM and no CPU.
"""
