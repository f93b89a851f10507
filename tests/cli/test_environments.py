"""`hfsched` where something is short, full or missing: one line names it, and the status is 1."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfsched import limits

if TYPE_CHECKING:
    from conftest import Process, Start

GUEST = "guests.py:echo"


def limited(number: int, amount: int) -> dict[str, Callable[[], None]]:
    """Return what starts a process with a limit, which it cannot raise."""
    return {"preexec_fn": lambda: resource.setrlimit(number, (amount, amount))}


def error(process: Process) -> str:
    """Return the one line that a command ends with."""
    assert process.wait() == 1, process.out
    (line,) = process.err.splitlines()
    return line.removeprefix("hfsched: error: ")


@pytest.mark.parametrize("files", [6, 11, 12, 29])
def test_few_open_files(run: Start, files: int) -> None:
    refused = run(GUEST, **limited(resource.RLIMIT_NOFILE, files))
    assert error(refused) == (
        f"a hard limit of {files} open files (ulimit -Hn): at least 30 are needed:"
        " raise it, or run fewer VMs or vCPUs"
    )


def test_the_files_that_are_asked_for_are_enough(run: Start) -> None:
    echo = run(GUEST, "--quiet", **limited(resource.RLIMIT_NOFILE, 30))
    echo.type("hello\n")
    assert echo.wait() == 0, echo.err


def test_a_soft_limit_is_raised(run: Start) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    echo = run(GUEST, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (12, hard)))
    echo.type("hello\n")
    assert echo.wait() == 0, echo.err


def test_little_address_space(run: Start) -> None:
    refused = run(GUEST, **limited(resource.RLIMIT_AS, 200_000 << 10))
    assert error(refused) == (
        "a limit of 200000 KiB of addresses (ulimit -v): at least 229376 KiB are needed"
    )
    enough = run(GUEST, "--quiet", **limited(resource.RLIMIT_AS, 229_376 << 10))
    enough.type("hello\n")
    assert enough.wait() == 0, enough.err


def test_small_files(run: Start) -> None:
    refused = run(GUEST, **limited(resource.RLIMIT_FSIZE, 1024))
    assert error(refused) == (
        "a limit of 1 KiB for a file (ulimit -f), which guest memory is: at least 16384 KiB are needed"
    )


def test_an_output_that_meets_the_limit_of_a_file(hfsched: Start, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        told = hfsched("run", "--help", stdout=out, **limited(resource.RLIMIT_FSIZE, 1024))
        why = "standard output: File too large (ulimit -f is 1 KiB)"
        assert error(told) == why


@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        ("--version",),
        ("run", "--help"),
        ("swap", "--help"),
        ("doctor",),
        ("doctor", "--json"),
        ("image", "guests.py"),
        ("fuzz", "list"),
        ("completion", "bash"),
    ],
    ids=" ".join,
)
def test_an_output_that_is_full(hfsched: Start, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        assert error(hfsched(*command, stdout=full)) == "standard output: No space left on device"


def test_a_directory_for_swap_that_takes_no_files(run: Start) -> None:
    why = "swap file in /proc: no file can be created there: choose another directory"
    assert error(run(GUEST, "--swap-dir", "/proc", "--quiet")) == why


def test_a_home_a_tmp_and_no_runtime_directory_that_cannot_be_written(run: Start) -> None:
    # A directory of sockets in /proc cannot be made by anybody, root or not.
    environment = {"HOME": "/proc", "XDG_RUNTIME_DIR": "/proc/self"}
    echo = run(GUEST, environment=environment)
    echo.type("hello\n")
    assert echo.wait() == 0
    assert "guests: hello" in echo.out


def test_a_large_file_that_is_no_image_is_not_read(run: Start, hfsched: Start) -> None:
    with Path("sparse.bin").open("wb") as sparse:
        sparse.truncate(900 << 20)
    what = "neither an arm64 Linux image, an x86-64 flat image nor an ELF64 file (943718400 bytes)"
    # Less address space than the file has bytes: it cannot be read whole.
    small = limited(resource.RLIMIT_AS, 800 << 20)
    assert error(run("--guest", "sparse.bin", **small)) == f"vm sparse: sparse.bin: {what}: zeros"
    assert error(run("sparse.bin", **small)).endswith("manifest: zeros")
    image = hfsched("image", "sparse.bin", **small)
    assert image.wait() == 1
    assert what in image.out


UNSHARE = shutil.which("unshare")
can_unmount = pytest.mark.skipif(
    UNSHARE is None
    or os.geteuid() != 0
    or subprocess.run(
        [UNSHARE, "-m", "umount", "-l", "/proc"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="no mount namespace of its own can be made",
)


@can_unmount
def test_without_proc(run: Start) -> None:
    inside = ("unshare", "-m", "sh", "-c", 'umount -l /proc && exec "$@"', "sh")
    command = (*inside, sys.executable, "-m", "hfsched")
    echo = run(GUEST, "--quiet", command=command)
    echo.type("hello\n")
    assert echo.wait() == 0, echo.err
    refused = run(GUEST, "--quiet", "--swap-dir", "/var/tmp", command=command)
    assert error(refused) == (
        "swap file in /var/tmp: cannot be opened for reading: /proc is not mounted"
    )


@can_unmount
def test_where_nothing_can_be_written(run: Start) -> None:
    inside = "mount -t tmpfs -o ro tmpfs /mnt && mount --bind /mnt /tmp"
    command = ("unshare", "-m", "sh", "-c", f'{inside} && exec "$@"', "sh", sys.executable)
    if any(each.startswith("/tmp/") for each in (__file__, sys.executable)):
        pytest.skip("this tree is in /tmp")
    named = run(
        *("relay", "--engine", "script", "--name", "x", "--quiet"),
        command=(*command, "-m", "hfsched"),
        environment={"XDG_RUNTIME_DIR": ""},
        cwd="/",
    )
    assert "cannot be created: Read-only file system: set XDG_RUNTIME_DIR" in error(named)


def test_causes() -> None:
    assert limits.cause(OSError(2, "No such file or directory")) == "No such file or directory"
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits.cause(OSError(24, "Too many open files")) == (
        f"Too many open files (ulimit -n is {before[0]})"
    )
