"""Composition: from a description to a running machine.

`manifest` is the description, `layout` where memory goes, `engines` which CPUs, `machine` the
whole, running.  This room knows no terminal and no socket.
"""
