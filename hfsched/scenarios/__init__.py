"""Scenarios: the production code, assembled as `hfsched run` does, and faulty variants.

One module for each scenario: `mailbox`, `events`, `suspension`, `userhold`, `snapshots`, `ports`, `programs` (drawn by Hypothesis in
`drawing`), `images` and `swap` (with the models of the kernel and of the monitor in `swapmemory`,
`swapstore`, `swapchild` and `swapvariants`).  `machine` builds hypervisor and scheduler, `guests` are
script guests, `variants` historical faults, `memory` RAM that is cheap to create or to rewind,
`recording` shows hypervisor and guests as actors of a story.  Production does not import this package.
"""
