"""A machine with the guest `utility`: the script one, or that in C; and requests by other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

import msgspec
import pytest
from progress import QUIET_NS

from hfsched.errors import UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.endpoint import Endpoint
from hfsched.scheduler.outbox import Sent
from hfsched.services.copying import ServiceError
from hfsched.services.host import GuestServices
from hfsched.services.wire import ServiceId
from hfsched.vcpu.kvm import device
from hfsched.vcpu.script import ScriptEngine
from hfsched.vmm.guests import bundled_images
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec
from hfsched.vmm.parts import MachineParts
from hfsched.vmm.records import MachineRecord
from hfsched.vmm.saving import restore, save, spec_of

WITHIN = QUIET_NS
S, MS = 1_000_000_000, 1_000_000
HOST_PORT = 5
PLACES = ("rx", "buffered", "half")
RECORDING = MachineParts(engine=lambda _name, runtime: ScriptEngine(runtime, recording=True))


class Life:
    """A machine with the guest `u`, and what it has logged; used in a ``with``."""

    def __init__(self, engine: EngineName, saved: MachineRecord | None = None) -> None:
        self.failures: list[str] = []
        self.runtime = ThreadRuntime(lambda task, error: self.failures.append(f"{task}: {error!r}"))
        image = "utility" if engine == "script" else "utility.bin"
        spec = MachineSpec(vm=[VmSpec(image=image, name="u", memory=1 << 20)], engine=engine)
        if saved is not None:
            spec = spec_of(saved)
        spec.check("test")
        self.lines: list[bytes] = []
        self._logged = threading.Condition()
        parts = MachineParts()
        if engine == "script":
            parts = RECORDING
        self.engine = engine
        self.machine = Machine(spec, self.runtime, self._log, parts=parts, saved=saved)

    def _log(self, _vm: str, line: bytes) -> None:
        with self._logged:
            self.lines.append(line)
            self._logged.notify_all()

    def until_logged(self, line: bytes, times: int = 1) -> None:
        with self._logged:
            assert self._logged.wait_for(
                lambda: self.lines.count(line) >= times, WITHIN / 1_000_000_000
            ), f"{line!r} has not been logged"

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = self.runtime.now() + WITHIN
        while not holds():
            assert self.runtime.now() < deadline, "it does not come to hold"
            self.runtime.sleep_until(self.runtime.now() + MS)

    def __enter__(self) -> Self:
        self.machine.start()
        self.end: Endpoint = self.machine.endpoint("u", 1, HOST_PORT)
        return self

    def __exit__(self, *_error: object) -> None:
        self.machine.close()
        assert self.failures == []

    @property
    def by(self) -> int:
        return self.runtime.now() + WITHIN

    def say(self, text: str) -> str:
        assert self.end.send(text.encode(), self.by) is Sent.SENT
        return self.heard()

    def heard(self) -> str:
        message = self.end.recv(self.by)
        assert message is not None
        return message.payload.decode()

    def state(self) -> dict[str, int]:
        words = self.say("state").split()
        return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}

    def until_state(self, wanted: dict[str, int]) -> None:
        self.until(lambda: self.state() == wanted)

    def ready(self) -> GuestServices:
        """Return the guest's services, once it has registered all of them."""
        self.until(lambda: self.state()["ready"] == 6)
        return self.machine.services["u"].offering(ServiceId.KVP)

    @property
    def services(self) -> GuestServices:
        return self.machine.services["u"].offering(ServiceId.KVP)

    def asked(self, ask: Callable[[], object]) -> Asked:
        return Asked(ask)


class Asked:
    """A request by another thread, and what has become of it."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self.found: object = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.found = self._ask()
        except ServiceError as exc:
            self.found = exc.status

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> object:
        self._thread.join(WITHIN / S)
        assert not self._thread.is_alive(), "a request without an answer"
        return self.found


def refusal(ask: Callable[[], object]) -> str:
    with pytest.raises(UserError) as found:
        ask()
    return str(found.value)


def saved_by(life: Life) -> tuple[MachineRecord, bytes]:
    with life.machine.suspension.held("snapshot", life.by, frozen=True):
        record = save(life.machine, life.by)
        ram = life.machine.rams["u"]
        memory = ram.read(0, ram.size)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=MachineRecord), memory


def again(life: Life, saved: tuple[MachineRecord, bytes]) -> Life:
    record, memory = saved
    copy = Life(life.engine, record)
    copy.machine.rams["u"].write(0, memory)
    restore(copy.machine, record)
    return copy


def life_on(engine: EngineName) -> Life:
    """Return a machine on an engine, or skip the test."""
    if engine != "script" and "utility.bin" not in bundled_images():
        pytest.skip("script/guests was not run")
    if engine == "unicorn":
        pytest.importorskip("unicorn")
    if engine == "kvm" and (why_not := device.problem()):
        pytest.skip(f"engine kvm: {why_not}")
    return Life(engine)
