"""The side of a process beside main that maps guest memory.

- `child`: answers the requests of main, and maps the memory.
- `starting`: starts a child of such a process, which main then serves too.
- `gate`: holds up accesses to guest memory while main stages it.
"""
