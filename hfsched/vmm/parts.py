"""What a machine is made of besides what its description says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from hfsched.memory.ram import Ram
from hfsched.runtime.threads.peers import PathPeers
from hfsched.vcpu.engines import ENGINES
from hfsched.vmm.assembly import Parts
from hfsched.vmm.generation import Generations
from hfsched.vmm.snapshots import Snapshots
from hfsched.vmm.tracking import source_of

if TYPE_CHECKING:
    from hfsched.memory.dirty import Source
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.engine import Engine
    from hfsched.vcpu.engines import EngineId
    from hfsched.vhost.frontend.peers import Peers
    from hfsched.vmm.swapping import MachineSwap

__all__ = ["MachineParts"]


def _machine_swap(*args: Any, **kwargs: Any) -> MachineSwap:
    from hfsched.vmm.swapping import MachineSwap  # noqa: PLC0415 - only where it is wanted

    return MachineSwap(*args, **kwargs)


def _engine(name: EngineId, runtime: Runtime) -> Engine:
    return ENGINES[name](runtime)


class MachineParts(Struct, frozen=True):
    """The parts of a `hfsched.vmm.machine.Machine`; the explorer replaces some by models.

    `assembly` are the parts that every machine has, `ram(name, size)` makes a VM's memory of `size`
    bytes, `engine(name, runtime)` an engine, `swap` is called as `MachineSwap` is, and `snapshots` as
    `Snapshots` is.  `source` says where the memory is mapped; it is called as
    `hfsched.vmm.tracking.source_of` is.  `generations` makes generation ids, as many as it is told.
    `peers(runtime, path)` opens what reaches the program that serves a device at a path.
    """

    assembly: Parts = Parts()
    ram: Callable[[str, int], Ram] = Ram
    engine: Callable[[EngineId, Runtime], Engine] = _engine
    swap: Callable[..., MachineSwap] = _machine_swap
    snapshots: Callable[..., Snapshots] = Snapshots
    source: Callable[[Mapping[str, Ram], MachineSwap | None], Source] = source_of
    generations: Callable[[int], Generations] = Generations
    peers: Callable[[Runtime, str], Peers] = PathPeers
