"""A Linux guest of QEMU (TCG) with vhost-user devices.

:meth:`LinuxGuest.bare` is the way for most tests: a guest without devices that was booted once and
is restored (0.5 s), into which devices are plugged. A guest that is restored from a file must have
been given the same devices in the same order as the one that was saved, whether plugged or not.
"""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from qemu.cache import key_of

from .child import Child
from .image import image
from .packages import programs
from .qmp import Qmp, QmpError
from .serial import Serial

__all__ = ["Device", "LinuxGuest", "Shape"]

_FORMAT = "1"  # to be changed with the options below
_PORTS = 4  # sockets for hot plug; each device has one, for what is not in one cannot be unplugged
_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 tsc=unstable mitigations=off cryptomgr.notests nokaslr"
)
DEFER = "defer"


@dataclass(frozen=True)
class Shape:
    """The guest's CPUs, and its memory in MiB: 128 are enough for one CPU, 256 for two."""

    cpus: int = 1
    memory: int = 128


@dataclass(frozen=True)
class Device:
    """A ``vhost-user-KIND-pci`` whose back-end listens at `socket`.

    `properties` are QEMU's, such as ``{"num-queues": 2}`` of blk or ``{"tag": "t"}``, which fs must
    have. With `reconnect_ms` QEMU connects again when the back-end has gone.
    """

    kind: str
    socket: Path
    name: str = "device"
    properties: Mapping[str, Any] = field(default_factory=dict)
    reconnect_ms: int = 0

    @property
    def chardev(self) -> str:
        """The name of its connection."""
        return f"chardev-{self.name}"


