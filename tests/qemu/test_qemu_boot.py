"""A machine is booted: what is inside, how a command ends, that a run can be repeated."""

import os
import select
import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from booted import machine_image, start
from processes import children
from progress import QUIET, Quiet

from qemu import MachineError
from qemu.beside import SILENCE
from qemu.command import PROGRAM, Settings
from qemu.cross import cross_build
from qemu.image import Image
from qemu.machine import TIMED_OUT, run

INSIDE = """
import fcntl, os, platform, sys
import hfsched, tiny._core
kvm = os.open("/dev/kvm", os.O_RDWR)
print(platform.machine(), fcntl.ioctl(kvm, 0xAE00))
vm = fcntl.ioctl(kvm, 0xAE01, 0)
vcpu = fcntl.ioctl(vm, 0xAE41, 0)
print(vm > kvm, vcpu > vm, tiny._core.lib.version(), os.getcwd(), hfsched.__file__)
print(sys.stdin.read().upper(), sys.argv[1:])
print("to stderr", file=sys.stderr)
sys.exit(7)
"""
CLOCK = "import os, time; print(time.monotonic_ns(), time.time_ns(), os.urandom(8), hash('x'))"


@pytest.fixture(scope="module")
def image() -> Image:
    """What a machine needs, from the cache or made now."""
    return machine_image()


@pytest.fixture(scope="module")
def module(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module of cffi that asks for KVM's version, compiled for arm64."""
    cffi = pytest.importorskip("cffi")
    pytest.importorskip("ziglang")
    source = tmp_path_factory.mktemp("module") / "core.c"
    ffi = cffi.FFI()
    ffi.cdef("int version(void);")
    ffi.set_source(
        "tiny._core",
        "#include <fcntl.h>\n#include <sys/ioctl.h>\n#include <linux/kvm.h>\n"
        'static int version(void) { return ioctl(open("/dev/kvm", 2), KVM_GET_API_VERSION, 0); }',
    )
    ffi.emit_c_code(str(source))
    return cross_build(image, source, "tiny._core")


def test_a_command_runs_on_real_kvm(image: Image, module: Path, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("typed")
    (tmp_path / "inside.py").write_text(INSIDE)
    (tmp_path / "empty").write_text("")
    extra = {"inside.py": tmp_path / "inside.py", "tiny/__init__.py": tmp_path / "empty"}
    extra |= {f"tiny/{module.name}": module}
    out: list[bytes] = []
    err: list[bytes] = []
    with (tmp_path / "input").open("rb") as stdin:
        status = run(
            image,
            Settings(),
            ["python3", "inside.py", "it's", "$HOME"],
            out=out.append,
            err=err.append,
            stdin=stdin.fileno(),
            silence=SILENCE,
            extra=extra,
        )
    assert b"".join(out).decode().splitlines() == [
        "aarch64 12",
        "True True 12 /project /project/hfsched/__init__.py",
        "TYPED [\"it's\", '$HOME']",
    ]
    assert b"".join(err) == b"to stderr\n"
    assert status == 7


def test_a_machine_that_cannot_live_says_why(image: Image) -> None:
    with pytest.raises(MachineError, match=r"died before the command ended.*memory"):
        run(image, Settings(memory=1 << 30), ["true"], out=print, err=print, silence=SILENCE)


@pytest.mark.parametrize(("timeout", "silence"), [(0.05, None), (None, 0.05)])
def test_time_is_limited_and_no_process_stays(
    image: Image, timeout: float | None, silence: float | None
) -> None:
    before = children(os.getpid())
    words = ["sleep", "1000"]
    status = run(image, Settings(), words, out=print, err=print, timeout=timeout, silence=silence)
    assert status == TIMED_OUT
    assert children(os.getpid()) <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_the_machine_ends_with_us(image: Image, number: signal.Signals) -> None:
    image.project()
    process = start("--", "sleep", "1000")
    assert process.stdout is not None
    assert process.stderr is not None
    with ExitStack() as stack, process.stdout, process.stderr:
        descriptor = os.pidfd_open(machine_of(process))
        stack.callback(os.close, descriptor)
        process.send_signal(number)
        assert process.wait(QUIET) == (130 if number == signal.SIGINT else -number)
        # Readable when the process has ended, whether or not anybody has asked how.
        assert select.select([descriptor], [], [], QUIET)[0]


def machine_of(process: subprocess.Popen[bytes]) -> int:
    """Return QEMU's process id, once it is there."""
    quiet = Quiet()
    while quiet.left:
        for child in children(process.pid):
            with suppress(OSError):
                if PROGRAM.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
        os.sched_yield()
    raise AssertionError("QEMU was not started")


def test_a_counted_run_repeats_itself(image: Image) -> None:
    del image
    runs = [start("--icount", "3", "--", "python3", "-c", CLOCK) for _ in range(2)]
    said = [process.communicate() for process in runs]
    assert [process.returncode for process in runs] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert said[0][0].count(b" ") >= 3
