"""Messages from a guest, parsed and brought to their service.  Nothing that a guest sends raises."""

from __future__ import annotations

from collections.abc import Mapping

from hfsched.services.service import ServiceClosedError, UtilityService
from hfsched.services.transaction import Answer, Direction, Status
from hfsched.services.wire import Goodbye, Kind, Message, WireError, decode

__all__ = ["GUEST_TIMEOUT", "Dispatcher"]

GUEST_TIMEOUT = 30_000_000_000  # ns that a daemon of the host has for a guest's request


class Dispatcher:
    """One VM's services; `versions` are {lowest, highest} that the host knows of each.

    `link` sends what belongs to no service.  `malformed` counts messages that cannot be parsed, or that no
    guest may send.
    """

    def __init__(
        self,
        services: Mapping[int, UtilityService],
        versions: Mapping[int, tuple[int, int]],
        link: UtilityService,
    ) -> None:
        self.services = services
        self._versions = versions
        self._link = link
        self.malformed = 0

    def deliver(self, data: bytes) -> None:
        """Take one message of the guest."""
        try:
            message = decode(data)
        except WireError:
            self._refuse(Message(Kind.REFUSE, 0), Status.MALFORMED)
            return
        service = self.services.get(message.service)
        if service is None:
            self._refuse(message, Status.UNSUPPORTED)
            return
        try:
            self._deliver(service, message)
        except ServiceClosedError:
            self._answer(service, message, Status.CLOSED)

    def _deliver(self, service: UtilityService, message: Message) -> None:
        match message.kind:
            case Kind.OFFER:
                self._offer(service, message)
            case Kind.GOODBYE if message.flag == Goodbye.HIBERNATE:
                service.hibernate()
            case Kind.GOODBYE:
                service.daemon_gone()
            case Kind.REQUEST:
                service.asked(message.epoch, message.id, message.body, GUEST_TIMEOUT)
            case Kind.REPLY if message.flag in _STATUSES:
                answer = Answer(Status(message.flag), message.body)
                service.complete(message.epoch, message.id, answer, Direction.HOST)
            case _:
                self._refuse(message, Status.MALFORMED)

    def _offer(self, service: UtilityService, message: Message) -> None:
        """Negotiate: the highest version that both know."""
        low, high = self._versions[message.service]
        version = min(high, message.version)
        if version < max(low, message.flag):
            self._answer(service, message, Status.UNSUPPORTED)
        else:
            service.register(version)

    def _refuse(self, message: Message, status: Status) -> None:
        self.malformed += 1
        self._answer(self._link, message, status)

    def _answer(self, sender: UtilityService, message: Message, status: Status) -> None:
        sender.tell(Message(Kind.REFUSE, message.service, 0, status, message.epoch, message.id))


_STATUSES = frozenset(Status)