class LinuxGuest:
    """A guest, booted or, with `incoming`, restored from a file; used in a ``with``.

    With ``incoming="defer"`` it waits until :meth:`receive`. A restored guest that was saved while
    stopped is let run, unless `paused`. An exit by an exception shows what QEMU and the guest said.
    """

    def __init__(
        self,
        devices: Sequence[Device] = (),
        *,
        shape: Shape = Shape(),
        incoming: Path | str | None = None,
        paused: bool = False,
    ) -> None:
        self._ports: list[str | None] = [None] * _PORTS
        found = programs()
        with ExitStack() as stack:
            monitor, their_monitor = socket.socketpair()
            serial, their_serial = socket.socketpair()
            stack.enter_context(their_monitor)
            stack.enter_context(their_serial)
            command = [found.path("qemu-system-x86_64"), *found.firmware, *_machine(shape)]
            command += ["-chardev", f"socket,id=serial,fd={their_serial.fileno()}"]
            command += ["-serial", "chardev:serial"]
            command += ["-chardev", f"socket,id=monitor,fd={their_monitor.fileno()}"]
            command += ["-mon", "chardev=monitor,mode=control"]
            for device in devices:
                command += ["-chardev", _chardev(device)]
                command += ["-device", json.dumps(self._placed(device))]
            if paused:
                command += ["-S"]
            if incoming is not None:
                command += ["-incoming", DEFER]
            inherited = [their_monitor.fileno(), their_serial.fileno()]
            self._child = Child(command, found.environment, inherited)
        self.serial = Serial(serial, self._child)
        try:
            self._qmp = Qmp(monitor, self._child)
            self._begin(incoming, paused=paused)
        except BaseException as error:
            monitor.close()
            self._end(error)
            raise

    @classmethod
    def bare(cls, shape: Shape = Shape()) -> Self:
        """Return a guest without devices, restored from one that was booted once and saved."""
        return cls(shape=shape, incoming=_base(shape))

    def _begin(self, incoming: Path | str | None, *, paused: bool) -> None:
        self.capability("events")
        if incoming is None:
            if not paused:
                self.serial.wait_up()
        elif incoming != DEFER:
            self.receive(f"file:{incoming}")
            if not paused:
                self.qmp("cont")

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self._child.alive

    def errors(self) -> str:
        """Return what QEMU has said."""
        return self._child.errors()

    def shell(self, line: str) -> str:
        """Carry out a shell line and return its output; raises `ShellError` if its status is not 0.

        For more than text, such as a block of a disk, have the guest print a sum or hexadecimals.
        """
        return self.serial.result(self.serial.begin(line))

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Carry out a command of QEMU's monitor, as :meth:`Qmp.call` does."""
        return self._qmp.call(command, **arguments)

    def wait_event(self, name: str, **data: Any) -> dict[str, Any]:
        """Wait for an event of QEMU with these data; return all of them."""
        return self._qmp.wait_event(name, **data)

    def plug(self, device: Device) -> None:
        """Plug a device in; the guest's driver takes it a moment later: see :meth:`wait_file`.

        Two that are plugged in without that between them may get their names in either order.
        """
        address = {"type": "unix", "data": {"path": str(device.socket)}}
        data: dict[str, Any] = {"addr": address, "server": False}
        if device.reconnect_ms:
            data["reconnect-ms"] = device.reconnect_ms
        self.qmp("chardev-add", id=device.chardev, backend={"type": "socket", "data": data})
        self.qmp("device_add", **self._placed(device))

    def unplug(self, device: Device) -> None:
        """Take a device out, when the guest has let go of it, and close its connection."""
        self.qmp("device_del", id=device.name)
        self.wait_event("DEVICE_DELETED", device=device.name)
        self._ports[self._ports.index(device.name)] = None
        self.qmp("chardev-remove", id=device.chardev)

    def wait_file(self, path: str) -> None:
        """Wait until the guest has a file, such as ``/dev/vda`` of a device that was plugged in."""
        self.wait_until(f"[ -e {path} ]")

    def wait_until(self, condition: str) -> None:
        """Wait until a shell line of the guest has status 0; gives up after some 60 s of the guest's."""
        looks = 3000
        self.shell(
            f"for look in $(seq {looks}); do {condition} && break; sleep 0.02; done; "
            f"[ $look -lt {looks} ]"
        )

    def reset(self) -> None:
        """Reset the machine, and wait until the guest has booted again."""
        self.qmp("set-action", reboot="reset")
        self.qmp("system_reset")
        self.serial.wait_up()

    def pause(self) -> None:
        """Stop the guest's CPUs, and so its devices."""
        self.qmp("stop")

    def go_on(self) -> None:
        """Let a stopped guest run."""
        self.qmp("cont")

    def migrate_to_file(self, path: Path, *, live: bool = False) -> None:
        """Save the guest into a file. It is stopped first, or when all else is saved if `live`."""
        if not live:
            self.pause()
        self.migrate(f"file:{path}")
        self.wait_migrated()

    def migrate(self, uri: str) -> None:
        """Begin to migrate; :meth:`wait_migrated` is to follow."""
        self._qmp.forget("MIGRATION")
        self.qmp("migrate", uri=uri)

    def receive(self, uri: str) -> None:
        """Take the state of another guest, and wait for it: of one that began with ``defer``."""
        self._qmp.forget("MIGRATION")
        self.qmp("migrate-incoming", uri=uri, exit_on_error=False)
        self.wait_migrated()

    def capability(self, name: str) -> None:
        """Turn on a capability of migration, such as ``postcopy-ram``, which both sides must have."""
        wanted = [{"capability": name, "state": True}]
        self.qmp("migrate-set-capabilities", capabilities=wanted)

    def wait_migrated(self) -> None:
        """Wait until a migration ends, on either side; raises :class:`QmpError` if it failed."""
        while (status := self.wait_event("MIGRATION")["status"]) != "completed":
            if status in ("failed", "cancelled"):
                said = self.qmp("query-migrate").get("error-desc", status)
                raise QmpError(f"migration: {said}; QEMU has said: {self.errors()!r}")

    def quit(self) -> None:
        """End QEMU, which stops its devices first; it must end with status 0."""
        self.qmp("quit")
        if self._child.wait():
            raise self._child.failure("quit")

    def kill(self) -> None:
        """Kill QEMU (SIGKILL)."""
        self._child.kill()

    def _placed(self, device: Device) -> dict[str, Any]:
        """Return a device's arguments, in the first port that is free."""
        port = self._ports.index(None)
        self._ports[port] = device.name
        return {
            "driver": f"vhost-user-{device.kind}-pci", "chardev": device.chardev, "id": device.name,
            "bus": f"port{port}", **device.properties,
        }  # fmt: skip

    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            print(f"QEMU has said: {self.errors()!r}; the guest: {self.serial.transcript!r}")
        self._child.close()
        self.serial.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            if error is None and self.alive:
                self.quit()
        finally:
            self._qmp.close()
            self._end(error)


def _machine(shape: Shape) -> list[str]:
    """Return the options of every guest of a shape: a state fits only the same machine."""
    files = image(programs())
    options = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    options += ["-machine", "q35,memory-backend=memory", "-accel", "tcg,thread=single"]
    options += ["-cpu", "max", "-smp", str(shape.cpus), "-m", f"{shape.memory}M", "-object"]
    options += [f"memory-backend-memfd,id=memory,size={shape.memory}M,share=on"]
    options += ["-kernel", str(files.kernel), "-initrd", str(files.initramfs)]
    options += ["-append", _COMMAND_LINE]
    for port in range(_PORTS):
        options += ["-device", f"pcie-root-port,id=port{port},slot={port + 1},chassis={port + 1}"]
    return options


def _chardev(device: Device) -> str:
    path = str(device.socket).replace(",", ",,")
    again = f",reconnect-ms={device.reconnect_ms}" if device.reconnect_ms else ""
    return f"socket,id={device.chardev},path={path}{again}"


@functools.cache
def _base(shape: Shape) -> Path:
    """Return the state of a guest of this shape that has booted; made once for all test runs."""
    found = programs()
    options = " ".join(_machine(shape)).replace(str(found.cache.directory), "")

    def make(directory: Path) -> None:
        with LinuxGuest(shape=shape) as guest:
            guest.migrate_to_file(directory / "state")

    key = key_of(_FORMAT, found.version, image(found).version, options)
    return found.cache.entry("booted-amd64", key, make, keep=4) / "state"
