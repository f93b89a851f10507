"""A restored machine whose memory comes out of the snapshot as it is accessed."""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal

import pytest
from progress import QUIET_NS, until

from hfsched.errors import SnapshotError, UserError
from hfsched.memory import writeprotect
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.outbox import Sent
from hfsched.snapshot.directory import make_layer, open_chain
from hfsched.snapshot.libraries import load
from hfsched.swap.core import device as swap_device
from hfsched.swap.protocol.messages import State
from hfsched.vcpu.kvm import device
from hfsched.vmm import lazy as lazy_memory
from hfsched.vmm import snapshotting
from hfsched.vmm.attempt import Base, Wish
from hfsched.vmm.guests import bundled_images
from hfsched.vmm.lazy import LazyMemory
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec
from hfsched.vmm.records import MachineRecord
from hfsched.vmm.saving import spec_of

WITHIN = QUIET_NS
SIZE = 4 << 20
FILLED = range(2 << 20, SIZE - (1 << 20), PAGE_SIZE)  # bytes; the last MiB is zero
pytestmark = [
    pytest.mark.skipif("echo.bin" not in bundled_images(), reason="script/guests was not run"),
    pytest.mark.skipif(
        swap_device.problem() is not None, reason=f"no swap: {swap_device.problem()}"
    ),
]
Aborts = list[tuple[str, str]]
Codec = Literal["lz4", "zstd", "raw"]


