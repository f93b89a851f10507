"""A machine saved by one engine goes on on another one, from its portable record alone.

Only one engine for arm64 guests can be used on most hosts.  There it has both parts: what it saves is said to be of
the other one, and its own record of each CPU is replaced by nonsense.  `tests/qemu` goes from the one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import msgspec
import pytest
from progress import QUIET_NS

from hfsched.errors import UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.endpoint import Endpoint
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.engines import EngineId
from hfsched.vcpu.kvm import device
from hfsched.vcpu.portable import PortableCpu, PortableVm
from hfsched.vmm.guests import bundled_images
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec
from hfsched.vmm.records import MachineRecord
from hfsched.vmm.saving import restore, save, spec_of

WITHIN = QUIET_NS
PORT = 5
OTHER: dict[EngineName, EngineId] = {"unicorn": "kvm", "kvm": "unicorn"}
pytestmark = pytest.mark.skipif(
    "stress.bin" not in bundled_images(), reason="script/guests was not run"
)
Memory = dict[str, bytes]


@pytest.fixture(params=["unicorn", "kvm aarch64"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    if request.param == "unicorn":
        pytest.importorskip("unicorn")
        return "unicorn"
    if device.MACHINE != "aarch64":
        pytest.skip("this is no arm64 machine")
    if why_not := device.problem():
        pytest.skip(f"engine kvm: {why_not}")
    return "kvm"


@pytest.fixture
def hall() -> Iterator[Hall]:
    with ExitStack() as stack:
        yield Hall(stack)


class Hall:
    """The machines of a test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        failures: list[str] = []
        self.runtime = ThreadRuntime(lambda task, error: failures.append(f"{task}: {error!r}"))
        stack.callback(lambda: _none(failures))

    @property
    def by(self) -> int:
        return self.runtime.now() + WITHIN

    def made(self, spec: MachineSpec, saved: MachineRecord | None = None) -> Machine:
        spec.check("test")
        return self._stack.enter_context(
            Machine(spec, self.runtime, lambda _vm, _line: None, saved=saved)
        )

    def saved_by(self, machine: Machine) -> tuple[MachineRecord, Memory]:
        """Save a machine, as another process gets it."""
        with machine.suspension.held("snapshot", self.by, frozen=True):
            record = save(machine, self.by)
            memory = {name: ram.read(0, ram.size) for name, ram in machine.rams.items()}
        return msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=MachineRecord), memory

    def again(self, record: MachineRecord, memory: Memory, engine: EngineName) -> Machine:
        """Return a machine that goes on on an engine, not yet started."""
        machine = self.made(spec_of(record, engine), record)
        for name, ram in machine.rams.items():
            ram.write(0, memory[name])
        restore(machine, record)
        return machine

    def sent(self, end: Endpoint, text: bytes) -> None:
        assert end.send(text, self.by) is Sent.SENT

    def received(self, end: Endpoint) -> bytes:
        message = end.recv(self.by)
        assert message is not None
        return message.payload

    def asked(self, end: Endpoint, text: bytes) -> bytes:
        self.sent(end, text)
        return self.received(end)

    def through(self, end: Endpoint) -> None:
        """Wait until a guest has sent and received all, for as long as it gets on."""
        before, by = b"", self.by
        while (said := self.asked(end, b"status")).endswith(b"busy"):
            if said != before:
                before, by = said, self.by
            assert self.runtime.now() < by, said
            self.runtime.sleep_until(self.runtime.now() + 10_000_000)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = self.by
        while not holds():
            assert self.runtime.now() < deadline
            self.runtime.sleep_until(self.runtime.now() + 1_000_000)


def _none(failures: list[str]) -> None:
    assert failures == []


def foreign(record: MachineRecord, engine: EngineName) -> MachineRecord:
    """Return a record as another engine might have made it, whose own part nobody else can read."""
    return msgspec.structs.replace(
        record,
        vms=tuple(
            msgspec.structs.replace(
                vm,
                engine=OTHER[engine],
                cpus=tuple(native and b"none of yours" for native in vm.cpus),
                counter=1,
            )
            for vm in record.vms
        ),
    )


def changed(record: MachineRecord, **values: object) -> MachineRecord:
    """Return a record of one VM with other values in its portable part."""
    (vm,) = record.vms
    assert vm.portable is not None
    portable = msgspec.structs.replace(vm.portable, **values)
    return msgspec.structs.replace(record, vms=(msgspec.structs.replace(vm, portable=portable),))


def portable_of(record: MachineRecord, vm: int = 0) -> PortableVm:
    found = record.vms[vm].portable
    assert found is not None
    return found


