"""The servers of a machine's sockets, as `hfsched run` has them: production code over modelled sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from hfsched.control.command_server import CommandServer
from hfsched.control.events import Hub, Started
from hfsched.control.port_server import PortServer

if TYPE_CHECKING:
    from hfsched.control.runtime_dir import MachineDirectory
    from hfsched.explore.foreign import XListener
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.scenarios.shipped.world import ShippedMachine

__all__ = ["Servers"]


class _Number:
    """What stands for a new socket of the directory."""

    def __init__(self, number: int) -> None:
        self._number = number

    def detach(self) -> int:
        return self._number


class _Directory:
    """The machine's directory with a listening socket: `hfsched.control.runtime_dir.MachineDirectory`."""

    name = "m"

    def __init__(self, runtime: ExploreRuntime, listener: XListener) -> None:
        self._runtime = runtime
        self._listener = listener

    def listen(self, what: str) -> _Number:
        del what
        return _Number(self._runtime.descriptor(self._listener))


class Servers:
    """Those of ports and of commands, as `hfsched run` has them."""

    def __init__(
        self,
        runtime: ExploreRuntime,
        shipped: ShippedMachine,
        *,
        ports: bool,
        control: bool,
        places: int,
    ) -> None:
        machine = shipped.machine
        self.machine = machine
        self.hub = Hub(runtime)
        machine.suspension.on_hold = self.hub.note_hold
        self.port_listener = runtime.listener("ports.socket")
        self.command_listener = runtime.listener("control.socket")
        directory: Any = _Directory(runtime, self.port_listener)
        self.ports: PortServer | None = None
        self.commands: CommandServer | None = None
        if ports:
            self.ports = PortServer(
                runtime,
                machine,
                cast("MachineDirectory", directory),
                clients_max=places,
                silent_max=0,
                on_idle=shipped.note_activity,
                on_client=self.hub.note_client,
            )
            shipped.on_abort = self.ports.vm_ended
        if control:
            self.commands = CommandServer(
                runtime, machine, self.hub, self.command_listener, clients_max=places
            )
        self.came: list[
            tuple[str, str]
        ] = []  # what clients did, in order: {name, connects or asks}
        runtime.declare_records(self.came, reason="what the oracles compare")
        names = tuple(machine.vm_names())
        self.hub.publish(Started(machine=machine.name, version="", vms=names))

    def pending(self) -> bool:
        """Return whether a client's message is on its way; see `PortServer.pending`."""
        return self.ports is not None and self.ports.pending()

    def close_commands(self) -> list[str]:
        """Do what comes before the machine's stop; return the tasks that did not end."""
        return [] if self.commands is None else self.commands.close()

    def close_ports(self) -> list[str]:
        """Do what comes after it, likewise."""
        return [] if self.ports is None else self.ports.close()
