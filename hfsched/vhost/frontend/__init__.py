"""A vhost-user front-end: what a VM's virtio transport has behind it when the device is another program.

`wire.py` encodes requests and checks replies, `client.py` asks and waits, `backend.py` has the sequences of the protocol, and
`frontend.py` the task that keeps a device alive while its back-ends come and go.  A back-end is not trusted: whatever it says is
checked, and every wait for it has a deadline.  Nothing here knows a hypervisor, or a type of device.
"""
