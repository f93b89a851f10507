"""What a run serves: the sockets of ports and of commands, in the machine's directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hfsched.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from hfsched.cli.preflight import Clients
    from hfsched.control.command_server import CommandServer
    from hfsched.control.events import Hub
    from hfsched.control.port_server import PortServer
    from hfsched.control.runtime_dir import MachineDirectory
    from hfsched.control.swap_watch import SwapWatch
    from hfsched.runtime.base import Runtime
    from hfsched.vmm.machine import Machine

__all__ = ["Serving"]

_NS = 1_000_000_000
_SWAP_WATCH_WITHIN = 5 * _NS  # a clock: an end must come although the monitor is stopped


class Serving:
    """The servers of one run, `open` once its machine runs; all but `claim`, `claim_copy` and `open` may be called before.

    `changed` is called when the machine may be quiet, `notice(text)` with what the user may want to know.
    """

    def __init__(
        self,
        runtime: Runtime,
        args: argparse.Namespace,
        name: str | None,
        clients: Clients,
        events: Hub,
        changed: Callable[[], None],
        notice: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self._args = args
        self._name = name
        self._clients = clients
        self._events = events
        self._changed = changed
        self._notice = notice
        self._directory: MachineDirectory | None = None
        self._ports: PortServer | None = None
        self._commands: list[CommandServer] = []
        self._swap_watch: SwapWatch | None = None

    def claim(self) -> None:
        """Take the machine's directory; raises UserError."""
        from hfsched.control.runtime_dir import claim  # noqa: PLC0415 - only where it is needed

        self._directory = claim(self._name)

    def claim_copy(self) -> str:
        """Take the directory of a copy of the machine, with a number behind its name; return the copy's name.

        Raises UserError.
        """
        from hfsched.control.runtime_dir import claim_numbered  # noqa: PLC0415 - only where it is needed

        assert self._name is not None
        self._directory = claim_numbered(self._name)
        self._name = self._directory.name
        return self._name

    def open(self, machine: Machine) -> None:
        """Open the sockets; without a directory for them, continue without, unless the user has named one."""
        from hfsched.control.port_server import PortServer  # noqa: PLC0415 - guests start before it is imported

        try:
            if self._directory is None:
                self.claim()
            assert self._directory is not None
            self._ports = PortServer(
                self._runtime,
                machine,
                self._directory,
                on_idle=self._changed,
                on_client=self._events.note_client,
                on_notice=self._notice,
                unread_limit=self._args.unread_limit,
                clients_max=self._clients.ports,
                silent_max=self._clients.silent,
            )
            self._open_commands(machine, self._directory)
        except UserError as exc:
            if self._name is not None or self._args.socket is not None:
                raise
            self._notice(f"no ports for host programs: {exc}")
        for vm, reason in list(machine.aborts.items()):
            self.vm_ended(vm, reason)

    def _open_commands(self, machine: Machine, directory: MachineDirectory) -> None:
        from hfsched.control.command_server import CommandServer  # noqa: PLC0415
        from hfsched.control.commands import CONTROL  # noqa: PLC0415 - likewise
        from hfsched.control.swap_watch import SwapWatch  # noqa: PLC0415 - likewise

        listeners = [directory.listen(CONTROL)]
        if self._args.socket is not None:
            listeners.append(directory.listen_at(Path(self._args.socket)))
        self._commands = [
            CommandServer(
                self._runtime,
                machine,
                self._events,
                self._runtime.adopt_listener(CONTROL, each.detach()),
                clients_max=self._clients.commands,
            )
            for each in listeners
        ]
        if machine.swap is not None:
            self._swap_watch = SwapWatch(self._runtime, machine.swap, self._events)

    # While it runs, and afterwards.

    def vm_ended(self, vm: str, reason: str) -> None:
        """Tell a VM's clients that it has ended.  Does not block."""
        if self._ports is not None:
            self._ports.vm_ended(vm, reason)

    def pending(self) -> bool:
        """Return whether some client's message was sent and not yet accepted by its VM."""
        return self._ports is not None and self._ports.pending()

    def discarded(self, vm: str) -> int:
        """Return how many messages of a VM were taken for a client that had disconnected."""
        return 0 if self._ports is None else self._ports.discarded(vm)

    def undelivered(self) -> Mapping[str, int]:
        """Return how many messages of clients no VM took, by VM."""
        return {} if self._ports is None else self._ports.undelivered()

    # The end.

    def close_commands(self, what: str | None = None) -> list[str]:
        """End the commands' clients, before the machine's stop; return the tasks that did not end.

        The ports' clients will find `what` the machine does, if that is given.
        """
        if self._ports is not None and what is not None:
            self._ports.foretell(what)
        stuck = [task for server in self._commands for task in server.close()]
        if self._swap_watch is not None:
            stuck += self._swap_watch.close(self._runtime.now() + _SWAP_WATCH_WITHIN)
        return stuck

    def close_ports(self) -> list[str]:
        """End the ports' clients, after it, likewise."""
        return [] if self._ports is None else self._ports.close()

    def close(self) -> None:
        """Remove the directory."""
        if self._directory is not None:
            self._directory.close()
