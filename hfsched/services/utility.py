"""A guest's program for all services: what the guest `utility` does, without waiting and without a machine.

It is the model for a guest in another language: take a message out of RX, give it to `receive`, send what
comes back.  `script_guest` is the same as a guest of the engine `script`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hfsched.abi.ffa import PRIMARY_ID
from hfsched.mailbox.ports import HEADER, frame
from hfsched.programs.library import Call, GuestMailbox
from hfsched.services.daemons import Daemon, serve
from hfsched.services.guest import GuestService
from hfsched.services.wire import PORT, Goodbye, Message, ServiceId, WireError, decode, encode

if TYPE_CHECKING:
    from hfsched.vcpu.script import Cpu

__all__ = ["Utility", "script_guest"]


class Utility:
    """A guest's services and the daemons behind them; times are the guest's, in ns."""

    def __init__(self, daemons: Mapping[ServiceId, Daemon]) -> None:
        self.daemons = dict(daemons)
        self.services = {each: GuestService(each) for each in daemons}

    def start(self) -> list[bytes]:
        """Return the offers, also when the guest is back from its hibernation."""
        return [encode(each.offer()) for each in self.services.values()]

    def receive(self, data: bytes, now: int) -> list[bytes]:
        """Take a message; return what is to be sent."""
        self.tick(now)
        try:
            message = decode(data)
            number = ServiceId(message.service)
        except (WireError, ValueError):
            return []  # a host of another version, or the answer to something that was no message
        service = self.services.get(number)
        request = None if service is None else service.receive(message)
        if service is None or request is None:
            return []
        return [self._serve(number, service, request, now)]

    def _serve(self, number: ServiceId, service: GuestService, request: Message, now: int) -> bytes:
        answer = serve(self.daemons[number], number, request.body, now)
        return encode(service.reply(request, answer))

    def tick(self, now: int) -> None:
        """Do what is due: a guest that nobody thaws thaws by itself."""
        for daemon in self.daemons.values():
            daemon.tick(now)

    def hibernate(self) -> list[bytes]:
        """Go: what is frozen thaws, what is half copied is removed; return what to send before.

        Send it by the same vCPU as `start`'s offers later, which keeps their order.
        """
        for daemon in self.daemons.values():
            daemon.cancel()
        return [encode(each.goodbye(Goodbye.HIBERNATE)) for each in self.services.values()]


def script_guest(cpu: Cpu, utility: Utility) -> Call[None]:
    """Be a guest of the engine `script` with one vCPU that serves."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    outgoing = utility.start()
    while True:
        for data in outgoing:
            yield from mailbox.send(PRIMARY_ID, frame(PORT, PORT, data))
        _, message = yield from mailbox.wait()
        yield from mailbox.release()
        outgoing = utility.receive(message[HEADER.size :], 0)
