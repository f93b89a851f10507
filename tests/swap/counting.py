"""A guest that counts in many pages, so that memory that is not of one instant is seen; and snapshots of machines."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from progress import QUIET_NS, until

from hfsched.runtime.threads import ThreadRuntime
from hfsched.snapshot.directory import make_layer, open_chain
from hfsched.vmm import snapshotting
from hfsched.vmm.attempt import Wish, Written
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import MachineSpec, VmSpec
from hfsched.vmm.saving import spec_of

from .guestmemory import MIB, PAGE

if TYPE_CHECKING:
    from talk import Target

    from hfsched.vmm.records import MachineRecord
    from hfsched.vmm.swapping import MachineSwap

__all__ = ["Counting", "check_instant", "restored", "snapshot", "values_of"]

PAGES = 400  # that are counted in, from 1 MiB on
SIZE = 4 * MIB


def image(architecture: str) -> bytes:
    """Return code that writes 0, 1, 2... into the first words of `PAGES` pages in turn, for ever."""
    if architecture == "x86_64":
        return b"".join(
            [
                bytes.fromhex("488d1df9ffffff"),  # lea -7(%rip), %rbx: the image
                bytes.fromhex("4881c300001000"),  # add $1 MiB, %rbx
                bytes.fromhex("4889da"),  # outer: mov %rbx, %rdx
                b"\xb9" + struct.pack("<I", PAGES),  # mov $PAGES, %ecx
                bytes.fromhex("488902"),  # inner: mov %rax, (%rdx)
                bytes.fromhex("48ffc0"),  # inc %rax
                bytes.fromhex("4881c200100000"),  # add $4096, %rdx
                bytes.fromhex("48ffc9"),  # dec %rcx
                bytes.fromhex("75ee"),  # jnz inner
                bytes.fromhex("ebe4"),  # jmp outer
            ]
        )
    return struct.pack(
        "<11I",
        0x10000003,  # adr x3, .
        0xD2A00204,  # movz x4, 0x10, lsl 16
        0x8B040063,  # add x3, x3, x4
        0xAA0303E5,  # outer: mov x5, x3
        0xD2800006 | PAGES << 5,  # movz x6, PAGES
        0xF90000A7,  # inner: str x7, [x5]
        0x910004E7,  # add x7, x7, 1
        0x914004A5,  # add x5, x5, 0x1000
        0xF10004C6,  # subs x6, x6, 1
        0x54FFFF81,  # b.ne inner
        0x17FFFFF9,  # b outer
    )


class Counting:
    """A machine with the guest that counts, in a ``with``."""

    def __init__(self, target: Target, directory: Path, *, swap: bool = True) -> None:
        if why_not := target.why_not():
            pytest.skip(f"{target}: {why_not}")
        self.failures: list[str] = []
        self.runtime = ThreadRuntime(lambda task, error: self.failures.append(f"{task}: {error!r}"))
        path = directory / "counting.bin"
        path.write_bytes(image(target.architecture))
        vm = VmSpec(image=str(path), name="counting", format="raw", memory=SIZE)
        place = str(directory) if swap else None
        spec = MachineSpec(vm=[vm], engine=target.engine, name="demo", swap=place)
        spec.check("test")
        self.machine = Machine(spec, self.runtime, lambda _vm, _line: None)

    def __enter__(self) -> Self:
        self.machine.start()
        self.count()
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self.machine.close()
        self.runtime.close()
        assert kind is not None or self.failures == []

    @property
    def swap(self) -> MachineSwap:
        assert self.machine.swap is not None
        return self.machine.swap

    def now(self) -> int:
        """Return what the guest has counted to, in its first page."""
        return values_of(self.machine)[0]

    def count(self) -> None:
        """Wait until the guest has been through all pages twice."""
        before = self.now()
        until(self.now, lambda now: now >= before + 2 * PAGES)

    def deadline(self) -> int:
        return self.runtime.now() + QUIET_NS


def values_of(machine: Machine) -> list[int]:
    """Return the first words of all pages that are counted in."""
    (ram,) = machine.rams.values()
    first = MIB // PAGE
    return [
        int.from_bytes(ram.read(page * PAGE, 8), "little") for page in range(first, first + PAGES)
    ]


def check_instant(values: Sequence[int]) -> None:
    """Check that there was an instant at which the pages had these values."""
    newest = max(values)
    place = newest % PAGES
    now = [
        newest - place + page if page <= place else newest - place - PAGES + page
        for page in range(PAGES)
    ]
    assert list(values) == now


def snapshot(
    machine: Machine, where: Path, *, live: bool = True, incremental: bool = False
) -> Written:
    """Take a snapshot, and confirm it."""
    snapshots = machine.snapshots
    with make_layer(where) as files:
        wish = Wish(
            name=where.name,
            created=1,
            live=live,
            incremental=incremental,
            parent=snapshots.base if incremental else None,
        )
        attempt, written = snapshots.take(
            (files.pages_fd, files.index_fd), wish, machine._runtime.now() + QUIET_NS
        )
    snapshots.confirm(attempt)
    return written


@contextmanager
def restored(where: Path) -> Iterator[Machine]:
    """Yield the machine of a snapshot, not started yet."""
    failures: list[str] = []
    runtime = ThreadRuntime(lambda task, error: failures.append(f"{task}: {error!r}"))

    def make(record: MachineRecord, _lazy: object) -> Machine:
        return Machine(spec_of(record), runtime, log=lambda _vm, _line: None, saved=record)

    with closing(open_chain(where)) as chain:
        made = snapshotting.restore(chain, snapshotting.record_of(chain), make)
    with made:
        yield made
    runtime.close()
    assert failures == []
