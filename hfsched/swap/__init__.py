"""Guest memory out of RAM and back while guests run: userfaultfd, a swap file, a compressed tier.

Main, the process that runs the VMs, starts a monitor: a process that serves the page faults of
every process that maps guest memory, and moves its pages.

Packages, each of which imports only from those listed above it:

- `pages`: the states of a page and how they change, and the interface of a page store.  Pure.
- `protocol`: the messages between main and the monitor, and between main and a child.  Needs `pages`.
- `core`: the page store: the C core, its Python wrapper, the swap file, memfds.  Needs `pages`.
- `report`: pictures of guest memory, and the RAM that it takes.  Needs `pages`.
- `monitor`: the monitor's side: state machine, serving loop, program.  Needs `protocol`, `core`.
- `client`: main's side: requests, monitor supervision, members.  Needs `protocol`, `core`.
- `child`: the side of another process that maps guest memory.  Needs `protocol`, `core`.

`monitor`, `client` and `child` do not import each other: they share `protocol` alone.  Below this
package are `memory`, `runtime` and `errors`; it knows no hypervisor and no scheduler.
"""