def one(image: str, engine: EngineName, vcpus: int = 1) -> MachineSpec:
    return MachineSpec(vm=[VmSpec(image=image, memory=1 << 20, vcpus=vcpus)], engine=engine)


@pytest.mark.parametrize("image", ["echo.bin", "trusty.bin", "smp.bin"])
def test_a_guest_that_waits_goes_on(engine: EngineName, hall: Hall, image: str) -> None:
    machine = hall.made(one(image, engine, vcpus=2 if image == "smp.bin" else 1))
    machine.start()
    end = machine.endpoint(machine.vm_names()[0], 1)
    hall.asked(end, b"hello")
    record, memory = hall.saved_by(machine)
    answer = hall.asked(end, b"hello")
    for _ in range(2):
        other = hall.again(foreign(record, engine), memory, engine)
        vcpus = other.assembly.vms[0].record.vcpus
        assert tuple(vcpu.cpu.portable() for vcpu in vcpus) == portable_of(record).cpus
        other.start()
        assert hall.asked(other.endpoint(other.vm_names()[0], 1), b"hello") == answer
        assert other.stop() == []


def test_traffic_goes_on_back_and_forth_and_nothing_is_lost(engine: EngineName, hall: Hall) -> None:
    """Two guests exchange checksummed messages while they change engines."""
    vms = [VmSpec(image="stress.bin", name=name, memory=1 << 20) for name in "ab"]
    machine = hall.made(MachineSpec(vm=vms, engine=engine))
    machine.start()
    for name in "ab":  # both are up before one looks for the other
        hall.asked(machine.endpoint(name, 1), b"status")
    going = {name: machine.endpoint(name, 1, PORT) for name in "ab"}
    for end in going.values():
        hall.sent(end, b"go 5 600")

    def goes(name: str, status: Endpoint) -> bool:
        """Return whether a guest has found the other one, which it tries for 200 ms, on a slow machine again."""
        words = hall.asked(status, b"status").split()
        if words[1] == b"0" and words[-1] != b"busy":
            hall.sent(going[name], b"go 5 600")
        return words[1] != b"0"

    for name in "ab":
        hall.until(partial(goes, name, machine.endpoint(name, 1)))
    for _ in range(4):
        hall.runtime.sleep_until(hall.runtime.now() + 20_000_000)
        record, memory = hall.saved_by(machine)
        assert machine.stop() == []
        machine = hall.again(foreign(record, engine), memory, engine)
        machine.start()
    for name in "ab":
        hall.through(machine.endpoint(name, 1))
    ends = [machine.endpoint(name, 1, PORT) for name in "ab"]
    for end in ends:
        text = hall.received(end)
        while text == b"no peers":
            text = hall.received(end)
        assert text.startswith(b"sent 600 acked 600 received ")
    for end in ends:  # each has sent all, and the other one has received them
        assert hall.asked(end, b"status") == b"sent 600 acked 600 received 600 bad 0"
    assert machine.stop() == []


def test_memory_goes_over(engine: EngineName, hall: Hall) -> None:
    machine = hall.made(one("stress.bin", engine))
    machine.start()
    answer = hall.asked(machine.endpoint("stress", 1), b"fill 7")
    record, memory = hall.saved_by(machine)
    other = hall.again(foreign(record, engine), memory, engine)
    other.start()
    assert hall.asked(other.endpoint("stress", 1), b"check 7") == answer


def test_a_vm_that_had_ended_goes_over_on_unicorn(hall: Hall) -> None:
    """Under arm64 KVM no guest is ended."""
    pytest.importorskip("unicorn")
    vms = [VmSpec(image=f"{name}.bin", name=name, memory=1 << 20) for name in ("hostile", "echo")]
    machine = hall.made(MachineSpec(vm=vms, engine="unicorn"))
    machine.start()
    hall.sent(machine.endpoint("hostile", 1), b"die")
    hall.until(lambda: "hostile" in machine.aborts)
    hall.until(lambda: hall.saved_by(machine)[0].vms[0].cpus == (b"",))
    record, memory = hall.saved_by(machine)
    assert portable_of(record).cpus == (None,)
    other = hall.again(foreign(record, "unicorn"), memory, "unicorn")
    other.start()
    assert hall.asked(other.endpoint("echo", 1), b"x") == b"x"
    assert list(other.aborts) == ["hostile"]


