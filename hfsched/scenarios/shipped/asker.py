"""Host programs that ask a guest for its utility services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.services.bodies import KvpOp, KvpRequest, pack
from hfsched.services.copying import ServiceError
from hfsched.services.transaction import Status
from hfsched.services.wire import ServiceId
from hfsched.vmm.utilities import NotOfferedError

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.services.host import GuestServices
    from hfsched.vmm.machine import Machine

__all__ = ["Asker", "Copier"]


class Asker:
    """Asks `asks` times, one after the other; each request gets one answer, which is its own.

    It ends early when the machine stops.
    """

    def __init__(
        self, runtime: ExploreRuntime, machine: Machine, asks: int, name: str = "asker"
    ) -> None:
        self.name = name
        self._runtime = runtime
        self._machine = machine
        self._asks = asks
        self.answers: list[Status] = []
        self.stopped = False
        self.ended = False
        runtime.declare_records(self.answers, reason="what the oracles compare")

    def run(self) -> None:
        """Be its task."""
        for count in range(self._asks):
            self._runtime.retain_only(count)
            try:
                status = self._ask(count)
            except NotOfferedError:
                self.stopped = True  # it has ended
                break
            self.answers.append(status)
        self.ended = True

    def _services(self, number: ServiceId) -> GuestServices:
        return self._machine.services[self._machine.vm_names()[0]].offering(number)

    def _ask(self, count: int) -> Status:
        try:
            self._once(count)
        except ServiceError as exc:
            self.stopped = self.stopped or exc.status is Status.CLOSED
            return exc.status
        return Status.OK

    def _once(self, count: int) -> None:
        request = KvpRequest(KvpOp.GET, str(count))
        found = self._services(ServiceId.KVP).ask("ask", request)
        assert found == pack(request)[1], f"request {count} is answered {found!r}"

    def check(self, *others: Status) -> None:
        """Check the end; `others` are ends of a request that may be too."""
        known = {Status.OK, Status.CLOSED, *others}
        assert set(self.answers) <= known, f"the answers are {self.answers}"
        assert self.stopped or len(self.answers) == self._asks, f"only {self.answers} are answered"


class Copier(Asker):
    """Copies a file into the guest, which takes one at a time: it is busy for a second one."""

    def _once(self, count: int) -> None:
        self._services(ServiceId.FILE).copy(f"{self.name}.{count}", 1, [b"x"])
