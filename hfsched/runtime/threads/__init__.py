"""The production runtime: threads, descriptors, processes.

`sync` has locks, events and cells, `channel` channels, `process` a child process, `spawning` main's side
of `spawner`, the program that forks them; `runtime` creates them all.  A sleeping thread waits on a
futex (a lock that no other thread waits for); an event that is passed to `select` gets an eventfd.
`stalls` ends a thread's work that makes no progress, for the explorer.
"""

from hfsched.runtime.threads.channel import MESSAGE_MAX, SocketEnd
from hfsched.runtime.threads.runtime import ThreadRuntime, tune_process

__all__ = ["MESSAGE_MAX", "SocketEnd", "ThreadRuntime", "tune_process"]
