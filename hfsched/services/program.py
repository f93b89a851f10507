"""The guest `utility` of the engine `script`: all services, and commands that bring their daemon into trouble.

`guests/utility` is the same guest in C; `guests/README.md` describes both.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from hfsched.abi.ffa import PRIMARY_ID, Intid
from hfsched.abi.vmgenid import GENERATION_INTID
from hfsched.mailbox.ports import HEADER, frame
from hfsched.programs.library import (
    Call,
    GuestMailbox,
    generation_id,
    interrupt_enable,
    interrupt_get,
    log,
    swap_ports,
)
from hfsched.services.bodies import (
    KvpOp,
    KvpRequest,
    Request,
    ShutdownOp,
    ShutdownRequest,
    pack,
)
from hfsched.services.daemons import Daemon, FileReceiver, Freezer, KeyValues, Simple
from hfsched.services.guest import GuestService, GuestState
from hfsched.services.transaction import Answer, Status
from hfsched.services.utility import Utility
from hfsched.services.wire import PORT, Goodbye, Kind, ServiceId, WireError, decode, encode
from hfsched.vcpu.script import Cpu, Guest, Hvc, Wfi

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["utility"]

_MSG_WAIT = 0x8400006B
_CPU_OFF = 0x84000002
_NO_INTERRUPT = 0xFFFF_FFFF
_MS = 1_000_000  # ns
_PLACES = ("now", "rx", "buffered", "half")
_HELP = "files, state, hibernate PLACE MS, nap PLACE MS, mute N, crash, get KEY, set KEY VALUE, generation"


def utility(cpu: Cpu) -> Guest:
    """Serve; see the module's docstring."""
    yield from _Guest(cpu).run()


