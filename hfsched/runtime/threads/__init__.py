"""The runtime of production: threads, descriptors, fresh programs.

`sync` has what threads share, `channel` what processes share, `runtime` makes them all.  Sleepers
sleep on a futex (a lock of their own); an event that stands beside sockets in `select` gets an
eventfd.
"""

from hfsched.runtime.threads.channel import MESSAGE_MAX, SocketEnd
from hfsched.runtime.threads.runtime import ThreadRuntime, tune_process

__all__ = ["MESSAGE_MAX", "SocketEnd", "ThreadRuntime", "tune_process"]
