"""hfsched: a Hafnium-style hypervisor mailbox scheduler in user space."""

__version__ = "0.1.0"
