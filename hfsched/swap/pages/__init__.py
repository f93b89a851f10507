"""The states of a page and how they change; the interface of a page store.  Pure Python.

- `entries`: the page table in Python, the reference for the one in C.
- `store`: the interface of a page store, which the monitor's controller uses.
"""
