"""The first lines of a fresh program: ``python -m hfsched.runtime.child MODULE:FUNCTION FD...``.

It calls the function with a `ThreadRuntime` and one channel end for each descriptor.
"""

from __future__ import annotations

import importlib
import socket
import sys

from hfsched.runtime.threads import SocketEnd, ThreadRuntime


def main(argv: list[str]) -> None:
    """Run ``argv[0]`` (module:function) with the ends on the descriptors ``argv[1:]``."""
    module, _, name = argv[0].partition(":")
    target = importlib.import_module(module)
    for part in name.split("."):
        target = getattr(target, part)
    ends = [SocketEnd(socket.socket(fileno=int(fd))) for fd in argv[1:]]
    target(ThreadRuntime(), *ends)  # type: ignore[operator]


if __name__ == "__main__":
    main(sys.argv[1:])
