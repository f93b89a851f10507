"""Worlds for the explorer: the production code, assembled as `hfsched run` does, and faulty variants.

One module a scenario: `mailbox`, `events`, `programs` (drawn by Hypothesis in `drawing`), `images`
and `swap` (with what `swapmemory`, `swapstore`, `swapchild` and `swapvariants` model of the
kernel and of the monitor).  `machine` builds hypervisor and scheduler, `guests` are script guests,
`variants` historical mistakes, `memory` RAM that is cheap to make or to rewind, `recording` names
hypervisor and guests as actors of a story.  Nothing but the explorer imports this package.
"""
