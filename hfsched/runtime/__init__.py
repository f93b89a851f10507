"""Concurrency, time and choice, injected.

`base` is the protocol that every subsystem is written against; `threads` is production.
Nothing outside this room (and the outermost edges) imports `threading`, `time`, `asyncio`,
`multiprocessing` or `subprocess`.
"""
