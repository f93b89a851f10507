"""A socket device (virtio 1.3, section 5.10): streams between a guest's vsock ports and Unix sockets of the host.

`packet` has packets, `stream` one connection's state machine, `streams` all of a guest's, `greeting` what a host program says
first: these know no sockets.  `callers` has the programs that have not said it yet, `link` a stream's socket, `device` the device.
"""

from hfsched.vhost.devices.vsock.device import Vsock

__all__ = ["Vsock"]
