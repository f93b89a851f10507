"""Host programs inside the machine's process, each a task: they send, listen, and suspend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hfsched.explore.opaque import opaque_call
from hfsched.hypervisor.interface import Aborted, Busy, DirectResponse, Invalid
from hfsched.scenarios.machine import WITHIN
from hfsched.scenarios.shipped.guests import PORT, TALKED
from hfsched.scenarios.shipped.world import executing
from hfsched.scheduler.outbox import Sent

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.mailbox.ports import PortMessage
    from hfsched.runtime.base import Event
    from hfsched.scheduler.endpoint import Endpoint
    from hfsched.vmm.machine import Machine

__all__ = ["SENDS", "Host", "Listener", "Prober", "Reporter", "Requester", "Suspender"]

_Send = Callable[["ExploreRuntime", "Endpoint", bytes], Sent]
SENDS: dict[str, _Send] = {
    "wait": lambda _runtime, endpoint, message: endpoint.send(message),
    "deadline": lambda runtime, endpoint, message: endpoint.send(message, runtime.now() + WITHIN),
    "try": lambda _runtime, endpoint, message: endpoint.try_send(message),
}


class Host:
    """Sends {number, n} for n below `messages` to a VM, and reads its `answers` before the next message.

    It ends early when the machine stops, or the VM has aborted.  `sends` is one of `SENDS`.  It reads nothing
    before all of `before` are through.
    """

    def __init__(
        self,
        runtime: ExploreRuntime,
        machine: Machine,
        number: int,
        vm: str,
        *,
        messages: int,
        answers: int,
        sends: str,
        before: Sequence[Event] = (),
    ) -> None:
        self._runtime = runtime
        self._machine = machine
        self._number = number
        self._before = before
        self.through = runtime.event(f"host.{number}.through")
        self.name = f"host.{number}"
        self.vm = vm
        self._messages = messages
        self._answers = answers
        self._send = SENDS[sends]
        self.sent = 0  # messages that the VM's mailbox has accepted
        self.busy = 0  # messages that were not sent by their deadline
        self.read = 0  # answers
        self.stopped = False  # the machine stopped before it was through
        self.ended = False

    def run(self) -> None:
        """Be its task."""
        endpoint = opaque_call(self._runtime, self._machine.endpoint(self.vm, PORT))
        for count in range(self._messages):
            self._runtime.retain_only(count, self.busy)
            if not self._exchange(endpoint, bytes((self._number, count))):
                self.stopped = True
                break
        endpoint.close()
        self.through.set()
        self.ended = True

    def _exchange(self, endpoint: Endpoint, message: bytes) -> bool:
        """Send a message and read the answers; False: the machine stops, or the VM is dead."""
        sent = self._send(self._runtime, endpoint, message)
        if sent is Sent.BUSY:
            self.busy += 1
            return True
        if sent is Sent.DEAD:
            return False
        self.sent += 1
        for other in self._before:
            other.wait()
        for count in range(self._answers):
            self._runtime.retain_only("sent", count, level=1)
            answer = endpoint.recv()
            if answer is None:
                return False
            assert answer.payload == message, f"{message!r} is answered by {answer.payload!r}"
            self.read += 1
        return True


class Listener:
    """Opens the port that a ``talker`` sends to, reads `messages`, with a handler or not, and closes it.

    It begins to read when `after` is set, if that is given.
    """

    name = "listener"

    def __init__(
        self,
        runtime: ExploreRuntime,
        machine: Machine,
        vm: str,
        messages: int,
        *,
        handler: bool,
        after: Event | None = None,
    ) -> None:
        self._runtime = runtime
        self._machine = machine
        self._vm = machine.vm_names().index(vm)
        self._messages = messages
        self._handler = handler
        self._after = after
        self.read = 0
        self.stopped = False
        self.ended = False

    def run(self) -> None:
        """Be its task."""
        assembly = self._machine.assembly
        number = assembly.vms[self._vm].id
        if self._handler:
            through = self._runtime.event("listener.through")
            port = assembly.ports.open(number, TALKED, lambda got: self._handle(got, through))
            self._runtime.select([through, port.arrived])
            self.stopped = not through.is_set()  # a thread may be in the handler still
        else:
            port = assembly.ports.open(number, TALKED)
            if self._after is not None:
                self._after.wait()
            for count in range(self._messages):
                self._runtime.retain_only(count)
                got = opaque_call(self._runtime, port).get()
                if got is None:
                    break
                self._take(got)
            self.stopped = self.read < self._messages
        port.close()
        self.ended = True

    def _handle(self, got: PortMessage, through: Event) -> None:
        self._take(got)
        if self.read == self._messages:
            through.set()

    def _take(self, got: PortMessage) -> None:
        assert got.payload == bytes([self.read]), f"message {self.read} is {got.payload!r}"
        self.read += 1


class Requester:
    """Makes direct requests of a VM's vCPU 0, `deadlines`: each with one.

    If it is `alone`, and they have none, the guest has had no more of them than were answered.
    """

    def __init__(
        self,
        runtime: ExploreRuntime,
        machine: Machine,
        number: int,
        requests: int,
        *,
        deadlines: bool,
        alone: bool,
    ) -> None:
        self._alone = alone and not deadlines
        self.name = f"requester.{number}" if number else "requester"
        self._runtime = runtime
        self._number = number
        self._machine = machine
        self._requests = requests
        self._deadlines = deadlines
        self.stopped = False
        self.ended = False

    def run(self) -> None:
        """Be its task."""
        machine = self._machine
        answers = 0
        for count in range(self._requests):
            self._runtime.retain_only(count, answers)
            deadline = self._runtime.now() + WITHIN if self._deadlines else None
            words = (count, self._number, 0, 0, 0)
            result = machine.driver.direct_request(machine.assembly.vms[0].id, 0, words, deadline)
            if isinstance(result, DirectResponse):
                answers += 1
                *same, served = result.words
                assert tuple(same) == words[:-1], f"{words} is answered by {result.words}"
                assert not self._alone or served == answers, f"{served} served, {answers} answered"
            elif result is None:
                assert self._deadlines, "a direct request has no result"
            else:
                assert isinstance(result, Aborted | Busy | Invalid), f"{result}"
        self.ended = True


class Prober:
    """Asks a vCPU's thread for its program counter, as whoever finds out what a guest does."""

    name = "prober"

    def __init__(self, runtime: ExploreRuntime, machine: Machine, probes: int) -> None:
        self._runtime = runtime
        self._machine = machine
        self._probes = probes
        self.through = runtime.event("prober.through")
        self.stopped = False
        self.ended = False

    def run(self) -> None:
        """Be its task."""
        vm = self._machine.vm_names()[0]
        for count in range(self._probes):
            self._runtime.retain_only(count)
            self._machine.program_counter(f"{vm}.0")  # None, once the machine has stopped
        self.through.set()
        self.ended = True


