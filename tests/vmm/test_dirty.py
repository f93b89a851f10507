"""Which pages of a machine's memory are dirty: what guests, the host and system calls write."""

from __future__ import annotations

import random
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from talk import TARGETS, UNICORN, Talk, Target

from hfsched.memory import writeprotect
from hfsched.memory.dirty import DirtyPages
from hfsched.memory.ram import PAGE_SIZE
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import MachineSpec, VmSpec
from hfsched.vmm.parts import MachineParts
from hfsched.vmm.tracking import NoSource

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_tracking = pytest.mark.skipif(
    writeprotect.problem() is not None, reason=str(writeprotect.problem())
)
on_every_engine = pytest.mark.parametrize(
    "target", TARGETS, ids=lambda target: str(target).replace(" ", "-")
)
HERE = next((target for target in TARGETS if target.why_not() is None), UNICORN)
HOLDER = "snapshot"


def talk(target: Target, *guests: str, memory: int = 1 << 19) -> Talk:
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(f"{target}: {why_not}")
    return Talk(target, *guests, memory=memory)


def start(host: Talk) -> None:
    host.until_quiet()
    with host.machine.suspension.held(HOLDER, host.deadline(), frozen=True):
        assert host.machine.dirty.start() is None


def collect(host: Talk, *, rearm: bool = True) -> DirtyPages:
    host.until_quiet()
    with host.machine.suspension.held(HOLDER, host.deadline(), frozen=True):
        return host.machine.dirty.collect(rearm=rearm)


def dirty(host: Talk, vm: int = 0, *, rearm: bool = True) -> set[int]:
    found = collect(host, rearm=rearm)
    assert found.why_all is None
    runs = found.runs[host.machine.vm_names()[vm]]
    return {first + each for first, count in runs for each in range(count)}


