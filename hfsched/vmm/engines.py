"""Which engine runs which guest, and why."""

from __future__ import annotations

from hfsched.errors import ConfigError, InternalError
from hfsched.vcpu.engines import EngineId
from hfsched.vcpu.kvm import device

__all__ = ["pick"]


def pick(wanted: str, vm: str, machine: str) -> tuple[EngineId, str]:
    """Return {engine, why} for a guest of an architecture ("script" for a Python one).

    Raises ConfigError when the engine that was asked for cannot run it.
    """
    if machine == "script":
        if wanted not in ("auto", "script"):
            raise ConfigError(f"vm {vm}: engine {wanted} cannot run a Python guest: use script")
        return "script", "the guest is a Python function"
    if wanted == "script":
        raise ConfigError(f"vm {vm}: engine script cannot run an {machine} image: use unicorn")
    if wanted == "unicorn":
        if machine != "aarch64":
            raise ConfigError(
                f"vm {vm}: --engine unicorn runs aarch64 images only, this is an {machine} image"
            )
        return "unicorn", "asked for"
    if wanted not in ("auto", "kvm"):
        raise InternalError(f"no rule says which guests engine {wanted} runs")
    why_not_kvm = _no_kvm(machine)
    if why_not_kvm is None:
        return "kvm", "asked for" if wanted == "kvm" else "the guest's architecture is the host's"
    if wanted == "kvm":
        raise ConfigError(f"vm {vm}: engine kvm: {why_not_kvm}")
    if machine != "aarch64":
        raise ConfigError(
            f"vm {vm}: no engine for an {machine} image: kvm: {why_not_kvm}; unicorn runs aarch64"
            " images only"
        )
    return "unicorn", f"no KVM: {why_not_kvm}"


def _no_kvm(machine: str) -> str | None:
    """Return why KVM cannot run guests of an architecture, None if it can."""
    if machine != device.MACHINE:
        return f"this host is {device.MACHINE}, the guest is {machine}"
    return device.problem()
