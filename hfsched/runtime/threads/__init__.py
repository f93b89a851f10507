"""The runtime of production: threads, descriptors, processes.

`sync` has what threads share, `channel` what processes share, `process` a child process, `spawning` the
side of main to `spawner`, the program that forks them; `runtime` makes them all.  Sleepers
sleep on a futex (a lock of their own); an event that stands beside sockets in `select` gets an
eventfd.
"""

from hfsched.runtime.threads.channel import MESSAGE_MAX, SocketEnd
from hfsched.runtime.threads.runtime import ThreadRuntime, tune_process

__all__ = ["MESSAGE_MAX", "SocketEnd", "ThreadRuntime", "tune_process"]
