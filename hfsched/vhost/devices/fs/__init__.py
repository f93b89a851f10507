"""A file system device (virtio 1.3, section 5.11): a directory of the host, shared by FUSE requests in a queue.

- `wire`: the requests and replies of FUSE, as bytes.
- `calls`: system calls that `os` has not.
- `inodes`: what the guest knows by node id; `handles`: what it has open.
- `names`, `contents`: the operations on directories' entries, and on files and attributes.
- `state`: all of that as it travels to another process.
- `device`: the device.

The guest never names a path: each step is from a descriptor to one entry of it, and follows no symbolic link.
"""

from __future__ import annotations

from hfsched.vhost.devices.fs.device import TAG_MAX, Fs

__all__ = ["TAG_MAX", "Fs"]
