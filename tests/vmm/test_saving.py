"""A machine saved at any instant, and put back into another one, goes on as if nothing had happened."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from progress import QUIET_NS

from hfsched.errors import SnapshotError, UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.endpoint import Endpoint
from hfsched.scheduler.outbox import Sent
from hfsched.snapshot.directory import make_layer, open_chain
from hfsched.snapshot.index import Component
from hfsched.snapshot.layer import LayerWriter
from hfsched.vcpu.kvm import device
from hfsched.vmm import snapshotting
from hfsched.vmm.attempt import Wish
from hfsched.vmm.guests import bundled_images
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec
from hfsched.vmm.records import MACHINE_RECORD, MachineRecord
from hfsched.vmm.saving import restore, save, spec_of

WITHIN = QUIET_NS
HOST_PORT = 5  # one that can be opened again
pytestmark = pytest.mark.skipif(
    "echo.bin" not in bundled_images(), reason="script/guests was not run"
)
Memory = dict[str, bytes]


@pytest.fixture
def runtime() -> Iterator[ThreadRuntime]:
    failures: list[str] = []
    yield ThreadRuntime(lambda task, error: failures.append(f"{task}: {error!r}"))
    assert failures == []


@pytest.fixture(params=["unicorn", "kvm"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    if request.param == "unicorn":
        pytest.importorskip("unicorn")
        return "unicorn"
    if why_not := device.problem():
        pytest.skip(f"engine kvm: {why_not}")
    return "kvm"


def made(spec: MachineSpec, runtime: ThreadRuntime, saved: MachineRecord | None = None) -> Machine:
    spec.check("test")
    return Machine(spec, runtime, lambda _vm, _line: None, saved=saved)


def saved_by(machine: Machine, runtime: ThreadRuntime) -> tuple[MachineRecord, Memory]:
    """Save a machine; the record is encoded and decoded, as between two processes."""
    deadline = runtime.now() + WITHIN
    with machine.suspension.held("snapshot", deadline, frozen=True):
        record = save(machine, deadline)
        memory = {name: ram.read(0, ram.size) for name, ram in machine.rams.items()}
    return msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=MachineRecord), memory


def again(runtime: ThreadRuntime, record: MachineRecord, memory: Memory) -> Machine:
    machine = made(spec_of(record), runtime, record)
    for name, ram in machine.rams.items():
        ram.write(0, memory[name])
    restore(machine, record)
    return machine


def sent(end: Endpoint, text: bytes, runtime: ThreadRuntime) -> None:
    assert end.send(text, runtime.now() + WITHIN) is Sent.SENT


def received(end: Endpoint, runtime: ThreadRuntime) -> bytes:
    port_message = end.recv(runtime.now() + WITHIN)
    assert port_message is not None
    return port_message.payload


def chain(engine: EngineName, relays: int) -> MachineSpec:
    vms = [VmSpec(image="relay.bin", memory=1 << 20) for _ in range(relays)]
    return MachineSpec(vm=[*vms, VmSpec(image="echo.bin", memory=1 << 20)], engine=engine)


@pytest.mark.parametrize("image", ["echo.bin", "trusty.bin", "smp.bin"])
def test_a_guest_that_waits_goes_on(engine: EngineName, image: str, runtime: ThreadRuntime) -> None:
    vcpus = 2 if image == "smp.bin" else 1
    spec = MachineSpec(vm=[VmSpec(image=image, memory=1 << 20, vcpus=vcpus)], engine=engine)
    with made(spec, runtime) as machine:
        machine.start()
        end = machine.endpoint(machine.vm_names()[0], 1)
        sent(end, b"hello", runtime)
        first = received(end, runtime)
        record, memory = saved_by(machine, runtime)
        sent(end, b"hello", runtime)
        answer = received(end, runtime)  # it was only suspended
        assert answer.endswith(first[-5:])
    for _ in range(2):  # and once more from the same record
        with again(runtime, record, memory) as machine:
            machine.start()
            end = machine.endpoint(machine.vm_names()[0], 1)
            sent(end, b"hello", runtime)
            assert received(end, runtime) == answer
            assert machine.stop() == []


def test_what_the_user_had_suspended_runs_nothing_before_it_is_resumed(
    engine: EngineName, runtime: ThreadRuntime
) -> None:
    with made(chain(engine, 1), runtime) as machine:
        machine.start()
        end = machine.endpoint(machine.vm_names()[0], 1, HOST_PORT)
        for number in range(4):  # some are on their way
            sent(end, b"message %d" % number, runtime)
        machine.user_hold.suspend(runtime.now() + WITHIN)
        record, memory = saved_by(machine, runtime)
        assert record.held
    for _ in range(2):
        with again(runtime, record, memory) as machine:
            machine.start()
            assert machine.user_hold.held()
            assert machine.suspended_by() == ("user",)
            assert [vm.record.entries for vm in machine.assembly.vms] == [0, 0]
            assert {name: ram.read(0, ram.size) for name, ram in machine.rams.items()} == memory
            record, memory = saved_by(machine, runtime)
            assert machine.user_hold.resume(runtime.now() + WITHIN)
            end = machine.endpoint(machine.vm_names()[0], 1, HOST_PORT)
            for number in range(4):
                assert received(end, runtime) == b"message %d" % number
            assert not saved_by(machine, runtime)[0].held
            assert machine.stop() == []


def test_a_message_on_its_way_arrives_once_wherever_it_was(
    engine: EngineName, runtime: ThreadRuntime
) -> None:
    drawn = random.Random(7)
    places: set[str] = set()
    with made(chain(engine, 2), runtime) as machine:
        machine.start()
        first = machine.vm_names()[0]
        port = machine.endpoint(first, 1, HOST_PORT)
        for number in range(12):
            text = b"message %d" % number
            sent(port, text, runtime)
            if number % 3 == 0:
                until_queued(machine, runtime, 1)
            elif number % 3 == 1:  # somewhere between
                runtime.sleep_until(runtime.now() + drawn.randrange(1_000_000))
            record, memory = saved_by(machine, runtime)
            places.add(place_of(record))
            with again(runtime, record, memory) as copy:
                other = copy.endpoint(first, 1, HOST_PORT)
                copy.start()
                assert received(other, runtime) == text
                sent(other, b"after it", runtime)
                assert received(other, runtime) == b"after it", "the message came twice"
            assert received(port, runtime) == text
    assert "port" in places


def place_of(record: MachineRecord) -> str:
    """Return where the one message of a chain is."""
    if any(vm.messages for vm in record.ports.vms.values()):
        return "port"
    states = [f"{vm.spec.name} {vm.state.mailbox.state}" for vm in record.vms]
    return ", ".join(state for state in states if not state.endswith("empty")) or "in a guest"


def test_a_timer_goes_on_from_where_it_was(engine: EngineName, runtime: ThreadRuntime) -> None:
    def left(machine: Machine) -> int | None:
        return machine.assembly.vms[0].record.vcpus[0].cpu.timer_remaining()

    spec = MachineSpec(vm=[VmSpec(image="trusty.bin", memory=1 << 20)], engine=engine)
    with made(spec, runtime) as machine:
        machine.start()
        sent(machine.endpoint("trusty", 1), b"sleep 600000", runtime)
        before = None
        deadline = runtime.now() + WITHIN
        while before is None:
            with machine.suspension.held("test", deadline):
                before = left(machine)
            assert runtime.now() < deadline
        record, _ = saved_by(machine, runtime)
    for passed in (0, 300_000_000_000):
        with made(spec_of(record), runtime, record) as machine:
            restore(machine, record, passed)
            after = left(machine)
        assert after is not None
        assert before - passed - WITHIN < after <= before - passed


def test_what_lies_in_a_port_is_read_here_or_after_a_restore(
    engine: EngineName, runtime: ThreadRuntime
) -> None:
    with made(chain(engine, 1), runtime) as machine:
        machine.start()
        first = machine.vm_names()[0]
        port, own = machine.endpoint(first, 1, HOST_PORT), machine.endpoint(first, 1)
        sent(port, b"kept", runtime)
        sent(own, b"own", runtime)
        while machine.ports.waiting() < 2:
            runtime.sleep_until(runtime.now() + 1_000_000)
        deadline = runtime.now() + WITHIN
        with machine.suspension.held("snapshot", deadline, frozen=True):
            machine.ports.hold()
            record = save(machine, deadline)
            assert port.recv(runtime.now()) is None
            assert not port.ended
            assert received(own, runtime) == b"own"  # it is in no snapshot
            (kept,) = [each for vm in record.ports.vms.values() for each in vm.messages]
            assert (kept[0], kept[2]) == (HOST_PORT, b"kept")
            machine.ports.release()
        assert received(port, runtime) == b"kept"
        sent(port, b"again", runtime)
        until_queued(machine, runtime, 1)
        machine.ports.hold()
        assert machine.stop() == []
        assert port.recv(runtime.now() + WITHIN) is None


def test_a_restore_of_a_restore(engine: EngineName, runtime: ThreadRuntime) -> None:
    with made(chain(engine, 1), runtime) as machine:
        machine.start()
        first = machine.vm_names()[0]
        sent(machine.endpoint(first, 1, HOST_PORT), b"once", runtime)
        record, memory = saved_by(machine, runtime)
    for _ in range(5):
        with again(runtime, record, memory) as machine:
            machine.start()
            record, memory = saved_by(machine, runtime)
    with again(runtime, record, memory) as machine:
        machine.start()
        assert received(machine.endpoint(first, 1, HOST_PORT), runtime) == b"once"


def test_messages_in_a_full_queue_and_the_one_that_waits_for_room_are_kept(
    engine: EngineName, runtime: ThreadRuntime
) -> None:
    spec = MachineSpec(vm=[VmSpec(image="echo.bin", memory=1 << 20)], engine=engine)
    texts = [b"%d" % number for number in range(17)]  # a queue holds 16
    with made(spec, runtime) as machine:
        machine.start()
        end = machine.endpoint("echo", 1, HOST_PORT)
        for text in texts:
            sent(end, text, runtime)
        until_queued(machine, runtime, len(texts))
        record, memory = saved_by(machine, runtime)
    (ports,) = record.ports.vms.values()
    assert len(ports.messages) == 17
    with again(runtime, record, memory) as machine:
        machine.start()
        end = machine.endpoint("echo", 1, HOST_PORT)
        assert [received(end, runtime) for _ in texts] == texts


def until_queued(machine: Machine, runtime: ThreadRuntime, count: int) -> None:
    """Return once so many messages lie on the host's side, one of them with a thread if the queue is full."""
    while sum(len(vm.messages) for vm in machine.ports.save().vms.values()) < count:
        runtime.sleep_until(runtime.now() + 1_000_000)


