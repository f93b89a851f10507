"""Guests that go from Unicorn to arm64 KVM and back, at work: nothing is lost, and no time but what passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from booted import machine_image, run_inside
from elsewhere import FILES, MESSAGES, PEERS, SLEEPER, SLEPT_MS, Journey, unpacked
from progress import QUIET_NS

from hfsched.snapshot.directory import open_chain
from hfsched.vmm.guests import bundled_images
from hfsched.vmm.snapshotting import record_of

pytestmark = pytest.mark.skipif(
    "stress.bin" not in bundled_images(), reason="script/guests was not run"
)


def begun(directory: Path) -> dict[str, int]:
    """Take a snapshot of guests that work on Unicorn."""
    with Journey("unicorn") as journey:
        for vm in PEERS:
            journey.counts(vm)  # it is up before another one looks for it
        for vm in PEERS:
            journey.send(vm, f"go 5 {MESSAGES}")
        journey.send(SLEEPER, f"sleep {SLEPT_MS}")
        found = journey.work(50)
        journey.take(directory)
    return found


def ended(directory: Path) -> None:
    """Restore it on Unicorn, and see each guest come to its end."""
    with Journey("unicorn", directory) as journey:
        slept = journey.received(SLEEPER).split()
        assert slept[0] == "slept"
        assert SLEPT_MS <= int(slept[1]) < SLEPT_MS + QUIET_NS // 1_000_000
        for vm in PEERS:
            words = journey.received(vm).split()
            assert words[:4] == ["sent", f"{MESSAGES}", "acked", f"{MESSAGES}"]
        for vm in PEERS:
            assert journey.counts(vm) == MESSAGES


def test_it_goes_on_here(tmp_path: Path) -> None:
    """The same without a machine between, which shows that the one below is about engines."""
    pytest.importorskip("unicorn")
    begun(tmp_path / "first")
    ended(tmp_path / "first")


@pytest.mark.parametrize("cpu", ["neoverse-n1", "cortex-a57"])
def test_guests_go_to_kvm_and_back(tmp_path: Path, cpu: str) -> None:
    pytest.importorskip("unicorn")
    machine_image()
    before = begun(tmp_path / "first")
    words = [f"--add=tests/qemu/given/{name}={tmp_path / 'first' / name}" for name in FILES]
    status, out, err = run_inside(
        "python3", "tests/qemu/elsewhere.py", "tests/qemu/given", options=("--cpu", cpu, *words)
    )
    assert status == 0, err[-4000:]
    found = json.loads(out)
    for vm, count in before.items():
        assert found["counts"][vm] >= min(count + 100, MESSAGES)
    unpacked(found["snapshot"], tmp_path / "second")
    chain = open_chain(tmp_path / "second")
    engines = [vm.engine for vm in record_of(chain).vms]
    chain.close()
    assert engines == ["kvm"] * 3
    ended(tmp_path / "second")
