"""The vhost-user protocol: its numbers, and its messages as typed values.

Source: the vhost-user specification of QEMU (docs/interop/vhost-user.rst).  Pure: no sockets, no descriptors but as numbers.
"""
