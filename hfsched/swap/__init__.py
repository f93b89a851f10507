"""Guest memory out of RAM and back while guests run: userfaultfd, a swap file, a compressed tier.

Main, the process that runs the VM, starts a monitor, a fresh program that serves the page faults of
every process that maps guest memory.

- `entries`: what a page can be and how it changes (pure).
- `pages`: what the controller asks of the page store, and is told.
- `messages`: what main and the monitor say to each other.
- `controller`: the monitor's state machine; `serving`: its loop.
- `owner`: main's side; `keeper`: how it keeps a monitor alive.

This room knows memory, the runtime and what is observed.  It knows no hypervisor and no scheduler.
"""
