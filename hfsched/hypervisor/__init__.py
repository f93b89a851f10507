"""The authority: mailboxes, vCPU states, interrupts and memory ownership of every VM.

It answers the guests' hypercalls (`calls`, and one file for each family of them) and the scheduler
VM's (`interface` is the protocol, `primary` the operations, `hypervisor` the RUN loop).  One lock for each VM guards its mailbox,
its vCPUs' states and its interrupts; it is never held while a guest runs.  This package knows no
function id (that is the dialect's) and does not schedule.
"""
