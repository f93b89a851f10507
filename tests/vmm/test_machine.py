"""A machine from its description to its end: many VMs answer, and nothing stays behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from progress import QUIET_NS

from hfsched.errors import ConfigError, ImageError, UserError
from hfsched.hypervisor.interface import SendResult
from hfsched.hypervisor.vm import Vm
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.outbox import Sent
from hfsched.scheduler.suspension import SuspendError
from hfsched.vcpu.kvm import device
from hfsched.vmm import machine as vmm_machine
from hfsched.vmm.guests import bundled_images
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec

SECOND = 1_000_000_000
WITHIN = QUIET_NS  # for one thing that is waited for


class Harness:
    """Makes machines and keeps what they tell."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.lines: list[tuple[str, bytes]] = []
        self.notices: list[str] = []
        self.runtime = ThreadRuntime(lambda task, error: self.failures.append(f"{task}: {error!r}"))
        self.rested = threading.Event()

    def machine(self, spec: MachineSpec) -> Machine:
        spec.check("test")
        return Machine(
            spec,
            self.runtime,
            lambda vm, line: self.lines.append((vm, line)),
            self.notices.append,
            on_activity=self.rested.set,
        )

    def deadline(self) -> int:
        return self.runtime.now() + WITHIN

    def until_quiet(self, machine: Machine) -> None:
        while True:
            self.rested.clear()
            if machine.quiet():
                return
            assert self.rested.wait(WITHIN / 1e9), "nothing moves, and it is not quiet"


@pytest.fixture
def harness() -> Iterator[Harness]:
    built = Harness()
    yield built
    assert built.failures == []


def script(*vms: VmSpec) -> MachineSpec:
    return MachineSpec(vm=[*vms], engine="script", name="test")


def echoes(count: int, memory: int = 1 << 16) -> MachineSpec:
    return script(*(VmSpec(image="echo", memory=memory) for _ in range(count)))


