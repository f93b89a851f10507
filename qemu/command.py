"""The command line of QEMU, and what the machine reads at its start."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .image import PROJECT

__all__ = [
    "CPUS",
    "OUTPUTS",
    "PROGRAM",
    "Settings",
    "arguments",
    "environment_script",
    "run_script",
]

# Name on our command line: QEMU's. VHE, nVHE, VHE; pointer authentication is slow to emulate.
CPUS = {"neoverse-n1": "neoverse-n1", "cortex-a57": "cortex-a57", "max": "max,pauth=off"}
# virtio-serial ports; init.sh knows that hf.err is the last.
OUTPUTS = ("hf.out", "hf.err")
_PORTS = ("hf.in", *OUTPUTS)
PROGRAM = "qemu-system-aarch64"
# Without the first two, system calls are nine times slower.
_KERNEL = (
    "nokaslr", "mitigations=off", "console=ttyAMA0", "quiet", "rcupdate.rcu_expedited=1", "panic=-1",
    "rdinit=/init",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """A machine: CPU model, number of CPUs, memory in MiB, and `icount`.

    With `icount`, an instruction takes 2**icount ns of the machine's clock, CPUs take turns, and
    nothing random or of the host's time gets in: runs repeat, and another value is another schedule.
    """

    cpu: str = "neoverse-n1"
    smp: int = 2
    memory: int = 512
    kernel: str = "6.12"
    icount: int | None = None


def arguments(
    settings: Settings, kernel: str, initrd: str, ports: Mapping[str, str] | None = None
) -> list[str]:
    """Return the command that starts QEMU.

    `ports` are QEMU's character devices for "console", each of `OUTPUTS`, and "hf.in" if the command
    has an input; without `ports`, the machine talks on the terminal.
    """
    deterministic = settings.icount is not None
    machine = "virt,virtualization=on,gic-version=3"
    if deterministic:
        machine += ",dtb-randomness=off"
    command = [PROGRAM, "-machine", machine, "-cpu", CPUS[settings.cpu]]
    command += ["-smp", str(settings.smp), "-m", str(settings.memory)]
    command += ["-accel", f"tcg,thread={'single' if deterministic else 'multi'}"]
    if deterministic:
        command += ["-icount", f"shift={settings.icount},sleep=off", "-seed", "1"]
        command += ["-rtc", "base=2024-01-01T00:00:00,clock=vm"]
    command += ["-nodefaults", "-nic", "none", "-no-reboot", "-kernel", kernel, "-initrd", initrd]
    command += ["-append", " ".join(_KERNEL)]
    if ports is None:
        return [*command, "-nographic", "-serial", "mon:stdio"]
    command += ["-display", "none", "-chardev", f"{ports['console']},id=console"]
    # Off: or the main loop, whose time is the host's, would do the machine's output.
    command += ["-serial", "chardev:console"]
    command += ["-device", "virtio-serial-pci" + (",ioeventfd=off" if deterministic else "")]
    for number, name in enumerate((name for name in _PORTS if name in ports), 1):
        command += ["-chardev", f"{ports[name]},id=port{number}"]
        command += ["-device", f"virtserialport,chardev=port{number},name={name},nr={number}"]
    return command


def run_script(words: Sequence[str]) -> bytes:
    """Return the script that becomes the command in the machine."""
    return b"cd /%s\nexec %s\n" % (PROJECT.encode(), os.fsencode(shlex.join(words)))


def environment_script(settings: Settings, others: Mapping[str, str]) -> bytes:
    """Return the script that sets the environment; what Python prints is not held back."""
    variables = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **others}
    if settings.icount is not None:
        variables["PYTHONHASHSEED"] = "0"
    return b"".join(
        b"export %s=%s\n" % (name.encode(), os.fsencode(shlex.quote(value)))
        for name, value in variables.items()
    )
