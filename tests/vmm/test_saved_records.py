"""A machine's record from anybody: refused in a line, or restored; never another exception."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from progress import QUIET_NS

from hfsched.errors import UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.kvm import device
from hfsched.vmm.guests import bundled_images
from hfsched.vmm.machine import Machine
from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec
from hfsched.vmm.records import MachineRecord
from hfsched.vmm.saving import restore, save, spec_of

pytestmark = pytest.mark.skipif(
    "echo.bin" not in bundled_images(), reason="script/guests was not run"
)
NUMBERS = (0, 1, -1, 63, 64, 4095, 4096, 1 << 31, 1 << 40, 1 << 52, (1 << 63) - 1, (1 << 64) - 1)
WORDS = ("", "off", "waiting", "received", "read", "empty", "kvm", "script", "aarch64", "a" * 100)


@pytest.fixture(params=["unicorn", "kvm"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    if request.param == "unicorn":
        pytest.importorskip("unicorn")
        return "unicorn"
    if why_not := device.problem():
        pytest.skip(f"engine kvm: {why_not}")
    return "kvm"


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each value within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner:
        yield (*place, key)
        if isinstance(each, dict | list):
            yield from places(each, (*place, key))


def other(value: Any, drawn: random.Random) -> Any:
    """Return a value of the same kind, most often."""
    if isinstance(value, bool) or value is None:
        return drawn.choice((0, 4096, True, [1, 2], b""))
    if isinstance(value, int):
        return drawn.choice((*NUMBERS, value + 1, value - 1, value ^ 1 << drawn.randrange(60)))
    if isinstance(value, str):
        return drawn.choice((*WORDS, value + "x"))
    if isinstance(value, bytes) and value and drawn.random() < 0.6:
        flipped = bytearray(value)
        flipped[drawn.randrange(len(value))] ^= 1 << drawn.randrange(8)
        return bytes(flipped)
    if isinstance(value, bytes):
        return drawn.choice((value[: drawn.randrange(len(value) + 1)], value + bytes(9)))
    if isinstance(value, list):
        kept = [each for each in value if drawn.random() < 0.7]
        return drawn.choice((kept, [*value, *value[:1]], [*value, 7]))
    return {key: each for key, each in value.items() if drawn.random() < 0.7}


def changed(record: Any, drawn: random.Random) -> Any:
    record = copy.deepcopy(record)
    for _ in range(drawn.choice((1, 1, 2))):
        *path, last = drawn.choice([*places(record)])
        owner = record
        for key in path:
            owner = owner[key]
        owner[last] = other(owner[last], drawn)
    return record


def test_a_changed_record_is_refused_or_restored(engine: EngineName) -> None:
    failures: list[str] = []
    runtime = ThreadRuntime(lambda task, error: failures.append(f"{task}: {error!r}"))
    vms = [VmSpec(image=image, memory=1 << 20) for image in ("relay.bin", "echo.bin")]
    spec = MachineSpec(vm=vms, engine=engine)
    spec.check("test")
    deadline = runtime.now() + QUIET_NS
    with Machine(spec, runtime, lambda *_: None) as machine:
        machine.start()
        end = machine.endpoint(machine.vm_names()[0], 1, 5)
        end.send(b"hello", deadline)
        assert end.recv(deadline) is not None
        end.send(b"hello", deadline)
        with machine.suspension.held("snapshot", deadline, frozen=True):
            record = msgspec.msgpack.decode(msgspec.msgpack.encode(save(machine, deadline)))
            memory = {name: ram.read(0, ram.size) for name, ram in machine.rams.items()}
    drawn = random.Random(15)
    outcomes = {True: 0, False: 0}
    for _ in range(200):
        data = msgspec.msgpack.encode(changed(record, drawn))
        outcomes[restored(data, runtime, memory)] += 1
    assert failures == []
    assert min(outcomes.values()) > 20, outcomes


def restored(data: bytes, runtime: ThreadRuntime, memory: dict[str, bytes]) -> bool:
    """Return whether a record was restored, False if it was refused."""
    try:
        record = msgspec.msgpack.decode(data, type=MachineRecord)
        spec = spec_of(record)
        spec.check("snapshot")
        with Machine(spec, runtime, lambda *_: None, saved=record) as machine:
            for name, ram in machine.rams.items():
                ram.write(0, memory.get(name, b"")[: ram.size])
            restore(machine, record)
            machine.start()
            assert machine.stop() == []
    except (msgspec.MsgspecError, UserError):
        return False
    return True
