"""The exploring runtime: production code under every interleaving.

`runtime` implements `hfsched.runtime.base.Runtime` with greenlets; each operation is a scheduling
point at which a `strategies` object decides who goes next.  `objects` are its locks, events, cells
and channels; `task` its tasks; `execution` runs one schedule of a scenario and says how it ended.

It needs the package greenlet (the extra `explore`).  It knows no terminal.
"""
