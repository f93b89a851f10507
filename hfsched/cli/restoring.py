"""`hfsched run --restore DIR`: the description of the machine in a snapshot, and the machine itself."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.errors import MisuseError, SnapshotError
from hfsched.snapshot.directory import name_of, open_chain
from hfsched.text import is_utf8, one_line
from hfsched.vmm import saving, snapshotting
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
    """

    chain: Chain
    record: MachineRecord
    passed: int
    name: str | None

    @property
    def spec(self) -> MachineSpec:
        """The machine's description."""
        return saving.spec_of(self.record)

    def machine(self, make: Callable[[MachineRecord], Machine]) -> Machine:
        """Return the machine, ready to be started, and close the snapshot; raises UserError."""
        with closing(self.chain):
            return snapshotting.restore(self.chain, self.record, make, self.passed, name=self.name)


def open_snapshot(args: argparse.Namespace) -> Restoration:
    """Open the snapshot that a command line names; raises MisuseError for what does not go with it, SnapshotError."""
    if args.words:
        raise MisuseError("--restore and a guest: choose one: the snapshot has its guests")
    unfit = [f"--{name.replace('_', '-')}" for name in _UNFIT if getattr(args, name) is not None]
    if unfit:
        raise MisuseError(f"{', '.join(unfit)}: the snapshot has it: leave it out with --restore")
    chain = open_chain(args.restore)
    try:
        for layer in chain.layers:
            if (problem := layer.size_problem()) is not None:
                raise SnapshotError(problem)
        record = snapshotting.record_of(chain)
        for vm in record.vms:
            # Its module would be imported, and its generators are not in there.
            if vm.engine == "script":
                raise SnapshotError(
                    f"{args.restore}: VM {one_line(vm.spec.name, 64)}: a Python guest cannot be restored"
                )
        passed = 0
        if args.clock == "host":
            passed = max(0, time.time_ns() - chain.index.created)
        name = name_of(args.restore)
        return Restoration(chain, record, passed, name if is_utf8(name) else None)
    except BaseException:
        chain.close()
        raise
