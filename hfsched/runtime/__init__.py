"""Concurrency, time and choice, injected.

`base` is the protocol that every subsystem is written against; `threads` is production.
Nothing outside this package (except the outermost layers) imports `threading`, `time`, `asyncio`,
`multiprocessing` or `subprocess`.
"""
