"""The outer edge: how other programs on this host talk to a running machine.

`places` is where a machine's sockets lie, `wire` what is said on them, `portserver` (with one
`session` for each client) the machine's side of the host ports, `dialing` the client's.  `wire`,
`places` and `dialing` are also imported by clients, so they stay cheap and know no machine.

Whatever comes from a socket is parsed once, here, with bounds and deadlines.
"""
