"""An arm64 machine of QEMU whose kernel runs at EL2, to run this project on real arm64 KVM.

`script/qemu` is the way in; `README.md` says how to use it. This folder builds the machine's kernel
and file system from Debian and PyPI packages, starts QEMU and brings back what a command printed
and how it ended. It never imports hfsched, needs the standard library only, and is no part of
the wheel.
"""

__all__ = ["MachineError"]


class MachineError(Exception):
    """The machine cannot be built or started; the message says why and what to do."""
