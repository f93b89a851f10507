"""CPUs of arm64 guests on any Linux host, by the Unicorn emulator (the extra `emulator`, GPLv2).

- `library`: finds the shared library, binds the few functions used, and probes its layout.
- `handles`: new instances, with small pages for translated code.
- `machine`: one instance of Unicorn seen from EL2: registers, physical memory, flushes, hooks.
- `stage2`: the translation tables that decide what a VM may touch (pure).
- `exceptions`: syndromes decoded, and how EL1 takes an exception (pure).
- `sysregs`: trapped system registers and instructions (pure).
- `timer`: the virtual timer (pure).
- `traps`: what stops the machine: exits, trapped registers, exceptions of EL1.
- `timerhooks`: accesses to counters and timers.
- `turn`: who executes, and the queue of those that wait.
- `cpu`, `space`, `engine`: the protocol of `hfsched.vcpu.engine`.

Two vCPUs never execute at the same moment: Unicorn's atomics are not atomic across threads.  The
turn is taken for one slice of at most 100 000 instructions, in the order of arrival.

Unicorn is loaded when the first engine is made, not when this package is imported.
"""

from hfsched.vcpu.unicorn.engine import UnicornEngine

__all__ = ["UnicornEngine"]
