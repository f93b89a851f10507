"""Numbers and encodings of the guest ABI: facts and no behaviour.

`dialect` says what a generation of the ABI is made of; `ffa_1_0` is one.  This package knows no VM:
it turns registers into the arguments of a named operation, and answers into registers.
"""
