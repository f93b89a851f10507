"""Guest memory out of RAM and back while guests run: userfaultfd, a swap file, a compressed tier.

- `entries`: what a page can be and how it changes (pure).
- `pages`: what the controller asks of the page store, and is told.

This room knows memory, the runtime and what is observed.  It knows no hypervisor and no scheduler.
"""
