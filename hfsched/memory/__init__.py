"""Guest memory, and what is put into it at start: RAM, images, device trees.

The host touches guest memory through `ram` alone.  This room knows no VM and no CPU.
"""
