"""Whether this machine has a usable KVM.  Nothing here raises: what is missing is returned as text."""

from __future__ import annotations

import errno
import importlib
import os
import platform
from typing import Any

__all__ = ["API_VERSION", "DEVICE", "MACHINE", "core", "problem"]

DEVICE = "/dev/kvm"
API_VERSION = 12
_HOSTS = {"arm64": "aarch64", "amd64": "x86_64"}
MACHINE = _HOSTS.get(platform.machine(), platform.machine())

_REMEDIES = {
    errno.ENOENT: "there is no {device}: load the module kvm, or turn virtualisation on",
    errno.EACCES: "no permission for {device}: join its group (usually kvm)",
    errno.EPERM: "no permission for {device}: join its group (usually kvm)",
    errno.ENODEV: "{device} has no driver behind it: load kvm_intel or kvm_amd",
    errno.ENXIO: "{device} has no driver behind it: load kvm_intel or kvm_amd",
}


def core() -> Any:
    """Return the extension (`lib` and `ffi`); raises ImportError where it was not built."""
    return importlib.import_module("hfsched.vcpu.kvm._core")


def problem(device: str | None = None) -> str | None:
    """Return in a line why KVM cannot run guests of this machine's architecture, None if it can.

    `device` is a path, `DEVICE` when it is None.
    """
    device = DEVICE if device is None else device
    if MACHINE not in ("aarch64", "x86_64"):
        return f"no KVM engine for {MACHINE}: aarch64 and x86_64"
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        remedy = _REMEDIES.get(exc.errno or 0, "{device} cannot be opened: {error}")
        return remedy.format(device=device, error=exc.strerror)
    try:
        return _missing(fd, device)
    finally:
        os.close(fd)


def _missing(fd: int, device: str) -> str | None:
    try:
        lib = core().lib
    except ImportError:
        return "its extension was not built: install gcc and Python's headers, then hfsched again"
    version = lib.hfs_ioctl(fd, lib.KVM_GET_API_VERSION, 0)
    if version != API_VERSION:
        said = os.strerror(-version) if version < 0 else f"version {version}"
        return f"{device} does not answer as KVM does ({said}): let the module kvm make the device"
    wanted = {"user memory": lib.KVM_CAP_USER_MEMORY, "immediate exit": lib.KVM_CAP_IMMEDIATE_EXIT}
    if MACHINE == "x86_64":
        wanted |= {
            "read-only memory": lib.KVM_CAP_READONLY_MEM,
            "shared registers": lib.KVM_CAP_SYNC_REGS,
        }
    for what, number in wanted.items():
        if lib.hfs_ioctl(fd, lib.KVM_CHECK_EXTENSION, number) <= 0:
            return f"this KVM has no {what}: a newer kernel has"
    return _no_machine(lib, fd)


def _no_machine(lib: Any, fd: int) -> str | None:
    """Make a VM, which alone shows whether the kernel forwards hypercalls."""
    vm = lib.hfs_ioctl(fd, lib.KVM_CREATE_VM, 0)
    if vm < 0:
        return f"no machine can be made: {os.strerror(-vm)}"
    try:
        error = lib.hfs_prepare_vm(vm)
    finally:
        os.close(vm)
    if error and MACHINE == "aarch64":
        return f"Linux {platform.release()} has no SMCCC filter for guests' calls: 6.4 has"
    return None if not error else f"no machine can be prepared: {os.strerror(-error)}"
