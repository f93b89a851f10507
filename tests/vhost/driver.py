"""A vhost-user front-end with drivers of its rings, for tests of devices without a VM.

    with FrontEnd(Upper()) as front:
        assert front.request(b"abc", room=16) == b"ABC"

The device is served by a `Session` on a task of a `ThreadRuntime`, as in production: messages go over a socket pair, rings and
buffers lie in a memfd, kicks and calls are eventfds.  Rings are split ones; `features` may have EVENT_IDX.
All that waits gives up after `WITHIN` seconds (TimeoutError).
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from driver_guest import PROTOCOL, WITHIN, RemoteFrontEnd
from driver_messages import RefusedByDeviceError
from driver_ring import RingDriver

from hfsched.runtime.threads import ThreadRuntime
from hfsched.vhost import Device
from hfsched.vhost.serving import Session

__all__ = ["PROTOCOL", "WITHIN", "FrontEnd", "RefusedByDeviceError", "RemoteFrontEnd", "RingDriver"]


class FrontEnd(RemoteFrontEnd):
    """One front-end of a device, which stays the caller's and must be served by nobody else.

    With `start` it acknowledges `features` (what is offered of them) and starts all queues.  `notices` is what the session has said;
    an exception that has left its task is raised by `close`.
    """

    def __init__(
        self,
        device: Device,
        *,
        size: int = 64,
        features: int = -1,
        protocol: int = int(PROTOCOL),
        start: bool = True,
    ) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours, device.queues, size=size, features=features, start=False)
        self.device = device
        self.failures: list[BaseException] = []
        self._runtime = ThreadRuntime(lambda _name, exc: self.failures.append(exc))
        self._closing = self._runtime.event("closing")
        self.session = Session(
            self._runtime,
            device,
            self._runtime.adopt_connection("front-end", theirs.detach()),
            self._closing,
            notice=self.notices.append,
        )
        self.task = self._runtime.spawn("device", self._serve)
        if start:
            self.begin(features, protocol)

    def _serve(self) -> None:
        self.session.run()

    def close(self, *, check: bool = True) -> None:
        """Be gone, as a process that ends; wait until the session has ended."""
        self._socket.close()
        ended = self.task.join(self._runtime.now() + int(WITHIN * 1e9))
        super().close(check=check)
        self._closing.close()
        self._runtime.close()
        if check:
            assert ended, "the session does not end"
            for each in self.failures:
                raise each

    def on_device(self, work: Callable[[], None]) -> None:
        """Do something on the device's task, which must not be suspended; wait for its end."""
        done = self._runtime.event("done")

        def do() -> None:
            try:
                work()
            finally:
                done.set()

        self.session.post(do)
        assert done.wait(self._runtime.now() + int(WITHIN * 1e9)), "what was posted is not done"
        done.close()
