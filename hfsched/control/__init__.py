"""The outer edge: how other programs on this host talk to a running machine.

`commands` is what the control socket speaks, `commandserver` the machine's side of it, `commanding`
the client's.  `places` is where a machine's sockets lie, `wire` what is said on those of the ports,
`portserver` (with one `session` for each client) the machine's side of these, `dialing` the client's.
`accepting` is the loop of both servers.
`wire`, `places` and `dialing` are also imported by clients, so they stay cheap and know no machine.

Whatever comes from a socket is parsed once, here, with bounds and deadlines.
"""
