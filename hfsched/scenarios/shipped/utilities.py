"""Guests of the scenario `machine` that offer utility services.

- ``utility``: offers a service, and answers each request with its own body;
- ``hibernator``: the same, but hibernates and comes back before it answers the first;
- ``twins``: as ``utility``, but both vCPUs offer it, at the same time;
- ``files``: receives files.
"""

from __future__ import annotations

from hfsched.abi.ffa import PRIMARY_ID, PsciId
from hfsched.mailbox.ports import HEADER, frame
from hfsched.programs.library import Call, GuestMailbox
from hfsched.services.daemons import FileReceiver, serve
from hfsched.services.guest import GuestService
from hfsched.services.transaction import Answer, Status
from hfsched.services.wire import PORT, Goodbye, Message, ServiceId, decode, encode
from hfsched.vcpu.script import Cpu, Guest, Hvc

__all__ = ["files", "hibernator", "twins", "utility"]


def utility(cpu: Cpu) -> Guest:
    """Offer a service, and answer each request with its own body."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from _offer(mailbox, hibernations=0)


def hibernator(cpu: Cpu) -> Guest:
    """Be ``utility``, but hibernate before the first answer, which is stale then."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from _offer(mailbox, hibernations=1)


def twins(cpu: Cpu) -> Guest:
    """Be ``utility``, while vCPU 1 offers the service too: TX has the same offer, whoever wrote it last."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield Hvc(PsciId.CPU_ON, 1, cpu.address_of(_twin), mailbox.id)
    yield from _offer(mailbox, hibernations=0)


def _twin(cpu: Cpu) -> Guest:
    mailbox = GuestMailbox(cpu)
    mailbox.id = cpu.arg
    yield from _tell(mailbox, GuestService(ServiceId.KVP).offer())
    yield Hvc(PsciId.CPU_OFF)


def _offer(mailbox: GuestMailbox, hibernations: int) -> Call[None]:
    service = GuestService(ServiceId.KVP)
    yield from _tell(mailbox, service.offer())
    while True:
        _, data = yield from mailbox.wait()
        yield from mailbox.release()
        request = service.receive(decode(data[HEADER.size :]))
        if request is None:
            continue
        if hibernations:
            hibernations -= 1
            yield from _tell(mailbox, service.goodbye(Goodbye.HIBERNATE))
            yield from _tell(mailbox, service.offer())
        yield from _tell(mailbox, service.reply(request, Answer(Status.OK, request.body)))


def _tell(mailbox: GuestMailbox, message: Message) -> Call[None]:
    yield from mailbox.send(PRIMARY_ID, frame(PORT, PORT, encode(message)))


class _NoFiles:
    """Where files go: what is received is checked, and forgotten."""

    def begin(self, name: str, mode: int, size: int) -> bool:
        del name, mode, size
        return True

    def write(self, offset: int, data: bytes) -> bool:
        del offset, data
        return True

    def commit(self) -> bool:
        return True

    def remove(self) -> None:
        pass


def files(cpu: Cpu) -> Guest:
    """Receive files, one at a time."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    service, receiver = GuestService(ServiceId.FILE), FileReceiver(_NoFiles())
    yield from _tell(mailbox, service.offer())
    while True:
        _, data = yield from mailbox.wait()
        yield from mailbox.release()
        request = service.receive(decode(data[HEADER.size :]))
        if request is not None:
            answer = serve(receiver, ServiceId.FILE, request.body, 0)
            yield from _tell(mailbox, service.reply(request, answer))
