"""A machine's control socket: a task for each client, and what each request does.

`hfsched.control.commands` says what is spoken, `hfsched.control.command_client` is the other side.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from hfsched.control import commands, wire
from hfsched.control.commands import Answer, Done, Refused, Request, SwapReport
from hfsched.control.listener import accept
from hfsched.errors import HfschedError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.protocol.messages import TEXT_MAX
from hfsched.swap.report.picture import cell_size
from hfsched.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfsched.runtime.base import Connection, Listener, Runtime, Task
    from hfsched.vmm.swapping import MachineSwap

__all__ = ["CLIENTS_MAX", "CommandMachine", "CommandServer", "carry_out"]

CLIENTS_MAX = 16
PATIENCE = 60_000_000_000  # ns, until a client's next request
_CLOSE_WITHIN = 5_000_000_000  # ns
_NS_PER_MS = 1_000_000


class CommandMachine(Protocol):
    """What the server wants of a machine."""

    name: str
    swap: MachineSwap | None

    def vm_names(self) -> list[str]:
        """Return the names of the VMs."""


class CommandServer:
    """Answers requests on a listening socket, which it owns, from its making until `close`."""

    def __init__(
        self,
        runtime: Runtime,
        machine: CommandMachine,
        listener: Listener,
        *,
        patience: int = PATIENCE,
    ) -> None:
        self._runtime = runtime
        self._machine = machine
        self._patience = patience
        self._listener = listener
        self._closing = runtime.event("control.closing")
        self._lock = runtime.lock("control.clients", state=lambda: tuple(self._clients))
        self._clients: dict[int, Task] = {}
        self._count = 0
        self._acceptor = runtime.spawn("control.accept", self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self, deadline: int | None = None) -> list[str]:
        """Refuse new clients, and wait for the requests under way; return tasks that did not end."""
        if deadline is None:
            deadline = self._runtime.now() + _CLOSE_WITHIN
        self._closing.set()
        stuck = [] if self._acceptor.join(deadline) else [self._acceptor.name]
        self._listener.close()
        with self._lock:
            tasks = list(self._clients.values())
        stuck += [task.name for task in tasks if not task.join(deadline)]
        if not stuck:
            self._closing.close()
        return stuck

    def _accept(self) -> None:
        accept(self._runtime, self._listener, self._closing, self._receive)

    def _receive(self, connection: Connection) -> None:
        try:
            self._admit(connection)
        except HfschedError as exc:
            _say(connection, Refused(text=one_line(str(exc), TEXT_MAX)))
            connection.close()

    def _admit(self, connection: Connection) -> None:
        wire.check_peer(connection.peer_uid)
        with self._lock:  # it must be known before it can be forgotten
            if len(self._clients) >= CLIENTS_MAX:
                raise HfschedError(f"the control socket has {CLIENTS_MAX} clients already")
            self._count += 1
            name = f"control.{self._count}"
            body = partial(self._serve, self._count, connection)
            self._clients[self._count] = self._runtime.spawn(name, body)

    def _serve(self, number: int, connection: Connection) -> None:
        try:
            while self._turn(connection):
                pass
        finally:
            connection.close()
            with self._lock:
                del self._clients[number]

    def _turn(self, connection: Connection) -> bool:
        """Answer one request; False: there will be no more."""
        deadline = self._runtime.now() + self._patience
        ready = self._runtime.select([connection, self._closing], deadline)
        if self._closing in ready:
            _say(connection, Refused(text=f"machine {self._machine.name} is about to end"))
            return False
        if connection not in ready:
            return False
        try:
            data = connection.recv(commands.REQUEST_MAX + 1)
        except OSError:
            return False
        return bool(data) and _say(connection, self._answer(data or b""))

    def _answer(self, data: bytes) -> Answer:
        try:
            request = commands.decode_request(data)
            deadline = self._runtime.now() + request.within_ms * _NS_PER_MS
            return carry_out(self._machine, request, deadline)
        except HfschedError as exc:
            return Refused(text=one_line(str(exc), TEXT_MAX))
        except OSError as exc:  # main lacks descriptors or memory for a moment; the guests run on
            return Refused(text=one_line(f"{self._machine.name}: {exc.strerror or exc}", TEXT_MAX))


def carry_out(machine: CommandMachine, request: Request, deadline: int) -> Answer:
    """Do what a request wants; raises HfschedError for what cannot be done by the deadline (ns)."""
    names = machine.vm_names()
    if request.vm is not None and request.vm not in names:
        raise HfschedError(f"no VM {request.vm!r} in machine {machine.name}: {', '.join(names)}")
    swap = machine.swap
    if swap is None:
        remedy = "start it with: hfsched run --swap-dir DIR"
        raise HfschedError(f"machine {machine.name} cannot swap: {remedy}")
    match request:
        case commands.SwapEnable():
            return Done(pages=swap.enable(deadline))
        case commands.SwapTrim():
            swap.client.trim(deadline)
        case commands.SwapOut():
            swap.client.swap_out(deadline)
        case commands.SwapDisable(slow_file_cleanup=slow):
            swap.client.disable(slow_file_cleanup=slow, deadline=deadline)
        case commands.SwapStatus(vm=vm, fine=fine):
            return _report(swap, names if vm is None else [vm], deadline, fine=fine)
    return Done()


def _report(swap: MachineSwap, names: Sequence[str], deadline: int, *, fine: bool) -> Answer:
    cell = cell_size([swap.sizes[name] for name in names], commands.CELLS_MAX, fine=fine)
    status, memory = swap.status(deadline), swap.footprint.measure()
    metrics = status.metrics
    there = memory.guests // PAGE_SIZE - metrics.staged - metrics.busy
    report = SwapReport(
        status=status,
        memory=memory,
        empty=max(0, metrics.resident - max(0, there)),
        cell=cell * PAGE_SIZE,
        pictures=swap.pictures(names, cell),
    )
    if len(commands.encode(report)) > commands.ANSWER_MAX:
        raise HfschedError("this is too much for one answer: ask for one VM")
    return report


def _say(connection: Connection, answer: Answer) -> bool:
    """Send an answer; False: it does not listen."""
    with suppress(OSError, ChannelClosedError):
        return connection.send(commands.encode(answer)) > 0
    return False
