"""Guests written as Python generators, for the engine `script`.

`library` has the calls of `ffa-1.0` as generator functions.  `bundled` names the programs that come
with the project.  They know the guest ABI and nothing of the hypervisor.
"""
