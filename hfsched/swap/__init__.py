"""Guest memory that is swapped out while the guest runs on.

Main, the process that runs the VM, starts a monitor, a fresh program that serves the page faults of
every process that maps guest memory.  `messages` is what the two say, `controller` the monitor's
state machine, `owner` main's side of it.

This room knows memory, runtime and observe; no hypervisor, no scheduler, no vmm.
"""
