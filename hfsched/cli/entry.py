"""The first lines of the program, before anything slow is imported.

A Ctrl-C ends the process at once from here on, without a traceback, until a command handles signals.
Missing standard descriptors are replaced, so that no other file gets their numbers: reading yields the
end of input, writing to a missing standard output is an error, standard error may be missing.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in; `signal` is slow to import
import os
import sys

__all__ = ["entry"]


def _leave(number: int, _frame: object) -> None:
    os._exit(128 + number)


for _number in (_signal.SIGINT, _signal.SIGTERM):
    _signal.signal(_number, _leave)


def _descriptors() -> None:
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free descriptor is this one
    # Python has found it closed, and would lose what is printed.
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def entry() -> None:
    """Run as a program."""
    try:
        _descriptors()
        from hfsched.cli.main import main  # noqa: PLC0415 - see above

        sys.exit(main())
    except KeyboardInterrupt:
        os._exit(130)
