"""Host programs inside the machine's process: each has an endpoint, sends, and reads the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.explore.opaque import opaque_call
from hfsched.scheduler.outbox import Sent

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.scheduler.endpoint import Endpoint
    from hfsched.vmm.machine import Machine

__all__ = ["Host"]

PORT = 1  # of the guest


class Host:
    """Sends {number, n} for n below `messages` to a VM, and reads each answer before the next message.

    It ends early when the machine stops.
    """

    def __init__(
        self, runtime: ExploreRuntime, machine: Machine, number: int, vm: str, messages: int
    ) -> None:
        self._runtime = runtime
        self._machine = machine
        self._number = number
        self.name = f"host.{number}"
        self.vm = vm
        self._messages = messages
        self.sent = 0  # messages that the VM's mailbox has accepted
        self.read = 0  # answers
        self.stopped = False  # the machine stopped before it was through
        self.ended = False

    def run(self) -> None:
        """Be its task."""
        endpoint = opaque_call(self._runtime, self._machine.endpoint(self.vm, PORT))
        for count in range(self._messages):
            self._runtime.retain_only(count)
            if not self._exchange(endpoint, bytes((self._number, count))):
                self.stopped = True
                break
        endpoint.close()
        self.ended = True

    def _exchange(self, endpoint: Endpoint, message: bytes) -> bool:
        """Send a message and read the answer; False: the machine stops."""
        if endpoint.send(message) is not Sent.SENT:
            return False
        self.sent += 1
        self._runtime.retain_only("sent", level=1)
        answer = endpoint.recv()
        if answer is None:
            return False
        assert answer.payload == message, f"{message!r} is answered by {answer.payload!r}"
        self.read += 1
        return True
