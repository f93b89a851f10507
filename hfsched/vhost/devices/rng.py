"""An entropy device (virtio 1.3, section 5.4): it fills what the driver gives with random bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.vhost.device import Device

if TYPE_CHECKING:
    from hfsched.vhost.queue import Queue
    from hfsched.vhost.request import Request

__all__ = ["Rng"]

_BYTES_MAX = 1 << 16  # of a request


class Rng(Device):
    """`draw(n)` returns so many random bytes."""

    type_id = 4

    def __init__(self, draw: Callable[[int], bytes] = os.urandom) -> None:
        self._draw = draw

    def process(self, queue: Queue, request: Request) -> None:  # noqa: ARG002
        """Fill it."""
        request.write(self._draw(min(request.write_size, _BYTES_MAX)))
        request.complete()