def contents(host: Talk, vm: int = 0) -> list[bytes]:
    ram = host.vm(vm).memory.regions[0].ram
    return [ram.read(page * PAGE_SIZE, PAGE_SIZE) for page in range(ram.size // PAGE_SIZE)]


def changed(host: Talk, before: list[bytes], vm: int = 0) -> set[int]:
    return {page for page, now in enumerate(contents(host, vm)) if now != before[page]}


@needs_tracking
@on_every_engine
def test_what_a_guest_writes_is_dirty(target: Target) -> None:
    with talk(target, "stress", "echo") as host:
        answer = host.ask("fill 7")
        host.ask("hello", 1)
        start(host)
        assert collect(host).pages() == 0
        assert host.ask("check 7") == answer
        before = [contents(host, vm) for vm in (0, 1)]
        assert len(dirty(host)) < 20  # it has read all of it, and written its stack and its mailbox
        assert host.ask("fill 8") == answer
        found = collect(host)
        assert found.why_all is None
        pages = {
            first + each
            for first, count in found.runs[host.machine.vm_names()[0]]
            for each in range(count)
        }
        assert len(changed(host, before[0])) >= int(answer.split()[1])
        assert changed(host, before[0]) <= pages
        assert found.runs[host.machine.vm_names()[1]] == []
        assert changed(host, before[1], vm=1) == set()
        assert collect(host).pages() == 0


@needs_tracking
@on_every_engine
def test_what_the_host_sends_is_dirty(target: Target) -> None:
    with talk(target, "echo") as host:
        host.ask("hello")
        start(host)
        vm = host.vm()
        assert vm.mailbox.rx is not None
        rx = (vm.memory.regions[0].offset + vm.mailbox.rx - vm.memory.regions[0].ipa) // PAGE_SIZE
        before = contents(host)
        host.ask("a message")
        found = dirty(host)
        assert rx in found
        assert changed(host, before) <= found


@needs_tracking
@on_every_engine
def test_first_and_last_pages_of_each_vm(target: Target) -> None:
    with talk(target, "echo", "echo", "echo") as host:
        start(host)
        names = host.machine.vm_names()
        rams = [host.vm(vm).memory.regions[0].ram for vm in range(3)]
        last = rams[0].size // PAGE_SIZE - 1
        rams[0].write(last * PAGE_SIZE + PAGE_SIZE - 1, b"x")
        rams[1].write(0, b"x")
        rams[2].write(last * PAGE_SIZE - 1, b"xx")  # over an edge
        found = collect(host)
        assert found.runs == {names[0]: [(last, 1)], names[1]: [(0, 1)], names[2]: [(last - 1, 2)]}
        assert found.pages() == 4


@needs_tracking
def test_every_change_is_found_whatever_happens() -> None:
    seed = secrets.randbits(32)
    drawn = random.Random(seed)
    with talk(HERE, "stress", "echo") as host:
        host.ask("fill 7")
        start(host)
        copies = [contents(host, vm) for vm in (0, 1)]
        rams = [host.vm(vm).memory.regions[0].ram for vm in (0, 1)]
        for _ in range(30):
            for _ in range(drawn.randrange(4)):
                what = drawn.choice(["host", "guest", "copy", "zero"])
                if what == "host":
                    offset = drawn.randrange(rams[1].size // 2, rams[1].size - 9000)
                    rams[1].write(offset, drawn.randbytes(drawn.randrange(9000)))
                elif what == "copy":
                    offset = drawn.randrange(rams[1].size // 2, rams[1].size - 9000)
                    rams[0].copy_to(0, rams[1], offset, drawn.randrange(9000))
                elif what == "zero":
                    rams[1].zero(drawn.randrange(rams[1].size // 2, rams[1].size - 9000), 5000)
                else:
                    host.ask(f"message {drawn.random()}", 1)
            host.until_quiet()
            found = collect(host)
            assert found.why_all is None
            for vm, name in enumerate(host.machine.vm_names()):
                for first, count in found.runs[name]:
                    for page in range(first, first + count):
                        copies[vm][page] = rams[vm].read(page * PAGE_SIZE, PAGE_SIZE)
                assert copies[vm] == contents(host, vm), f"seed {seed}"


@needs_tracking
@on_every_engine
def test_no_guest_writes_while_the_machine_is_suspended(target: Target) -> None:
    with talk(target, "stress", "stress") as host:
        start(host)
        answers = []
        for seed in range(5):
            for vm in (0, 1):
                host.send(f"fill {seed}".encode(), vm)
            with host.machine.suspension.held(HOLDER, host.deadline(), frozen=True):
                host.machine.dirty.collect()
                assert host.machine.dirty.collect().pages() == 0
            answers += [host.receive(vm) for vm in (0, 1)]
        assert len(answers) == 10


@needs_tracking
def test_what_was_collected_in_vain_can_be_given_back() -> None:
    with talk(HERE, "echo") as host:
        start(host)
        ram = host.vm().memory.regions[0].ram
        ram.write(80 * PAGE_SIZE, b"x")
        found = collect(host)
        ram.write(82 * PAGE_SIZE, b"x")
        host.machine.dirty.give_back(found)
        assert dirty(host, rearm=False) == {80, 82}
        assert dirty(host) == {80, 82}
        assert dirty(host) == set()


@needs_tracking
def test_before_the_start_and_after_the_end_all_pages_are_dirty() -> None:
    with talk(HERE, "echo") as host:
        everything = {host.machine.vm_names()[0]: [(0, (1 << 19) // PAGE_SIZE)]}
        not_tracked = DirtyPages(everything, "dirty pages are not tracked")
        assert collect(host) == not_tracked
        assert not host.machine.dirty.started
        start(host)
        assert host.machine.dirty.started
        host.machine.dirty.give_back(not_tracked)  # a full layer has failed
        assert collect(host) == not_tracked
        assert dirty(host) == set()
        host.machine.dirty.stop()
        assert collect(host) == not_tracked
        assert host.ask("hello") == "hello"
        start(host)
        assert dirty(host) == set()


@needs_tracking
def test_what_was_protected_before_the_start_is_not_protected_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with talk(HERE, "echo") as host:
        tracker = host.machine.dirty
        (process,) = tracker._source.processes()
        (part,) = process.ranges
        told = (replace(process, protected=True),)
        monkeypatch.setattr(tracker._source, "processes", lambda: told)
        ram = host.vm().memory.regions[0].ram
        host.until_quiet()
        with host.machine.suspension.held(HOLDER, host.deadline(), frozen=True):
            writeprotect.register(process.uffd, part.base, part.size, faults=False)
            writeprotect.protect(process.uffd, part.base, part.size)
            ram.write(80 * PAGE_SIZE, b"x")
            assert tracker.start(first=True) is None
            ram.write(82 * PAGE_SIZE, b"x")
        assert dirty(host) == {80, 82}
        ram.write(84 * PAGE_SIZE, b"x")
        start(host)
        assert dirty(host) == set()


@needs_tracking
def test_memory_that_is_not_tracked_any_more() -> None:
    with talk(HERE, "echo") as host:
        start(host)
        (process,) = host.machine.dirty._source.processes()
        (part,) = process.ranges
        writeprotect.unregister(process.uffd, part.base, part.size // 2)
        found = collect(host, rearm=False)
        why = "this process: a part of its guest memory is not tracked any more"
        assert found.why_all == why
        assert found.pages() == part.size // PAGE_SIZE
        assert collect(host).why_all == why
        assert dirty(host) == set()


@pytest.fixture
def runtime() -> Iterator[ThreadRuntime]:
    made = ThreadRuntime()
    yield made
    made.close()


def script_machine(runtime: ThreadRuntime, parts: MachineParts | None = None) -> Machine:
    spec = MachineSpec(
        vm=[VmSpec(image="hfsched.programs.bundled:echo", name="echo", memory=1 << 18)],
        engine="script",
    )
    spec.check("a test")
    return Machine(spec, runtime, lambda _vm, _line: None, parts=parts)


@needs_tracking
def test_guests_in_python(runtime: ThreadRuntime) -> None:
    with script_machine(runtime) as machine:
        machine.start()
        with machine.suspension.held(HOLDER, frozen=True):
            assert machine.dirty.start() is None
        end = machine.endpoint("echo", 1)
        end.send(b"hello")
        assert end.recv(runtime.now() + 60_000_000_000) is not None
        with machine.suspension.held(HOLDER, frozen=True):
            found = machine.dirty.collect()
        assert found.why_all is None
        assert 0 < found.pages() <= 4  # RX and TX
        assert machine.stop() == []


def test_where_it_is_not_possible_the_reason_is_a_line(runtime: ThreadRuntime) -> None:
    parts = MachineParts(source=lambda _rams, _swap: NoSource("no kernel for it"))
    with script_machine(runtime, parts) as machine:
        assert machine.dirty.start() == "no kernel for it"
        found = machine.dirty.collect()
        assert found.why_all == "no kernel for it"
        assert found.runs == {"echo": [(0, 64)]}
        machine.dirty.stop()
