"""qemu-storage-daemon as a vhost-user-blk back-end: the reference to try front-ends with."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any, Self

from .child import Child
from .packages import programs
from .qmp import Qmp

__all__ = ["StorageDaemon"]


class StorageDaemon:
    """A daemon that listens at `path`; its disk is the raw `file`, or nothing of `size` bytes.

    It serves one front-end after the other. A socket that a killed one has left is taken over.
    """

    def __init__(
        self,
        path: Path,
        file: Path | None = None,
        *,
        size: int = 1 << 30,
        queues: int = 1,
        writable: bool = True,
    ) -> None:
        disk: dict[str, Any] = {"driver": "null-co", "size": size, "read-zeroes": True}
        if file is not None:
            # Two daemons of one migration have the same file.
            disk = {"driver": "file", "filename": str(file), "locking": "off"}
        disk |= {"node-name": "disk", "read-only": not writable}
        export = {
            "type": "vhost-user-blk", "id": "export", "node-name": "disk", "writable": writable,
            "num-queues": queues, "iothread": "thread", "addr": {"type": "unix", "path": str(path)},
        }  # fmt: skip
        found = programs()
        self.path = path
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = Child(
                [
                    found.path("qemu-storage-daemon"),
                    "--object", "iothread,id=thread",
                    "--blockdev", json.dumps(disk),
                    "--export", json.dumps(export),
                    # The last: it listens when this one answers.
                    "--chardev", f"socket,id=monitor,fd={theirs.fileno()}",
                    "--monitor", "chardev=monitor",
                ],
                found.environment,
                [theirs.fileno()],
            )  # fmt: skip
        try:
            self._qmp = Qmp(ours, self._child)
        except BaseException:
            ours.close()
            self._child.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.alive

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Carry out a command of its monitor, as :meth:`Qmp.call` does."""
        return self._qmp.call(command, **arguments)

    def resize(self, size: int) -> None:
        """Change the size of the disk (bytes), which the front-end is told of."""
        self.qmp("block_resize", node_name="disk", size=size)

    def errors(self) -> str:
        """Return what it has said."""
        return self._child.errors()

    def suspend(self) -> None:
        """Stop its process (SIGSTOP), until :meth:`resume`; it has stopped when this returns."""
        self._child.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._child.process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on."""
        self._child.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it (SIGKILL): its socket stays."""
        self._child.kill()

    def stop(self) -> int:
        """End it in order (SIGTERM), which removes its socket; return its exit status."""
        self._child.process.send_signal(signal.SIGTERM)
        return self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        if kind is not None:
            print(f"the storage daemon has said: {self.errors()!r}")
        self._child.close()
        self._qmp.close()
