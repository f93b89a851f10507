"""A machine that goes from Unicorn here to arm64 KVM in a machine of QEMU, and back: both sides.

Run inside it is ``elsewhere.py DIRECTORY``: it restores the snapshot there, lets the guests work, takes
another and prints it as JSON.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conformance"))

from progress import QUIET_NS

from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.outbox import Sent
from hfsched.snapshot.directory import make_layer, open_chain
from hfsched.vmm import saving, snapshotting
from hfsched.vmm.attempt import Wish
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec

if TYPE_CHECKING:
    from hfsched.scheduler.endpoint import Endpoint
    from hfsched.vmm.records import MachineRecord

ANSWERS, QUESTIONS = 5, 6  # ports: what comes at the end, what is asked on the way
PEERS = "ab"  # they exchange checksummed messages
SLEEPER = "c"  # it sleeps, and tells by its own clock how long
SLEPT_MS = 4000
MESSAGES = 4000
MS = 1_000_000
FILES = ("index", "pages")


class Journey:
    """The machine on one of its stations; used in a ``with``."""

    def __init__(self, engine: EngineName, directory: Path | None = None) -> None:
        self.runtime = ThreadRuntime(_raised)
        self._engine = engine
        if directory is None:
            images = dict.fromkeys(PEERS, "stress.bin") | {SLEEPER: "trusty.bin"}
            spec = MachineSpec(
                vm=[VmSpec(image=image, name=vm, memory=1 << 20) for vm, image in images.items()],
                engine=engine,
            )
            self.machine = self._made(spec)
        else:
            with closing(open_chain(directory)) as chain:
                record = snapshotting.record_of(chain)
                self.machine = snapshotting.restore(chain, record, self._again)
        self.machine.start()

    def _made(self, spec: MachineSpec, saved: MachineRecord | None = None) -> Machine:
        spec.check("test")
        return Machine(spec, self.runtime, lambda _vm, _line: None, saved=saved)

    def _again(self, record: MachineRecord, _lazy: object) -> Machine:
        return self._made(saving.spec_of(record, self._engine), record)

    @property
    def by(self) -> int:
        return self.runtime.now() + QUIET_NS

    def end(self, vm: str, port: int) -> Endpoint:
        return self.machine.endpoint(vm, 1, port)

    def send(self, vm: str, text: str, port: int = ANSWERS) -> None:
        with closing(self.end(vm, port)) as end:
            assert end.send(text.encode(), self.by) is Sent.SENT

    def received(self, vm: str, port: int = ANSWERS) -> str:
        with closing(self.end(vm, port)) as end:
            message = end.recv(self.by)
            assert message is not None, f"nothing comes from {vm}"
            return message.payload.decode()

    def asked(self, vm: str, text: str) -> str:
        with closing(self.end(vm, QUESTIONS)) as end:
            assert end.send(text.encode(), self.by) is Sent.SENT
            message = end.recv(self.by)
            assert message is not None, f"{vm} does not answer"
            return message.payload.decode()

    def counts(self, vm: str) -> int:
        """Return how many messages a guest has received so far."""
        words = self.asked(vm, "status").split()
        assert words[7] == "0", words
        return int(words[5])

    def work(self, messages: int) -> dict[str, int]:
        """Wait until each of the two has received so many more, or all; return how many it has."""
        found = {vm: self.counts(vm) for vm in PEERS}
        for vm, count in found.items():
            wanted = min(count + messages, MESSAGES)
            deadline = self.by
            while (now := self.counts(vm)) < wanted:
                assert self.runtime.now() < deadline, f"{vm} is at {now} of {wanted}"
                self.runtime.sleep_until(self.runtime.now() + 5 * MS)
            found[vm] = now
        return found

    def take(self, directory: Path) -> None:
        """Take a snapshot, and end."""
        with make_layer(directory) as files, self.machine.suspension.held("snapshot", frozen=True):
            wish = Wish(name=directory.name, created=time.time_ns(), codec="raw")
            capture = snapshotting.Capture(self.machine, (files.pages_fd, files.index_fd), wish)
            capture.copy(self.by)
            capture.finish()
            self.machine.ports.hold()
            assert self.machine.stop() == []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.machine.close()


def _raised(task: str, error: BaseException) -> None:
    print(f"{task}: {error!r}", file=sys.stderr)


def packed(directory: Path) -> dict[str, str]:
    """Return a snapshot as JSON can have it."""
    return {name: base64.b64encode((directory / name).read_bytes()).decode() for name in FILES}


def unpacked(files: dict[str, str], directory: Path) -> None:
    """Write it into a new directory."""
    directory.mkdir(mode=0o700)
    for name in FILES:
        path = directory / name
        path.write_bytes(base64.b64decode(files[name]))
        path.chmod(0o600)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder, "given"), Path(folder, "taken")
        given.mkdir(mode=0o700)
        for name in FILES:
            shutil.copyfile(Path(sys.argv[1], name), given / name)
            (given / name).chmod(0o600)
        with Journey("kvm", given) as journey:
            counts = journey.work(100)
            journey.take(taken)
        print(json.dumps({"counts": counts, "snapshot": packed(taken)}))


if __name__ == "__main__":
    main()
