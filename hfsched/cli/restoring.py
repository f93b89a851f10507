"""`hfsched run --restore DIR` and `--clone DIR`: the description of the machine in a snapshot, and the machine itself."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.errors import MisuseError, SnapshotError
from hfsched.snapshot.directory import name_of, open_chain
from hfsched.text import is_utf8, one_line, printable
from hfsched.vmm import saving, snapshotting
from hfsched.vmm.lazy import LazyMemory, problem
from hfsched.vmm.records import MachineRecord

if TYPE_CHECKING:
    from hfsched.snapshot.chain import Chain
    from hfsched.vmm.machine import Machine
    from hfsched.vmm.manifest import MachineSpec

__all__ = ["CLOCKS", "Restoration", "open_snapshot"]

CLOCKS = ("continue", "host")
_UNFIT = ("memory", "vcpus", "dialect", "fdt", "framing", "raw_image")


class Restoration(Struct, frozen=True):
    """A snapshot that is open, the record in it, and the time (ns) that is added to the guests' clocks.

    `name` is that of its directory, None if that is not UTF-8: then no other one can name it as its parent.
    `lazy`: memory comes as it is accessed; `why_not_lazy` says why that is impossible, None if it is not.
    `clone`: the machine is one of several of the snapshot, which is at `directory`.
    """

    chain: Chain
    record: MachineRecord
    passed: int
    name: str | None
    lazy: bool
    why_not_lazy: str | None
    directory: str = ""
    clone: bool = False

    @property
    def spec(self) -> MachineSpec:
        """The machine's description."""
        return saving.spec_of(self.record)

    def notices(self, name: str | None) -> list[str]:
        """Return what the user may want to know of a clone, whose name is `name`."""
        if not self.clone:
            return []
        called = "" if name is None else f"machine {name}: "
        found = [f"{called}a clone of {self.directory}"]
        for vm in self.record.vms:
            if not vm.generation:
                why = (
                    "was saved before there were any"
                    if vm.spec.fdt
                    else "has no device tree (--fdt auto)"
                )
                found.append(
                    f"vm {vm.spec.name} has no generation id, for it {why}: its guest cannot see that it is a"
                    " clone, and draws the random numbers of the others"
                )
        return found

    def machine(self, make: Callable[[MachineRecord, LazyMemory | None], Machine]) -> Machine:
        """Return the machine, ready to be started; raises UserError.

        The snapshot is closed, unless memory comes out of it as it is accessed: then it is closed with the machine.
        """
        with ExitStack() as closing:
            closing.callback(self.chain.close)
            lazy = None
            if self.lazy:
                lazy = LazyMemory(self.chain, self.record, fill=not self.clone)
                closing.callback(lazy.close)
            machine = snapshotting.restore(
                self.chain, self.record, make, self.passed, name=self.name, lazy=lazy
            )
            if lazy is not None:
                closing.pop_all()
            return machine


def open_snapshot(args: argparse.Namespace) -> Restoration:
    """Open the snapshot that a command line names; raises MisuseError for what does not go with it, SnapshotError."""
    clone = args.restore is None
    option, directory = ("--clone", args.clone) if clone else ("--restore", args.restore)
    if args.words:
        raise MisuseError(f"{option} and a guest: choose one: the snapshot has its guests")
    unfit = [f"--{name.replace('_', '-')}" for name in _UNFIT if getattr(args, name) is not None]
    if unfit:
        raise MisuseError(f"{', '.join(unfit)}: the snapshot has it: leave it out with {option}")
    chain = open_chain(directory)
    try:
        chain.check_sizes()
        record = snapshotting.record_of(chain)
        for vm in record.vms:
            # Its module would be imported, and its generators are not in there.
            if vm.engine == "script":
                raise SnapshotError(
                    f"{directory}: VM {one_line(vm.spec.name, 64)}: a Python guest cannot be restored"
                )
        passed = 0
        if args.clock == "host":
            passed = max(0, time.time_ns() - chain.index.created)
        name = name_of(directory)
        why_not = None if args.eager else problem(record, args.engine or "auto")
        return Restoration(
            chain,
            record,
            passed,
            name if is_utf8(name) else None,
            lazy=not args.eager and why_not is None,
            why_not_lazy=why_not,
            directory=printable(directory),
            clone=clone,
        )
    except BaseException:
        chain.close()
        raise
