"""What tests that boot a machine share."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess

import pytest

from qemu import MachineError
from qemu.beside import command, environment
from qemu.cache import Cache
from qemu.image import TOP, Image


def machine_image(kernel: str = "6.12") -> Image:
    """Return what a machine needs, from the cache or made now; skips where it cannot be made."""
    for module in ("cffi", "ziglang"):
        pytest.importorskip(module)
    made = _made(kernel)
    if isinstance(made, str):
        pytest.skip(made)
    return made


@functools.cache  # a network that is not there is tried once
def _made(kernel: str) -> Image | str:
    for program in ("qemu-system-aarch64", "apt-get", "dpkg"):
        if shutil.which(program) is None:
            return f"no {program} (as root: apt-get install qemu-system-arm)"
    made = Image(Cache())
    try:
        made.kernel(kernel)
        made.base()
        made.headers()
    except MachineError as error:
        if not str(error).startswith(("apt-get", "pip", "no mirror")):
            raise
        return f"the machine cannot be made: {error}"
    return made


def _hear_interrupts() -> None:
    """Undo what a background job of a shell inherits: it ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*words: str) -> subprocess.Popen[bytes]:
    """Start `script/qemu` with these words."""
    return subprocess.Popen(
        command(*words),
        cwd=TOP,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_hear_interrupts,  # noqa: PLW1509 - no thread of this process holds a lock then
    )


def end(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Wait for its end; return {exit status, output, errors}."""
    out, err = process.communicate()  # it ends itself when the machine falls silent
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def run_inside(*words: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run a command in a machine; return {exit status, output, errors}."""
    return end(start(*options, "--", *words))
