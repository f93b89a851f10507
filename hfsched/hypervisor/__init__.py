"""The authority: mailboxes, vCPU states, interrupts and memory ownership of every VM.

It answers the guests' hypercalls (`calls`, and one file for each family of them) and the scheduler
VM's (`interface` says what that one may do, `hypervisor` does it).  One lock for each VM guards its mailbox,
its vCPUs' states and its interrupts; it is never held while a guest runs.  This room knows no
function id (that is the dialect's) and decides nothing about who runs.
"""
