"""Guest memory out of RAM and back while guests run: userfaultfd, a swap file, a compressed tier.

Main, the process that runs the VM, starts a monitor, a fresh program that serves the page faults of
every process that maps guest memory, and moves pages.

- `entries`: what a page can be and how it changes (pure).
- `pages`: what the controller asks of the page store, and is told.
- `messages`: what main and the monitor say to each other.
- `controller`: the monitor's state machine; `serving`: its loop.
- `owner`: main's side; `keeper`: how it keeps a monitor alive; `resources`: what it gives each.
- `monitor`: the program.
- `mainmember`: main as a process that maps guest memory.
- `child`: the side of another process that maps guest memory; `member`: main's side of it;
  `childmessages`: what they say to each other; `userfault`: the uffd that a process may have.
- `picture`, `svg`: where guest memory is, for people; `footprint`: how much RAM it all takes.
- `device`: whether the extension is there, and the compressed tier's library.
- `table`: the page table in C, as `entries` has it.
- `stores`: the swap file and the memory that outlives whoever serves the pages.
- `guestpages`: `pages` in production, over the C core.
- `core.h` with `table.c`, `uffd.c`, `stores.c`, `members.c`, `swap.c`; `serve.c` and `fault.c` (the
  thread that serves faults); `takeover.c`, `enable.c`, `trim.c`, `out.c`, `in.c`, `ahead.c`
  (the worker).  Mechanism alone.
- `build_core`: the cffi extension `_core` made of them.

This room knows memory, the runtime and what is observed.  It knows no hypervisor and no scheduler.
"""
