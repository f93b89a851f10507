"""vhost-user devices: the protocol, virtio rings, a handler, devices, and what serves them.

A device is a `Device` (`device.py`): it knows neither the protocol nor rings.  A `Handler` (`handler.py`) carries out a
front-end's messages on it, and a `Server` (`server.py`) serves one front-end after another.  Nothing here knows a
hypervisor.  Whatever comes from a front-end or a guest is checked once, in `protocol`, `memory.py` and `ring`.
"""

from __future__ import annotations

from hfsched.vhost.device import Device, Queue, Request
from hfsched.vhost.serving import serve, serve_connected

__all__ = ["Device", "Queue", "Request", "serve", "serve_connected"]
