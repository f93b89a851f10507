"""`hfsched doctor`: its findings as text and as JSON, and its exit status."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
from typing import TYPE_CHECKING, NoReturn

import pytest

from hfsched.cli import doctor
from hfsched.memory import userfault, writeprotect
from hfsched.snapshot import libraries
from hfsched.swap.core import device as swap
from hfsched.vcpu.kvm import device

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Start

WHATS = [
    "engine unicorn",
    "engine kvm",
    "userfaultfd",
    "swap",
    "lz4",
    "snapshot lz4",
    "snapshot zstd",
    "dirty pages",
    "fuzz",
    "cluster",
    "fdt",
    "guests",
    "qemu",
]


def run(*, as_json: bool = False) -> int:
    return doctor.run(argparse.Namespace(json=as_json))


def found() -> dict[str, doctor.Finding]:
    return {each.what: each for each in doctor.examine()}


@pytest.fixture
def no_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No /dev/kvm."""
    missing = tmp_path / "kvm"
    monkeypatch.setattr(device, "DEVICE", str(missing))
    return missing


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package of the extras."""

    def version(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_the_command_as_text_and_as_json(hfsched: Start) -> None:
    """Both say the same, and the exit status is that of the engines."""
    text, data = hfsched("doctor"), hfsched("doctor", "--json")
    engines = [each.ok for each in doctor.examine() if each.what.startswith("engine ")]
    assert text.wait() == data.wait() == (0 if any(engines) else 1)
    assert text.err == data.err == ""
    told = json.loads(data.out)
    assert told["machine"] == device.MACHINE
    assert [each["what"] for each in told["findings"]] == WHATS
    first, *lines = text.out.splitlines()
    assert first.startswith(f"{device.MACHINE}, Linux ")
    for line, each in zip(lines, told["findings"], strict=True):
        assert line == f"  {each['what']:14}  {'yes' if each['ok'] else 'no '}  {each['text']}"


def test_no_kvm(no_kvm: Path) -> None:
    if device.MACHINE not in ("aarch64", "x86_64"):
        pytest.skip(f"no KVM engine for {device.MACHINE}")
    kvm = found()["engine kvm"]
    assert not kvm.ok
    assert kvm.text.startswith(f"there is no {no_kvm}: load ")


def test_kvm_is_enough(no_packages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "problem", lambda: None)
    kvm = found()["engine kvm"]
    assert (kvm.ok, kvm.text) == (True, f"{device.MACHINE} guests")
    assert run() == 0


def test_unicorn_is_enough(no_kvm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "1.2.3")
    assert found()["engine unicorn"].text == "aarch64 guests, emulated (unicorn 1.2.3)"
    assert run() == 0


def test_missing_packages_are_listed_with_the_command_that_installs_them(no_packages: None) -> None:
    all_of_it = found()
    for what, extra in (
        ("engine unicorn", "emulator"),
        ("fuzz", "explore"),
        ("cluster", "cluster"),
        ("fdt", "fdt"),
    ):
        assert not all_of_it[what].ok
        assert all_of_it[what].text.endswith(f"pip install 'hfsched[{extra}]'")


def test_no_engine_at_all_is_an_exit_status_of_1(
    no_kvm: Path, no_packages: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 1
    assert run(as_json=True) == 1
    *_, data = capsys.readouterr().out.splitlines()
    engines = [each for each in json.loads(data)["findings"] if each["what"].startswith("engine ")]
    assert [each["ok"] for each in engines] == [False, False]


def no_extension() -> NoReturn:
    raise ImportError


def test_swap_and_its_compressed_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "problem", lambda: None)
    monkeypatch.setattr(swap, "tier_problem", lambda: None)
    assert found()["swap"].ok
    assert found()["lz4"].ok
    monkeypatch.setattr(swap, "tier_problem", lambda: "liblz4.so.1 is not installed")
    assert not found()["lz4"].ok
    assert found()["lz4"].text.startswith("liblz4.so.1 is not installed: swapped pages ")


def test_the_codecs_of_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "load", lambda name: name if name == "lz4" else None)
    assert found()["snapshot lz4"].ok
    assert found()["snapshot zstd"] == doctor.Finding(
        "snapshot zstd",
        ok=False,
        text="libzstd.so.1 is not installed: apt-get install libzstd1;"
        " snapshots can be uncompressed",
    )


@pytest.mark.parametrize("why_not", [None, "the kernel is too old"])
def test_incremental_snapshots(why_not: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writeprotect, "problem", lambda: why_not)
    finding = found()["dirty pages"]
    assert finding.ok == (why_not is None)
    assert why_not is None or finding.text == f"every snapshot is a full one: {why_not}"


def test_every_remedy_is_one_line(
    no_kvm: Path, no_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(doctor, "bundled_images", dict)
    monkeypatch.setattr(userfault, "problem", lambda: "not permitted; as root: sysctl")
    monkeypatch.setattr(swap, "core", no_extension)
    monkeypatch.setattr(libraries, "load", lambda _name: None)
    monkeypatch.setattr(writeprotect, "problem", lambda: "the kernel is too old")
    for each in doctor.examine():
        assert not each.ok
        assert each.text
        assert "\n" not in each.text
