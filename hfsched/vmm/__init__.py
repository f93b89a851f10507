"""Composition: from a description to a running machine.

`manifest` is the description, `layout` places memory, `guests` finds what is booted, `engines` which
CPUs; `build` makes VMs of it, `assembly` joins them with hypervisor, scheduler and ports, `machine` runs
the whole, `report` counts.  This package knows no terminal and no socket.
"""
