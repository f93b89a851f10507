"""Utility services over the real ports and mailboxes, with a guest of the engine `script`."""

from __future__ import annotations

from random import Random

import pytest

from hfsched.explore.stepwise import Stepwise
from hfsched.mailbox.ports import PortMessage
from hfsched.scheduler.endpoint import Endpoint
from hfsched.scheduler.outbox import Sent
from hfsched.services.daemons import KeyValues, Simple
from hfsched.services.host import GuestServices
from hfsched.services.utility import Utility, script_guest
from hfsched.services.wire import PORT, ServiceId

from .harness import Harness


class Waiting:
    """A transport that waits for room; a pause would have to wait for it."""

    def __init__(self, runtime: Stepwise) -> None:
        self.room = runtime.event("transport.room")
        self.endpoint: Endpoint | None = None

    def try_send(self, data: bytes) -> bool:
        assert self.endpoint is not None
        return self.endpoint.send(data) is Sent.SENT

    def leave(self) -> None:
        """See `hfsched.services.courier.Transport`."""


@pytest.mark.parametrize("seed", range(4))
def test_a_script_guest_serves(seed: int) -> None:
    runtime = Stepwise()
    with Harness(runtime) as harness:
        values = KeyValues({"os": b"script"})
        simple = Simple()
        utility = Utility({ServiceId.KVP: values, ServiceId.HEARTBEAT: simple})
        guest = harness.vm("g", lambda cpu: script_guest(cpu, utility))
        transport = Waiting(runtime)
        host = GuestServices(runtime, "g", transport)

        def deliver(message: PortMessage) -> None:
            host.deliver(message.payload)

        port = harness.ports.open(guest.id, PORT, deliver)
        transport.endpoint = Endpoint(guest.outbox, port, PORT)
        done: list[bytes] = []

        def program() -> None:
            host.put("role", b"db" * 1000)
            done.append(host.get("os"))
            host.ping(3)

        harness.start()
        host.start()
        runtime.spawn("program", program)
        runtime.shuffle(Random(seed))
        assert done == [b"script"]
        assert values.values["role"] == b"db" * 1000
        assert host.malformed == 0
