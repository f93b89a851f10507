"""Mailboxes: the RX/TX state machine, the scheduler's mirror of it, and the host's ports.

`mailbox` is the hypervisor's half of a mailbox, `mirror` the scheduler's; they communicate only
through the primary's interface.  `ports` queues what is for the host.  This package knows no CPU.
"""
