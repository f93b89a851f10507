"""A running machine of script guests with its port server, in a separate runtime directory."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from progress import QUIET

from hfsched.control import user_dir
from hfsched.control.port_server import PortServer
from hfsched.control.runtime_dir import MachineDirectory, claim
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import MachineSpec, VmSpec

from . import guests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WITHIN = QUIET  # seconds, for one thing that is waited for
REPOSITORY = Path(__file__).parents[2]


@contextmanager
def runtime_directory() -> Iterator[Path]:
    """Set XDG_RUNTIME_DIR to a new directory; its path is short, for a socket's has a limit.

    It stands for /tmp too: other machines of this user's are not looked at.
    """
    before, fallback = os.environ.get("XDG_RUNTIME_DIR"), user_dir._FALLBACK
    path = Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp"))
    os.environ["XDG_RUNTIME_DIR"] = str(path)
    user_dir._FALLBACK = path
    try:
        yield path
    finally:
        user_dir._FALLBACK = fallback
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
        shutil.rmtree(path)


class Harness:
    """Machine `name` with VMs {name: guest}; a guest is a bundled one or one of `guests`."""

    def __init__(self, name: str, vms: dict[str, str], **options: Any) -> None:
        self.failures: list[str] = []
        self.runtime = ThreadRuntime(lambda task, exc: self.failures.append(f"{task}: {exc!r}"))
        self._changed = threading.Event()
        self._vms = list(vms)
        self._raw = options.pop("raw", False)
        spec = MachineSpec(
            vm=[self._spec(vm, guest) for vm, guest in vms.items()], name=name, engine="script"
        )
        for vm in vms:
            guests.GATES[vm].clear()
        self.machine = Machine(
            spec,
            self.runtime,
            lambda _vm, _line: None,
            on_abort=self._aborted,
            on_activity=self._changed.set,
        )
        self.directory: MachineDirectory = claim(name)
        self.server = PortServer(
            self.runtime, self.machine, self.directory, on_idle=self._changed.set, **options
        )
        self.socket = self.directory.path / "ports"
        self._stopped = False

    def _aborted(self, vm: str, reason: str) -> None:
        self.server.vm_ended(vm, reason)

    def _spec(self, vm: str, guest: str) -> VmSpec:
        image = f"{guests.__name__}:{guest}" if hasattr(guests, guest) else guest
        framing: Any = "raw" if self._raw else "ports"
        return VmSpec(image=image, name=vm, memory=1 << 16, framing=framing)

    def __enter__(self) -> Self:
        self.machine.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self.directory.close()
        self.machine.close()
        assert self.failures == []

    def stop(self) -> None:
        """Stop the machine, then the server; nothing may be left running."""
        if self._stopped:
            return
        self._stopped = True
        for vm in self._vms:
            guests.GATES[vm].set()
        assert self.machine.stop() == []
        assert self.server.close() == []

    def open(self, vm: str) -> None:
        """Open a guest's gate."""
        guests.GATES[vm].set()

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, checking each time that the machine or the server has reported a change."""
        while True:
            self._changed.clear()
            if holds():
                return
            assert self._changed.wait(QUIET), "nothing moves, and it does not hold"

    def call(self, *packets: bytes) -> socket.socket:
        """Connect without the client's code, and send packets; the server may have refused us."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(WITHIN)
        sock.connect(str(self.socket))
        with suppress(ConnectionError):
            for packet in packets:
                sock.send(packet)
        return sock


def server_threads() -> list[threading.Thread]:
    """Return the threads of port servers, once those on their way out are out."""
    for thread in threading.enumerate():
        if thread.name.startswith("ports."):
            thread.join(0.5)
    return [thread for thread in threading.enumerate() if thread.name.startswith("ports.")]