class _Files:
    """Files in memory, whole ones alone."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._name = ""
        self._part = bytearray()

    def begin(self, name: str, mode: int, size: int) -> bool:  # noqa: ARG002 - no modes here
        self._name, self._part = name, bytearray()
        return size <= 1 << 30

    def write(self, offset: int, data: bytes) -> bool:
        self._part[offset:] = data
        return True

    def commit(self) -> bool:
        self.files[self._name] = bytes(self._part)
        return True

    def remove(self) -> None:
        self._part = bytearray()


class _Held(Daemon):
    """A daemon that changes nothing while the guest is frozen."""

    def __init__(self, guest: _Guest, daemon: Daemon) -> None:
        self._guest = guest
        self._daemon = daemon

    def serve(self, request: Request, now: int) -> Answer:
        changes = isinstance(request, KvpRequest) and request.op in (KvpOp.SET, KvpOp.DELETE)
        if changes and self._guest.frozen:
            return Answer(Status.FAILED, b"frozen")
        return self._daemon.serve(request, now)

    def cancel(self) -> None:
        self._daemon.cancel()


class _Guest:
    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._mailbox = GuestMailbox(cpu)
        self._files = _Files()
        self.frozen = False
        self._time = 0
        self._down = False
        self._mute = 0
        self._armed: tuple[str, int] | None = None  # sleep at this place, for so many ms
        self._hibernates = False  # or it sleeps as one that is busy does
        self._asker: bytes | None = None  # the ports of who had us ask
        simple = Simple(self._set_time, self._shut_down)
        daemons: dict[ServiceId, Daemon] = {
            ServiceId.KVP: _Held(self, KeyValues({"os": b"utility"})),
            ServiceId.FREEZE: Freezer(self._freeze),
            ServiceId.FILE: FileReceiver(self._files),
            ServiceId.HEARTBEAT: simple,
            ServiceId.TIME: simple,
            ServiceId.SHUTDOWN: simple,
        }
        self._utility = Utility(daemons)

    def _freeze(self, on: bool) -> bool:  # noqa: FBT001 - see `Freezer`
        self.frozen = on
        return True

    def _set_time(self, ns: int) -> bool:
        self._time = ns
        return True

    def _shut_down(self, request: ShutdownRequest) -> bool:
        self._down = request.op is ShutdownOp.POWER_OFF
        return self._down

    @property
    def _kvp(self) -> GuestService:
        return self._utility.services[ServiceId.KVP]

    def _now(self) -> int:
        self._cpu.arm(0)
        now = self._cpu.timer
        self._cpu.arm(None)
        assert now is not None
        return now

    def run(self) -> Call[None]:
        yield from self._mailbox.map()
        yield from interrupt_enable(Intid.VIRTUAL_TIMER)
        yield from interrupt_enable(GENERATION_INTID)
        yield from log("utility: up")
        yield from self._send(self._utility.start())
        while not self._down:
            if self._armed is not None and self._armed[0] == "rx":
                yield from self._until_in_rx()
                yield from self._sleep()
            yield from self._turn()
        for each in self._utility.services.values():
            yield from self._send([encode(each.goodbye(Goodbye.EXIT))])
        yield from log("utility: down")
        while True:
            yield Hvc(_CPU_OFF)

    def _turn(self) -> Call[None]:
        """Take a message, or an interrupt."""
        now = self._now()
        self._utility.tick(now)
        dues = [each.due for each in self._utility.daemons.values() if each.due is not None]
        self._cpu.arm(max(0, min(dues) - now) if dues else None)
        found = self._mailbox.message((yield Hvc(_MSG_WAIT)))
        if found is None:
            yield from self._taken((yield from interrupt_get()))
            return
        sender, message = found
        yield from self._mailbox.release()
        if HEADER.unpack_from(message)[1] == PORT and sender == PRIMARY_ID:
            yield from self._serve(message[HEADER.size :])
        else:
            yield from self._command(sender, message)

    def _send(self, messages: Iterable[bytes]) -> Call[None]:
        for data in messages:
            yield from self._mailbox.send(PRIMARY_ID, frame(PORT, PORT, data))

    # Services.

    def _serve(self, data: bytes) -> Call[None]:
        request = _is_request(data)
        place = None if self._armed is None or not request else self._armed[0]
        if request and self._mute:
            self._mute -= 1
            return
        if place == "buffered":
            yield from self._sleep()
        outgoing = self._utility.receive(data, self._now())
        if place == "half":
            yield from self._sleep()
        yield from self._send(outgoing)
        if self._asker is not None and self._kvp.answer is not None:
            asker, self._asker = self._asker, None
            answer = self._kvp.answer
            value = answer.body.decode(errors="replace")
            text = f"ok {value}" if answer.ok else f"status {int(answer.status)}"
            yield from self._mailbox.send(PRIMARY_ID, asker + text.encode())

    def _until_in_rx(self) -> Call[None]:
        yield from self._until(Intid.MAILBOX_READABLE)
        yield from interrupt_enable(Intid.MAILBOX_READABLE, on=False)

    def _sleep(self) -> Call[None]:
        assert self._armed is not None
        ms, self._armed = self._armed[1], None
        if self._hibernates:
            yield from self._send(self._utility.hibernate())
        yield from log("utility: asleep")
        self._cpu.arm(ms * _MS)
        yield from self._until(Intid.VIRTUAL_TIMER)
        self._cpu.arm(None)
        yield from log("utility: awake")
        if self._hibernates:
            yield from self._send(self._utility.start())

    def _until(self, intid: Intid) -> Call[None]:
        while (taken := (yield from interrupt_get())) != intid:
            yield from self._taken(taken)
            yield Wfi()

    def _taken(self, intid: int) -> Call[None]:
        if intid == GENERATION_INTID:
            yield from log(f"utility: generation {(yield from generation_id()).hex()}")

    # Commands.

    def _command(self, sender: int, message: bytes) -> Call[None]:
        ports = swap_ports(message[: HEADER.size])
        text = message[HEADER.size :].decode(errors="replace").rstrip("\n\r\0")
        answer = self._answer(text, ports)
        if text == "generation":
            answer = (yield from generation_id()).hex()
        if self._armed is not None and self._armed[0] == "rx":
            yield from interrupt_enable(Intid.MAILBOX_READABLE)
            while (yield from interrupt_get()) != _NO_INTERRUPT:
                pass  # what is pending from before
        if answer is not None:
            yield from self._mailbox.send(sender, ports + answer.encode())
        if self._armed is not None and self._armed[0] == "now":
            yield from self._sleep()
        if text == "crash":
            self._utility.services = {each: GuestService(each) for each in self._utility.daemons}
            yield from self._send(self._utility.start())
        elif answer is None:
            operation, key, value = (*text.split(" ", 2), "")[:3]
            op = KvpOp.GET if operation == "get" else KvpOp.SET
            _, body = pack(KvpRequest(op, key, value.encode()))
            yield from self._send([encode(self._kvp.ask(body))])

    def _answer(self, text: str, ports: bytes) -> str | None:
        """Return the answer to a command; None: it comes when the host has answered."""
        words = text.split(" ", 2)
        match words:
            case ["files"]:
                files = sorted(self._files.files.items())
                lines = [f"{name} {len(data)} {zlib.crc32(data):x}" for name, data in files]
                return "\n".join(lines) or "no files"
            case ["state"]:
                services = self._utility.services.values()
                stale = sum(each.stale for each in services)
                dropped = sum(each.dropped for each in services)
                ready = sum(each.state is GuestState.READY for each in services)
                frozen = int(self.frozen)
                counts = f"ready {ready} frozen {frozen} stale {stale} dropped {dropped}"
                return f"{counts} mute {self._mute} time {self._time}"
            case ["hibernate" | "nap" as verb, place, ms] if place in _PLACES and ms.isdecimal():
                self._hibernates = verb == "hibernate"
                self._armed = (place, int(ms))
                return "armed"
            case ["mute", count] if count.isdecimal():
                self._mute = int(count)
                return "mute"
            case ["crash"]:
                return "crashed"
            case ["get", _] | ["set", _, _]:
                if self._kvp.state is not GuestState.READY or self._asker is not None:
                    return "busy"
                self._asker = ports
                return None
        return _HELP


def _is_request(data: bytes) -> bool:
    try:
        return decode(data).kind is Kind.REQUEST
    except WireError:
        return False
