"""The outer edge: how other programs on this host talk to a running machine.

`commands` is what the control socket speaks, `command_server` the machine's side of it, `command_client`
the client's.  `runtime_dir` is where a machine's sockets lie, `wire` what is said on those of the ports,
`port_server` (with one `session` for each client) the machine's side of these, `port_client` the client's.
`listener` is the loop of both servers.
`wire`, `runtime_dir` and `port_client` are also imported by clients, so they stay cheap and know no machine.

Whatever comes from a socket is parsed once, here, with bounds and deadlines.
"""
