"""Utility services of guests that are no good, and the end of services."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest
from life import (
    RECORDING,
    WITHIN,
    Life,
    S,
    life_on,
    refusal,
)

from hfsched.errors import UserError
from hfsched.mailbox.ports import HEADER, frame
from hfsched.programs.library import GuestMailbox, swap_ports
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.outbox import Sent
from hfsched.services.copying import ServiceError
from hfsched.services.guest import GuestService
from hfsched.services.transaction import Status
from hfsched.services.wire import PORT, Goodbye, Kind, Message, ServiceId, decode, encode
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import MachineSpec, VmSpec
from hfsched.vmm.records import MachineRecord
from hfsched.vmm.saving import restore, save, spec_of


@pytest.fixture(params=["script", "unicorn", "kvm"])
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    with life_on(request.param) as made:
        yield made


# Guests that are no good.


def service_threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if ".services." in thread.name)


def test_services_end_with_their_machine(life: Life) -> None:
    services = life.ready()
    assert len(service_threads()) == 3
    assert life.say("mute 2") == "mute"
    under_way = life.asked(lambda: services.get("os"))
    waits = life.asked(lambda: services.get("os"))
    life.until(lambda: services.services[ServiceId.KVP].save().requests == 2)
    assert life.machine.stop() == []
    assert under_way.wait() is Status.CLOSED
    assert waits.wait() is Status.CLOSED
    assert refusal(lambda: life.services) == "vm u: it has ended"
    assert service_threads() == []


def script(guest: str, runtime: ThreadRuntime, **options: object) -> Machine:
    vm = VmSpec(image=f"{__name__}:{guest}", name="g", memory=1 << 16)
    spec = MachineSpec(vm=[vm], engine="script")
    spec.check("test")
    return Machine(spec, runtime, lambda _vm, _line: None, parts=RECORDING, **options)  # type: ignore[arg-type]


def silent(cpu):  # type: ignore[no-untyped-def]
    """Send bytes that are no offer to the port, and answer messages to others."""

    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    for data in (b"", b"HU", encode(Message(Kind.GOODBYE, 1, flag=Goodbye.HIBERNATE))):
        yield from mailbox.send(1, frame(PORT, PORT, data))
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data))


def mortal(cpu):  # type: ignore[no-untyped-def]
    """Offer, and end at the first request."""

    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    service = GuestService(1)
    yield from mailbox.send(1, frame(PORT, PORT, encode(service.offer())))
    while True:
        _, data = yield from mailbox.wait()
        yield from mailbox.release()
        if service.receive(decode(data[HEADER.size :])) is not None:
            return


@pytest.fixture
def runtime() -> Iterator[ThreadRuntime]:
    failures: list[str] = []
    yield ThreadRuntime(lambda task, error: failures.append(f"{task}: {error!r}"))
    assert failures == []


def test_a_guest_that_offers_nothing_costs_nothing(runtime: ThreadRuntime) -> None:
    with script("silent", runtime) as machine:
        machine.start()
        end = machine.endpoint("g", 1)
        assert end.send(b"x", runtime.now() + WITHIN) is Sent.SENT
        assert end.recv(runtime.now() + WITHIN) is not None
        assert machine.services["g"].made is None
        assert service_threads() == []
        assert not machine.services.freeze("g", 1000)
        machine.services.thaw("g")
        offering = machine.services["g"].offering
        assert refusal(lambda: offering(ServiceId.FILE)) == "vm g: its guest offers no file copy"
        assert refusal(lambda: machine.services["h"]) == "no VM 'h' here: there is g"
        with machine.suspension.held("test"):
            assert save(machine).vms[0].services is None


def test_the_end_of_a_vm_ends_its_transactions(runtime: ThreadRuntime) -> None:
    ended = threading.Event()
    options = {"on_abort": lambda _vm, _why: ended.set()}
    with script("mortal", runtime, **options) as machine:
        machine.start()
        deadline = runtime.now() + WITHIN
        services = None
        while services is None or not services.offers(ServiceId.KVP):
            services = machine.services["g"].made
            assert runtime.now() < deadline
        with pytest.raises(ServiceError) as found:
            services.get("os")
        assert found.value.status is Status.CLOSED
        assert ended.wait(WITHIN / S)
        assert "it has ended" in refusal(partial(machine.services["g"].offering, ServiceId.KVP))
        with machine.suspension.held("snapshot", frozen=True):
            record = save(machine)
            memory = machine.rams["g"].read(0, machine.rams["g"].size)
    with Machine(
        spec_of(record), runtime, lambda _vm, _line: None, parts=RECORDING, saved=record
    ) as again:
        again.rams["g"].write(0, memory)
        restore(again, record)
        again.start()
        with pytest.raises(UserError):
            again.services["g"].offering(ServiceId.KVP)


def test_a_record_from_before_there_were_services_is_readable(runtime: ThreadRuntime) -> None:
    with script("silent", runtime) as machine:
        machine.start()
        with machine.suspension.held("test"):
            plain = msgspec.msgpack.decode(msgspec.msgpack.encode(save(machine)))
    del plain["vms"][0]["services"]
    old = msgspec.msgpack.decode(msgspec.msgpack.encode(plain), type=MachineRecord)
    assert old.vms[0].services is None
