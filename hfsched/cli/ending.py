"""The signals that end a command."""

from __future__ import annotations

import signal
from collections.abc import Callable

__all__ = ["handle_ends"]


def handle_ends(handler: Callable[[int, object], object] | signal.Handlers) -> None:
    """Have a handler called for SIGINT, SIGTERM and SIGHUP; a SIGHUP that is ignored (`nohup`) stays so."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
