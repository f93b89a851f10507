"""The page store: the C core and what it works on.

- `core.h`: the interface of the C core; `layers.h` lists its files.
- `build_core`: builds the cffi extension `_core` from them; `device` loads it.
- `table`: the page table in C, with the methods of `hfsched.swap.pages.entries.PageTable`.
- `stores`: the swap file, and the memfds that outlive a monitor.
- `guestpages`: `hfsched.swap.pages.store.Pages` over the C core.
- `resources`: the descriptors that a page store is made of, as main hands them to a monitor.
- `userfault`: a userfaultfd of this process.
"""
