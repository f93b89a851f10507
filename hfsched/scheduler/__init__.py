"""The scheduler VM: one loop for each vCPU, and the host's path to the guests.

It knows the hypervisor through the primary's interface alone, and mailboxes through its mirrors.
`driver` runs vCPUs and delivers; `outbox` is the host's side of a mailbox; `endpoint` is what a
host program holds.  It never touches a CPU or guest memory.
"""
