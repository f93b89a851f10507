"""For people: where guest memory is, and how much RAM it takes.

- `picture`: a character for each cell of memory; `svg`: the same as a drawing.
- `footprint`: the RAM of memfds and of processes, as the kernel counts it.
"""
