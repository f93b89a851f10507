"""The sockets of a running machine, for other programs on this host.

Commands: `commands` has the messages of the control socket, `handlers` what each command does,
`command_server` the machine's side, `command_client` the client's.  `events` has the events to subscribe
to, `swap_watch` follows the state of swap for them.

Ports: `wire` has the messages of the port socket, `port_server` (with one `session` for each client) the
machine's side, `pusher` sends to a client, `port_client` is the client's side.

`runtime_dir` has the directories of the sockets, `user_dir` where they are, `listener` the loop of both
servers, `places` which clients they serve.  `wire`, `runtime_dir` and `port_client` are also imported by
clients, so they import little.

Received bytes are parsed once, in this package, with bounds and deadlines.
"""
