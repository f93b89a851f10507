"""The monitor: the process that serves page faults and moves pages.

- `controller`: the state machine, one method per request.
- `serving`: the loop that takes requests and does work between them.
- `program`: the entry point of the process.
"""
