"""CPUs: what runs a guest to its next exit.

`engine` is the protocol; `unicorn` and `script` implement it.  This room knows no mailbox, no
FF-A and no scheduler: a hypercall is an exit with registers.
"""