class Reporter:
    """Asks what the machine does, as what shows and ends it: each answer is one of some moment."""

    name = "reporter"

    def __init__(self, runtime: ExploreRuntime, machine: Machine, reports: int) -> None:
        self._runtime = runtime
        self._machine = machine
        self._reports = reports
        self.stopped = False
        self.ended = False

    def run(self) -> None:
        """Be its task."""
        machine = self._machine
        for count in range(self._reports):
            self._runtime.retain_only(count)
            machine.quiet()
            machine.active()
            machine.vm_states()
            for vm in machine.assembly.vms:
                machine.ports.counts(vm.id)
        self.ended = True


class Suspender:
    """Holds the machine suspended `rounds` times; meanwhile no vCPU executes.

    With `probes` it asks a vCPU's thread something meanwhile, as a debugger does.
    """

    def __init__(
        self, runtime: ExploreRuntime, machine: Machine, number: int, rounds: int, *, probes: bool
    ) -> None:
        self._probes = probes
        self._runtime = runtime
        self._machine = machine
        self.name = f"suspender.{number}"
        self._rounds = rounds
        self.holds = False
        self.stopped = False
        self.ended = False

    def run(self) -> None:
        """Be its task."""
        for count in range(self._rounds):
            self._runtime.retain_only(count)
            with self._machine.suspension.held(self.name):
                self.holds = True
                self._runtime.checkpoint("suspended")
                if self._probes:
                    vm = self._machine.vm_names()[0]
                    self._machine.program_counter(f"{vm}.0")
                self.holds = False
        self.ended = True

    def look(self) -> None:
        """Check, for every step, that nothing runs while it holds the machine."""
        if self.holds:
            for vm in self._machine.assembly.vms:
                running = executing(vm)
                assert not running, f"vCPU {running[0]} is in RUN, held by {self.name}"
