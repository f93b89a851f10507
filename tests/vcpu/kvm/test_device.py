"""What is said of a KVM that is not there, or not for us: one line, with its remedy."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hfsched.errors import ConfigError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.kvm import device
from hfsched.vcpu.kvm.engine import KvmEngine

known_machine = pytest.mark.skipif(
    device.MACHINE not in ("aarch64", "x86_64"), reason=f"no KVM engine for {device.MACHINE}"
)


def _built() -> bool:
    try:
        device.core()
    except ImportError:
        return False
    return True


built = pytest.mark.skipif(not _built(), reason="the extension _core is not built")


@known_machine
def test_a_missing_device(tmp_path: Path) -> None:
    missing = tmp_path / "kvm"
    assert device.problem(str(missing)) == (
        f"there is no {missing}: load the module kvm, or turn virtualisation on"
    )


@known_machine
@pytest.mark.skipif(os.geteuid() == 0, reason="root may do anything")
def test_a_device_without_permission(tmp_path: Path) -> None:
    closed = tmp_path / "kvm"
    closed.touch(0o000)
    assert device.problem(str(closed)) == (
        f"no permission for {closed}: join its group (usually kvm)"
    )


@known_machine
@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.ENODEV, errno.ENXIO])
def test_an_error_with_a_remedy_names_the_device(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", refuse)
    told = device.problem("/dev/there")
    assert told is not None
    assert "/dev/there" in told
    assert ": join" in told or ": load" in told


@known_machine
def test_a_device_that_cannot_be_opened_for_another_reason(tmp_path: Path) -> None:
    assert device.problem(str(tmp_path)) == f"{tmp_path} cannot be opened: Is a directory"


@known_machine
@built
def test_a_device_that_is_something_else() -> None:
    assert device.problem("/dev/null") == (
        "/dev/null does not answer as KVM does (Inappropriate ioctl for device): "
        "let the module kvm make the device"
    )


@known_machine
def test_a_missing_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert device.problem("/dev/null") == (
        "its extension was not built: install gcc and Python's headers, then hfsched again"
    )


def test_a_machine_that_has_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MACHINE", "riscv64")
    assert device.problem() == "no KVM engine for riscv64: aarch64 and x86_64"


@known_machine
def test_nothing_is_left_open(tmp_path: Path, descriptors: Callable[[], int]) -> None:
    before = descriptors()
    for path in ("/dev/null", str(tmp_path), device.DEVICE):
        device.problem(path)
    assert descriptors() == before


@known_machine
def test_the_engine_says_it_as_the_users_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "DEVICE", str(tmp_path / "kvm"))
    with pytest.raises(ConfigError, match=r"^engine kvm: there is no .*: load the module kvm"):
        KvmEngine(ThreadRuntime())
