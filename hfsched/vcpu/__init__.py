"""CPUs: an engine runs a guest to its next exit.

`engine` is the protocol; `kvm`, `unicorn` and `script` implement it.  This package knows no mailbox,
no FF-A and no scheduler: a hypercall is an exit with registers.
"""
