"""The side of main, the process that runs the VMs.

- `errors`: `SwapError`, `LostError`.
- `suspension`: the interface by which the machine is suspended.
- `member`: the interface of a process that maps guest memory; `mainmember`: main itself;
  `childmember`: another process, over a channel; `memberset`: all of the latter.
- `newcomers`: processes that the latter have started; `arrivals`: what is checked of each; `descriptors`: what a
  descriptor is that another process has sent.
- `supervisor`: starts the monitor, and replaces it when it dies.
- `client`: requests to the monitor, from any task.
"""