def test_a_layer_on_disk_is_a_whole_machine(
    engine: EngineName, runtime: ThreadRuntime, tmp_path: Path
) -> None:
    where = tmp_path / "layer"
    with made(chain(engine, 1), runtime) as machine:
        machine.start()
        first = machine.vm_names()[0]
        port = machine.endpoint(first, 1, HOST_PORT)
        sent(port, b"once", runtime)
        deadline = runtime.now() + WITHIN
        with make_layer(where) as files, machine.suspension.held("snapshot", frozen=True):
            descriptors = (files.pages_fd, files.index_fd)
            capture = snapshotting.Capture(machine, descriptors, Wish(name="layer", created=1))
            capture.copy(deadline)
            capture.finish()
        assert received(port, runtime) == b"once"
    for _ in range(2):
        with closing(open_chain(where)) as layers:
            record = snapshotting.record_of(layers)
            again = snapshotting.restore(
                layers, record, lambda record, _lazy: made(spec_of(record), runtime, record)
            )
        with again:
            again.start()
            port = again.endpoint(first, 1, HOST_PORT)
            assert received(port, runtime) == b"once"
            sent(port, b"after it", runtime)
            assert received(port, runtime) == b"after it"


def test_a_layer_without_a_machine_is_refused(runtime: ThreadRuntime, tmp_path: Path) -> None:
    pytest.importorskip("unicorn")
    where = tmp_path / "layer"
    with made(chain("unicorn", 0), runtime) as machine, make_layer(where) as files:
        writer = LayerWriter(
            "layer", files.pages_fd, files.index_fd, snapshotting.subject_of(machine, 1)
        )
        writer.put_zeros(0, 0, 256)
        writer.finish({"machine": Component(1, b"\x81\xa7version\x01")})
    with (
        closing(open_chain(where)) as layers,
        pytest.raises(SnapshotError, match=r"layer: not a machine's state: .*`name`"),
    ):
        snapshotting.record_of(layers)


def test_a_record_of_another_machine_is_refused(runtime: ThreadRuntime) -> None:
    pytest.importorskip("unicorn")
    with made(chain("unicorn", 1), runtime) as machine:
        machine.start()
        record, memory = saved_by(machine, runtime)
    later = MACHINE_RECORD + 1
    other = msgspec.structs.replace(record, version=later)
    with pytest.raises(UserError, match=f"a machine's record of version {later}"):
        again(runtime, other, memory).close()
    fewer = msgspec.structs.replace(record, vms=record.vms[:1])
    with pytest.raises(UserError, match="ports of VMs"):
        again(runtime, fewer, memory).close()