def test_a_timer_goes_on_from_where_it_was(engine: EngineName, hall: Hall) -> None:
    def left(machine: Machine) -> int | None:
        return machine.assembly.vms[0].record.vcpus[0].cpu.timer_remaining()

    machine = hall.made(one("trusty.bin", engine))
    machine.start()
    hall.sent(machine.endpoint("trusty", 1), b"sleep 600000")
    before = None
    deadline = hall.by
    while before is None:
        with machine.suspension.held("test", deadline):
            before = left(machine)
    record, _ = hall.saved_by(machine)
    for passed in (0, 300_000_000_000):
        other = hall.made(spec_of(record, engine), foreign(record, engine))
        restore(other, foreign(record, engine), passed)
        after = left(other)
        assert after is not None
        assert before - passed - WITHIN < after <= before - passed
        space = other.assembly.vms[0].record.space
        space.freeze()
        gone = space.ticks() - portable_of(record).counter
        assert 0 <= gone * 1_000_000_000 // space.counter_hz - passed < WITHIN
        space.thaw()


def test_a_frequency_is_taken_over_by_unicorn_and_stays_in_the_next_snapshot(hall: Hall) -> None:
    pytest.importorskip("unicorn")
    machine = hall.made(one("trusty.bin", "unicorn"))
    machine.start()
    record, memory = hall.saved_by(machine)
    slow = changed(foreign(record, "unicorn"), counter_hz=1_000_000, counter=5_000_000)
    for _ in range(2):  # from the portable record, then from Unicorn's own
        other = hall.again(slow, memory, "unicorn")
        assert other.assembly.vms[0].record.space.counter_hz == 1_000_000
        other.start()
        end = other.endpoint("trusty", 1)
        words = hall.asked(end, b"sleep 20").split()
        assert words[0] == b"slept"
        assert 20 <= int(words[1]) < 20_000
        slow, memory = hall.saved_by(other)
        found = portable_of(slow)
        assert found.counter_hz == 1_000_000
        assert 5_000_000 < found.counter < 5_000_000 + 2 * WITHIN // 1000
        assert other.stop() == []


def test_a_snapshot_from_before_is_read_and_stays_on_its_engine(
    engine: EngineName, hall: Hall
) -> None:
    machine = hall.made(one("echo.bin", engine))
    machine.start()
    record, memory = hall.saved_by(machine)
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(record))
    for vm in plain["vms"]:
        del vm["portable"]
    old = msgspec.msgpack.decode(msgspec.msgpack.encode(plain), type=MachineRecord)
    other = hall.again(old, memory, "auto")
    other.start()
    assert hall.asked(other.endpoint("echo", 1), b"x") == b"x"
    saved_by = OTHER[engine]
    with pytest.raises(UserError) as caught:
        hall.again(foreign(old, engine), memory, engine)
    assert str(caught.value) == (
        f"vm echo: engine {saved_by} saved it in its own form alone: restore it with --engine {saved_by}, and take a"
        " new snapshot"
    )


def test_what_does_not_go_over_is_refused_by_name(engine: EngineName, hall: Hall) -> None:
    machine = hall.made(one("echo.bin", engine))
    machine.start()
    record, memory = hall.saved_by(machine)
    record = foreign(record, engine)
    (cpu,) = portable_of(record).cpus
    assert cpu is not None
    registers = cpu.registers
    without = {name: value for name, value in registers.items() if name != "x5"}
    hz = portable_of(record).counter_hz
    no_counter = rf"no counter has {1 << 40} Hz" if engine == "unicorn" else rf"has {1 << 40} Hz"
    for values, reason in (
        ({"cpus": (PortableCpu(without),)}, "vm echo: vCPU 0: registers are missing: x5"),
        (
            {"cpus": (PortableCpu({**registers, "rip": 1}),)},
            "vm echo: vCPU 0: unknown registers: rip",
        ),
        (
            {"cpus": (PortableCpu(registers, ("MDSCR_EL1",)),)},
            "vm echo: vCPU 0: it uses what no other engine has: MDSCR_EL1",
        ),
        ({"cpus": ()}, "vm echo has 0 CPUs"),
        ({"cpus": (None,)}, "vm echo: vCPU 0 is in one of its two records alone"),
        ({"version": 2}, "vm echo: registers of version 2"),
        ({"counter_hz": 1 << 40}, no_counter),
        ({"counter": -1}, f"{hz} Hz cannot be at -0x1|64 bits cannot be at -0x1"),
    ):
        with pytest.raises(UserError, match=reason):
            hall.again(changed(record, **values), memory, engine)


def test_x86_64_guests_stay_on_kvm(hall: Hall) -> None:
    if device.MACHINE != "x86_64" or device.problem() is not None:
        pytest.skip("no x86-64 KVM")
    machine = hall.made(one("echo.bin", "kvm"))
    machine.start()
    record, memory = hall.saved_by(machine)
    assert record.vms[0].portable is None
    with pytest.raises(
        UserError, match="--engine unicorn runs aarch64 images only, this is an x86"
    ):
        hall.again(record, memory, "unicorn")