def belongings() -> tuple[int, list[str], int]:
    """Return what this process has: {descriptors, threads, mappings of guests' memory}."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    threads = sorted(thread.name for thread in threading.enumerate())
    return len([*Path("/proc/self/fd").iterdir()]), threads, maps.count("/memfd:hfsched")


def test_64_vms_all_answer(harness: Harness) -> None:
    with harness.machine(echoes(64)) as machine:
        machine.start()
        ends = {vm: machine.endpoint(vm, 1) for vm in machine.vm_names()}
        assert len(ends) == 64
        for _ in range(3):
            for vm, end in ends.items():
                assert end.send(vm.encode(), harness.deadline()) is Sent.SENT
            for vm, end in ends.items():
                port_message = end.recv(harness.deadline())
                assert port_message is not None
                assert port_message.payload == vm.encode()
        harness.until_quiet(machine)
        assert machine.stop() == []
        for summary in machine.summary():
            assert (summary.from_host, summary.to_host, summary.unread) == (3, 3, 0)
            assert summary.abort is None


def test_a_message_through_a_chain_of_64_vms(harness: Harness) -> None:
    relays = [VmSpec(image="relay", memory=1 << 16) for _ in range(63)]
    with harness.machine(script(*relays, VmSpec(image="echo", memory=1 << 16))) as machine:
        machine.start()
        end = machine.endpoint("relay", 1)
        assert end.send(b"round", harness.deadline()) is Sent.SENT
        port_message = end.recv(harness.deadline())
        assert port_message is not None
        assert port_message.payload == b"round"
        assert machine.stop() == []


def test_50_starts_and_stops_leave_nothing_behind(harness: Harness) -> None:
    def life() -> None:
        with harness.machine(echoes(2)) as machine:
            machine.start()
            end = machine.endpoint("echo-2", 1)
            assert end.send(b"hello", harness.deadline()) is Sent.SENT
            assert end.recv(harness.deadline()) is not None
            assert belongings()[2] >= 2, "the memory of the guests is a mapped memfd"

    life()  # what is made once, is made
    before = belongings()
    for _ in range(50):
        life()
    assert belongings() == before


@pytest.mark.skipif("trusty.bin" not in bundled_images(), reason="script/guests was not run")
@pytest.mark.parametrize("engine", ["unicorn", "kvm"])
def test_machines_of_images_leave_nothing_behind(harness: Harness, engine: EngineName) -> None:
    if engine == "unicorn":
        pytest.importorskip("unicorn")
    elif why_not := device.problem():
        pytest.skip(f"engine kvm: {why_not}")
    spec = MachineSpec(vm=[VmSpec(image="trusty.bin", memory=1 << 20)], engine=engine)

    def life() -> None:
        with harness.machine(spec) as machine:
            machine.start()
            end = machine.endpoint("trusty", 1)
            assert end.send(b"version", harness.deadline()) is Sent.SENT
            assert end.recv(harness.deadline()) is not None

    life()
    before = belongings()
    for _ in range(20):
        life()
    assert belongings() == before


def test_a_machine_that_cannot_be_built_leaves_nothing_behind(harness: Harness) -> None:
    before = belongings()
    for _ in range(10):
        with pytest.raises(ImageError):
            harness.machine(
                MachineSpec(
                    vm=[VmSpec(image="hfsched.programs.bundled:echo"), VmSpec(image="absent.bin")]
                )
            )
    assert belongings() == before


def test_one_that_was_never_started_can_be_stopped_and_closed_twice(harness: Harness) -> None:
    before = belongings()
    machine = harness.machine(echoes(1))
    assert machine.stop() == []
    machine.close()
    machine.close()
    assert belongings() == before


def test_before_the_start_a_mailbox_is_busy_and_the_machine_is_not_quiet(harness: Harness) -> None:
    with harness.machine(echoes(1)) as machine:
        end = machine.endpoint("echo", 1)
        assert end.try_send(b"early") is Sent.BUSY
        assert not machine.quiet()
        machine.start()
        assert end.send(b"in time", harness.deadline()) is Sent.SENT
        port_message = end.recv(harness.deadline())
        assert port_message is not None
        assert port_message.payload == b"in time"


def test_it_is_quiet_only_when_the_answer_was_taken(harness: Harness) -> None:
    with harness.machine(echoes(1)) as machine:
        machine.start()
        harness.until_quiet(machine)
        end = machine.endpoint("echo", 1)
        assert end.send(b"hello", harness.deadline()) is Sent.SENT
        assert not machine.quiet()
        assert end.recv(harness.deadline()) is not None
        harness.until_quiet(machine)


def test_no_send_to_a_machine_that_was_closed_before_it_started(harness: Harness) -> None:
    with harness.machine(echoes(1)) as machine:
        end = machine.endpoint("echo", 1)
    assert end.send(b"late", harness.deadline()) is Sent.DEAD


class HalfWay:
    """A machine that has stopped while a host sender is half-way, until `go_on`, through a message."""

    def __init__(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        machine.start()
        (self.ram,) = [vm.record.memory.regions[0].ram for vm in machine.assembly.vms]
        self.outcome: list[Sent] = []
        self._goes_on = threading.Event()
        inside = threading.Event()
        end = machine.endpoint("echo", 1)
        send = machine.hypervisor.primary.send

        def slowly(number: int, message: bytes, *, notify: bool) -> SendResult:
            inside.set()
            assert self._goes_on.wait(WITHIN / 1e9)
            self.ram.read(0, 1)  # raises when it is closed
            return send(number, message, notify=notify)

        monkeypatch.setattr(machine.hypervisor.primary, "send", slowly)
        self._sender = threading.Thread(target=lambda: self.outcome.append(end.send(b"x")))
        self._sender.start()
        assert inside.wait(WITHIN / 1e9)
        assert machine.stop() == []
        self.closing = threading.Thread(target=machine.close)

    def go_on(self) -> None:
        self._goes_on.set()

    def end(self) -> None:
        """Let it go on, to its end."""
        self.go_on()
        self._sender.join()
        assert self.outcome == [Sent.SENT]


def test_a_suspension_that_goes_wrong_keeps_no_machine_from_closing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end, in another thread, comes while the last sender is waited for."""
    with harness.machine(echoes(1)) as machine:
        sender = HalfWay(machine, monkeypatch)
        monkeypatch.setattr(vmm_machine, "_SENDERS_WITHIN", WITHIN)
        sender.closing.start()
        with pytest.raises(SuspendError):
            machine.suspension.suspend("test", harness.runtime.now() + SECOND // 100)
        sender.go_on()
        sender.closing.join(WITHIN / 2e9)
        assert not sender.closing.is_alive()
        sender.end()
        assert sender.ram._anchor is None


def test_an_interrupted_close_leaves_memory_to_who_touches_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with harness.machine(echoes(1)) as machine:
        machine.start()
        (ram,) = [vm.record.memory.regions[0].ram for vm in machine.assembly.vms]

        def interrupted(_deadline: int | None) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr(machine.driver, "wait_quiesced", interrupted)
        with pytest.raises(KeyboardInterrupt):
            machine.close()
        assert ram._anchor is not None
        machine.close()
    ram.close()


@pytest.mark.parametrize(
    ("looks", "stuck"),
    [
        ([["a"], ["a"], ["a"], ["a"], []], []),
        ([["a", "b", "c"], *[["a", "b"]] * 4, ["b"], *[["b"]] * 5], ["b"]),
        ([["a"]] * 5, ["a"]),
    ],
    ids=["one late", "one after another", "one stuck"],
)
def test_a_stop_takes_as_long_as_some_vcpu_still_stops(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, looks: list[list[str]], stuck: list[str]
) -> None:
    with harness.machine(echoes(1)) as machine:
        machine.start()
        left = iter(looks)
        with monkeypatch.context() as patch:
            patch.setattr(machine.driver, "stop", lambda _deadline: next(left))
            assert machine._stop_vcpus() == stuck
        assert [*left] == []
        assert machine.stop() == []


def test_no_send_after_the_stop(harness: Harness) -> None:
    with harness.machine(echoes(1)) as machine:
        machine.start()
        end = machine.endpoint("echo", 1)
        assert machine.stop() == []
        assert end.send(b"late", harness.deadline()) is Sent.DEAD
        assert end.recv(harness.deadline()) is None


@pytest.mark.parametrize("in_time", [True, False], ids=["in-time", "too-late"])
def test_memory_stays_while_a_sender_is_half_way_through(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, *, in_time: bool
) -> None:
    """It may wait for memory that is out, and touches it when that was let go of."""
    monkeypatch.setattr(vmm_machine, "_SENDERS_WITHIN", WITHIN if in_time else SECOND // 30)
    with harness.machine(echoes(1)) as machine:
        sender = HalfWay(machine, monkeypatch)
        sender.closing.start()
        if in_time:
            sender.go_on()
        sender.closing.join()
        sender.end()
        assert (sender.ram._anchor is None) is in_time
        sender.ram.close()


def test_an_unknown_vm_names_those_there_are(harness: Harness) -> None:
    with (
        harness.machine(echoes(2)) as machine,
        pytest.raises(UserError, match=r"no VM 'nobody' here: there are echo, echo-2$"),
    ):
        machine.endpoint("nobody", 1)


def test_a_host_port_has_one_user(harness: Harness) -> None:
    with harness.machine(echoes(1)) as machine:
        machine.endpoint("echo", 1, local=5)
        with pytest.raises(UserError, match="port 5 is in use"):
            machine.endpoint("echo", 1, local=5)


def test_memory_that_overlaps_is_refused(harness: Harness) -> None:
    low = VmSpec(name="low", image="echo", base=0x4000_0000)
    high = VmSpec(name="high", image="echo", base=0x40FF_F000)
    with pytest.raises(ConfigError, match=r"vm high: memory .* overlaps that of low"):
        harness.machine(script(low, high))


def test_what_has_a_place_of_its_own_gets_it_first(harness: Harness) -> None:
    top = 0x8000_0000 - (16 << 20)  # where the first would go
    spec = script(VmSpec(name="any", image="echo"), VmSpec(name="top", image="echo", base=top))
    with harness.machine(spec) as machine:
        places = {}
        for driven in machine.driver.vms:
            vm = machine.hypervisor.registry.find(driven.id)
            assert isinstance(vm, Vm)
            places[driven.name] = vm.memory.regions[0].ipa
        assert places["top"] == top
        assert places["any"] + (16 << 20) <= top


def test_the_engine_is_told_once(harness: Harness) -> None:
    with harness.machine(echoes(3)):
        assert harness.notices == ["engine script: the guest is a Python function"]