class World:
    """A runtime, a folder of snapshots, and machines of an engine; their VMs that ended are in `aborts`."""

    def __init__(self, engine: EngineName, folder: Path, stack: ExitStack) -> None:
        self.engine, self.folder = engine, folder
        self.failures: list[str] = []
        self.runtime = ThreadRuntime(lambda task, error: self.failures.append(f"{task}: {error!r}"))
        self.runtime.start_spawner(["hfsched.swap.monitor.program"])
        stack.callback(self.runtime.close)
        self.aborts: Aborts = []

    def machine(
        self,
        spec: MachineSpec,
        saved: MachineRecord | None = None,
        memory: LazyMemory | None = None,
        swap: Path | None = None,
    ) -> Machine:
        if swap is not None:
            spec.swap = str(swap)
        spec.check("test")
        return Machine(
            spec,
            self.runtime,
            lambda _vm, _line: None,
            on_abort=lambda vm, why: self.aborts.append((vm, why)),
            saved=saved,
            lazy=memory,
        )

    def fresh(self, *images: str) -> Machine:
        """Return a machine, started, each of whose VMs has answered; it is filled by the host."""
        vms = [VmSpec(image=image, memory=SIZE) for image in images]
        machine = self.machine(MachineSpec(vm=vms, engine=self.engine))
        drawn = random.Random(1)
        for ram in machine.rams.values():
            for offset in FILLED:
                ram.write(offset, drawn.randbytes(1000) * (offset // PAGE_SIZE % 3))
        machine.start()
        for vm in machine.vm_names():
            self.ask(machine, vm)
        return machine

    def take(
        self,
        machine: Machine,
        name: str,
        base: Base | None = None,
        codec: Codec = "lz4",
        *,
        live: bool = False,
    ) -> Base:
        """Take a snapshot; return it."""
        given = Wish(
            name=name, created=1, parent=base, incremental=base is not None, codec=codec, live=live
        )
        with make_layer(self.folder / name) as files:
            attempt, written = machine.snapshots.take(files, given, self.runtime.now() + WITHIN)
        machine.snapshots.confirm(attempt)
        if base is not None:
            assert written.on == base, written.notices
        return Base(name, written.hash)

    def restored(
        self, name: str, *, fill: bool = False, lazy: bool = True, swap: Path | None = None
    ) -> Machine:
        """Return the machine of a snapshot, not started."""
        chain = open_chain(self.folder / name)
        record = snapshotting.record_of(chain)

        def make(saved: MachineRecord, memory: LazyMemory | None) -> Machine:
            return self.machine(spec_of(saved), saved, memory, swap)

        if lazy:
            memory = LazyMemory(chain, record, fill=fill)
            return snapshotting.restore(chain, record, make, name=name, lazy=memory)
        with closing(chain):
            return snapshotting.restore(chain, record, make, name=name)

    def ask(self, machine: Machine, vm: str) -> None:
        """Have a guest answer."""
        end = machine.endpoint(vm, 1)
        try:
            assert end.send(b"hello", self.runtime.now() + WITHIN) is Sent.SENT
            assert end.recv(self.runtime.now() + WITHIN) is not None
        finally:
            end.close()

    def damage(self, name: str, where: Callable[[bytearray], None]) -> None:
        """Change the pages of a layer."""
        path = self.folder / name / "pages"
        data = bytearray(path.read_bytes())
        where(data)
        path.write_bytes(data)


@pytest.fixture(params=["unicorn", "kvm"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "unicorn":
        pytest.importorskip("unicorn")
    elif why_not := device.problem():
        pytest.skip(f"engine kvm: {why_not}")
    with ExitStack() as stack:
        made = World(request.param, tmp_path, stack)
        yield made
        assert made.failures == []


def memory_of(machine: Machine) -> dict[str, bytes]:
    return {name: ram.read(0, ram.size) for name, ram in machine.rams.items()}


def filled(machine: Machine) -> dict[str, bytes]:
    """What the host has put there, and no guest touches."""
    return {name: ram.read(FILLED.start, SIZE - FILLED.start) for name, ram in machine.rams.items()}


def stored(machine: Machine) -> int:
    assert machine.swap is not None
    return machine.swap.status().metrics.stored


@pytest.mark.parametrize("codec", ["lz4", "zstd", "raw"])
def test_every_page_comes_as_it_was(world: World, codec: Codec) -> None:
    if codec != "raw" and load(codec) is None:
        pytest.skip(f"no {codec} here")
    with world.fresh("echo.bin", "trusty.bin") as machine:
        world.take(machine, "one", codec=codec)
    with world.restored("one", lazy=False) as machine:
        before = memory_of(machine)
    with world.restored("one") as machine:
        pages = stored(machine)
        assert pages > 2 * len(FILLED) * 2 // 3
        assert memory_of(machine) == before
        assert stored(machine) == 0
        assert machine.swap is not None
        events = machine.swap.status().metrics.events
        assert events["from_snapshot"] == pages
        assert {source for _, source in _sources(machine)} <= {"snapshot", "zero", "mapped"}


def _sources(machine: Machine) -> list[tuple[str, str]]:
    return [(fault.vm, fault.source) for fault in machine.faults()]


def test_guests_run_at_once_and_only_what_they_touch_is_in_memory(world: World) -> None:
    with world.fresh("echo.bin") as machine:
        world.take(machine, "one")
        before = filled(machine)
    with world.restored("one") as machine:
        machine.start()
        world.ask(machine, "echo")
        assert stored(machine) >= len(FILLED) * 2 // 3  # nothing of what the host has filled
        assert filled(machine) == before
        world.ask(machine, "echo")


def test_the_rest_comes_in_behind_and_swap_is_off_then(world: World) -> None:
    with world.fresh("echo.bin") as machine:
        world.take(machine, "one")
        before = filled(machine)
    with world.restored("one", fill=True) as machine:
        machine.start()
        world.ask(machine, "echo")
        assert machine.swap is not None
        until(machine.swap.status, lambda status: status.state is State.READY)
        assert stored(machine) == 0
        assert filled(machine) == before
        world.ask(machine, "echo")


def test_a_full_and_an_incremental_snapshot_of_an_unfinished_restore(world: World) -> None:
    with world.fresh("echo.bin") as machine:
        world.take(machine, "one")
        before = filled(machine)
    with world.restored("one") as machine:
        machine.start()
        world.ask(machine, "echo")
        base = machine.snapshots.base
        tracks = writeprotect.problem() is None
        assert (base is not None) is tracks
        machine.rams["echo"].write(FILLED[7], b"written")
        world.take(machine, "two", base)  # a full one where writes are not tracked
        there = stored(machine)
        assert there > len(FILLED) // 2
        world.take(machine, "whole")
        world.take(machine, "live", live=True)
        assert (
            stored(machine) > there - 100
        )  # nothing was brought in but what the guest has touched
        before = filled(machine)
    for name in ("two", "whole", "live"):
        with world.restored(name) as machine, world.restored(name, lazy=False) as eager:
            machine.start()
            eager.start()
            world.ask(machine, "echo")
            world.ask(eager, "echo")
            assert filled(machine) == filled(eager) == before
    with closing(open_chain(world.folder / "two")) as chain:
        assert not tracks or chain.newest.index.pages < 200  # not what was brought in


def test_what_was_touched_last_comes_first(world: World) -> None:
    with world.fresh("echo.bin") as machine:
        world.take(machine, "one")
    touched = [FILLED[at] // PAGE_SIZE for at in (202, 7, 151)]
    with world.restored("one") as machine:
        machine.start()
        world.ask(machine, "echo")
        for page in touched:
            machine.rams["echo"].read(page * PAGE_SIZE, 1)
        assert machine.snapshots.base is not None
        machine.rams["echo"].write(FILLED[61], b"written")
        world.take(machine, "two", machine.snapshots.base)
    with closing(open_chain(world.folder / "two")) as chain:
        order = [FILLED[61] // PAGE_SIZE, *reversed(touched)]
        hot = chain.newest.layout.hot()  # the guest's last accesses are among them
        assert [page for _, page, count in hot if count == 1 and page in order][:4] == order
        record = snapshotting.record_of(chain)
        memory = LazyMemory(chain, record)
        with closing(Ram("echo", SIZE)) as ram:
            pages = memory.open({"echo": ram})
            words = array("Q", os.pread(pages.frames, 1 << 20, 0))
            memory.close()
    first = 2 + 3 * words[0]
    assert [page for page in words[first : first + words[1]] if page in order][:4] == order


def test_swap_moves_memory_out_meanwhile(world: World, tmp_path: Path) -> None:
    with world.fresh("echo.bin") as machine:
        world.take(machine, "one")
        before = filled(machine)
    with world.restored("one", swap=tmp_path) as machine:
        machine.start()
        world.ask(machine, "echo")
        some = machine.rams["echo"].read(FILLED[0], 100 * PAGE_SIZE)
        assert some == before["echo"][: 100 * PAGE_SIZE]
        swap = machine.swap
        assert swap is not None
        assert swap.enable() > 60
        swap.swap_out()
        status = until(swap.status, lambda status: status.state is State.ACTIVE)
        assert status.metrics.file + status.metrics.compressed > 60
        assert status.metrics.stored > 100
        world.ask(machine, "echo")
        swap.client.disable()
        until(swap.status, lambda status: status.state is State.READY)
        assert filled(machine) == before


def test_a_discard_of_what_is_stored_is_zero(world: World) -> None:
    with world.fresh("echo.bin") as machine:
        world.take(machine, "one")
    with world.restored("one") as machine:  # it is not started: no guest brings pages in
        swap = machine.swap
        assert swap is not None
        left = stored(machine)
        swap.discard("echo", FILLED[0], 30 * PAGE_SIZE)
        assert stored(machine) == left - 20  # every third one was zero before
        assert not any(machine.rams["echo"].read(FILLED[0], 30 * PAGE_SIZE))


def test_monitors_die_all_the_while(world: World) -> None:
    with world.fresh("echo.bin") as machine:
        world.take(machine, "one")
        before = filled(machine)
    with world.restored("one", fill=True) as machine:
        swap = machine.swap
        assert swap is not None
        machine.start()
        found = bytearray()
        for at in range(0, SIZE - FILLED.start, 32 * PAGE_SIZE):
            process = swap.client.supervisor._process
            if process is not None:
                process.kill()
            found += machine.rams["echo"].read(FILLED.start + at, 32 * PAGE_SIZE)
        assert found == before["echo"]
        world.ask(machine, "echo")
        assert swap.client.supervisor.takeovers > 3


def flip(data: bytearray) -> None:
    """Change a byte of each 512."""
    for at in range(0, len(data), 512):
        data[at] ^= 0x40


def cut(data: bytearray) -> None:
    del data[:]


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("how", [flip, cut])
def test_a_damaged_frame_ends_the_vm_that_needs_it(
    world: World, how: Callable[[bytearray], None], *, snapshot: bool
) -> None:
    """Also while a snapshot keeps pages from being moved: else no vCPU could leave what it waits for."""
    with world.fresh("echo.bin", "trusty.bin") as machine:
        world.take(machine, "one", codec="raw")
        running = bytes(machine.rams["echo"].read(0, PAGE_SIZE))
        assert any(running)
    with world.restored("one") as machine:
        first = sum(any(part) for part in _pages(memory_of(machine)["echo"]))
    begins = _first_frame_of_trusty(first)

    def some(data: bytearray) -> None:
        tail = data[begins:]
        how(tail)
        data[begins:] = tail

    with world.restored("one") as machine:
        world.damage("one", some)  # after it was opened
        machine.start()
        assert machine.swap is not None
        if snapshot:
            machine.swap.hold("two")
        end = machine.endpoint("trusty", 1)
        end.try_send(b"hello")
        why = until(lambda: machine.aborts.get("trusty"), lambda found: found is not None)
        assert why is not None
        assert "of its memory is damaged: " in why
        assert "/one/pages: frame " in why
        assert end.recv(0) is None
        end.close()
        if snapshot:
            machine.swap.go_on()
        world.ask(machine, "echo")
        assert [vm for vm, _ in world.aborts] == ["trusty"]
        assert "echo" not in machine.aborts


def _pages(memory: bytes) -> list[bytes]:
    return [memory[at : at + PAGE_SIZE] for at in range(0, len(memory), PAGE_SIZE)]


def _first_frame_of_trusty(pages: int) -> int:
    """Return where the first frame begins, of raw ones, that has no page of the first VM."""
    return -(-pages // 32) * 32 * PAGE_SIZE


def test_a_snapshot_that_meets_a_damaged_frame_names_it(world: World) -> None:
    with world.fresh("echo.bin") as machine:
        world.take(machine, "one", codec="raw")
    with world.restored("one") as machine:
        machine.start()
        world.ask(machine, "echo")
        world.damage("one", flip)
        for live in (False, True):
            with pytest.raises(
                SnapshotError, match=r"vm echo: page \d+: .*/one/pages: frame \d+: "
            ):
                world.take(machine, f"two{live}", live=live)
            assert not (world.folder / f"two{live}").exists()


def test_where_faults_cannot_be_served_the_reason_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.fresh("echo.bin") as machine:
        world.take(machine, "one")
    with closing(open_chain(world.folder / "one")) as chain:
        record = snapshotting.record_of(chain)
    asked = []

    def refused(*, kernel: bool) -> int:
        asked.append(kernel)
        raise UserError("userfaultfd: Operation not permitted")

    assert lazy_memory.problem(record) is None
    monkeypatch.setattr(lazy_memory, "userfault", refused)
    assert lazy_memory.problem(record) == "userfaultfd: Operation not permitted"
    assert asked == [world.engine == "kvm"]
    others: list[EngineName] = ["kvm", "unicorn"]
    for other in others:  # what counts is where the guests run, not where they were saved
        assert lazy_memory.problem(record, other) is not None
    assert asked[1:] == [True, False]


def test_a_snapshot_of_other_memory_is_refused(world: World) -> None:
    with world.fresh("echo.bin") as machine:
        world.take(machine, "one")
    with closing(open_chain(world.folder / "one")) as chain:
        record = snapshotting.record_of(chain)
        memory = LazyMemory(chain, record)
        small = MachineSpec(vm=[VmSpec(image="echo.bin", memory=SIZE // 2)], engine=world.engine)
        with pytest.raises(Exception, match="size"):
            world.machine(small, None, memory)
