"""Failures around a machine: the guests keep running, nothing is lost, the cause is reported."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from machines import belongings
from processes import stop
from progress import QUIET

from hfsched.errors import UserError
from hfsched.scheduler.suspension import SuspendError
from hfsched.swap.client.errors import SwapError
from hfsched.swap.core import device
from hfsched.swap.protocol.messages import State
from hfsched.vmm import swapping

from .children import pid_of
from .guestmemory import PAGE, needs_userfault
from .swapping import HERE, come_back, go_out, machine, on_every_engine, swap_of, wait_for

if TYPE_CHECKING:
    from talk import Talk, Target

pytestmark = needs_userfault

SECOND = 1_000_000_000
PROGRAM = Path(__file__).parent / "mortal.py"


def monitor_of(host: Talk) -> int:
    """Return the id of the monitor's process."""
    process = swap_of(host).client.supervisor._process
    return pid_of(process)


def more_than(before: Counter[str]) -> list[str]:
    """Return what this process has now and had not; libraries and allocators may have taken some."""
    mine = ("descriptor", "thread", "mapping of /memfd", "mapping of anon_inode")
    return [what for what in belongings() - before if what.startswith(mine)]


def ended(pidfd: int) -> bool:
    """Wait for a process's end."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(QUIET * 1000))


@contextmanager
def mounted(where: Path, kind: str, options: str) -> Iterator[Path]:
    """Mount a file system, or skip the test with the reason."""
    where.mkdir()
    mount = ["mount", "-t", kind, "-o", options, "none", str(where)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no program mount")
    if done.returncode:
        pytest.skip(f"{kind} cannot be mounted here: {done.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def out_until_it_ends(host: Talk) -> None:
    swap_of(host).client.swap_out()
    wait_for(host, State.PENDING, State.ACTIVE)


# Room.


@on_every_engine
def test_a_full_file_system_is_reported_and_swap_out_continues_with_room(
    target: Target, tmp_path: Path
) -> None:
    with (
        mounted(tmp_path / "small", "tmpfs", "size=256k") as small,
        machine(target, small, "stress", "echo") as host,
    ):
        filled = host.ask("fill 7")
        swap_of(host).enable()
        for _ in range(2):
            out_until_it_ends(host)
            status = swap_of(host).status()
            assert status.state is State.PENDING
            assert status.error == "swap file: No space left on device"
            assert status.metrics.busy == 0
            # A write that a fault has overtaken has left a slot, which a run of several pages cannot use.
            overtaken = status.metrics.events["cancelled"]
            used = status.metrics.file + status.metrics.stale
            assert 64 - overtaken <= used <= 64, status.metrics.events
            assert host.ask("hello", 1) == "hello"
        assert host.ask("check 7") == filled
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        status = go_out(host)
        assert status.error == ""
        assert status.metrics.staged == 0
        assert host.ask("check 7") == filled
        come_back(host)
        assert host.ask("check 7") == filled
        assert os.statvfs(small).f_bfree == os.statvfs(small).f_blocks


@on_every_engine
def test_a_write_that_fails_is_reported_and_may_be_retried(target: Target, tmp_path: Path) -> None:
    with machine(target, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        swap_of(host).enable()
        monitor = monitor_of(host)
        before = resource.prlimit(monitor, resource.RLIMIT_FSIZE)
        resource.prlimit(monitor, resource.RLIMIT_FSIZE, (20 * PAGE, before[1]))
        out_until_it_ends(host)
        assert swap_of(host).status().error == "swap file: File too large"
        assert host.ask("check 7") == filled
        resource.prlimit(monitor, resource.RLIMIT_FSIZE, before)
        assert go_out(host).error == ""
        assert host.ask("check 7") == filled
        assert monitor_of(host) == monitor


def test_a_read_only_directory_is_reported_in_a_line(tmp_path: Path) -> None:
    with mounted(tmp_path / "fixed", "tmpfs", "ro") as fixed:
        before = belongings()
        with pytest.raises(UserError, match=r"fixed: the file system is read-only: choose another"):
            machine(HERE, fixed, "echo")
        assert more_than(before) == []


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_file_systems_in_memory_will_do(tmp_path: Path, kind: str) -> None:
    with (
        mounted(tmp_path / "memory", kind, "mode=700") as memory,
        machine(HERE, memory, "stress") as host,
    ):
        filled = host.ask("fill 7")
        assert go_out(host).metrics.file > 80
        assert host.ask("check 7") == filled
        assert list(memory.iterdir()) == []


def test_without_the_compressed_tiers_library_all_goes_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "tier_problem", lambda: "liblz4.so.1 is not installed")
    with machine(HERE, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        metrics = go_out(host).metrics
        assert metrics.tier_size == metrics.compressed == 0
        assert metrics.file > 80
        assert host.ask("check 7") == filled


def test_memory_that_is_locked_cannot_be_staged_and_the_guest_runs_on(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        ram = host.vm().memory.regions[0].ram
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlock(ctypes.c_void_p(ram.address), ctypes.c_size_t(ram.size)):
            pytest.skip(f"no memory can be locked here: {os.strerror(ctypes.get_errno())}")
        with pytest.raises(SwapError, match=r"^enable: member 0: .*unmapping guest memory"):
            swap_of(host).enable()
        wait_for(host, State.READY)
        assert host.ask("check 7") == filled
        libc.munlock(ctypes.c_void_p(ram.address), ctypes.c_size_t(ram.size))
        go_out(host)
        assert host.ask("check 7") == filled


# Processes.


def test_faults_wait_while_the_monitor_is_stopped_and_requests_have_a_deadline(
    tmp_path: Path,
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        go_out(host)
        stop(monitor_of(host))
        said: list[str] = []
        # Its message goes into the guest's memory: the sender may wait too.
        thread = threading.Thread(target=lambda: said.append(host.ask("check 7")), daemon=True)
        thread.start()
        now = host.runtime.now()
        with pytest.raises(SwapError, match=r"^status: the monitor did not answer in time$"):
            swap_of(host).status(now + SECOND // 10)
        with pytest.raises(SwapError, match=r"^disable: the monitor did not answer in time$"):
            swap_of(host).client.disable(deadline=now + SECOND // 5)
        with pytest.raises((SwapError, SuspendError), match=r"in time$"):
            swap_of(host).enable(host.runtime.now() + SECOND // 5)
        assert said == [], "it has an answer without its memory"
        os.kill(monitor_of(host), signal.SIGCONT)
        thread.join(QUIET)
        assert said == [filled]
        wait_for(host, State.READY)
        assert host.ask("check 7") == filled
        assert swap_of(host).client.supervisor.takeovers == 0


def test_a_machine_ends_though_its_monitor_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swapping, "_CLOSE_WITHIN", SECOND // 5)
    before = belongings()
    with machine(HERE, tmp_path, "stress") as host:
        host.ask("fill 7")
        go_out(host)
        assert host.until(host.machine.quiet)  # its guest has answered, and may run on into a fault
        pidfd = os.pidfd_open(monitor_of(host))
        stop(monitor_of(host))
    assert ended(pidfd), "the monitor is there still"
    os.close(pidfd)
    assert more_than(before) == []


@contextmanager
def mortal(directory: Path, *words: str) -> Iterator[dict[str, int]]:
    """Run a machine in a process of its own, which swaps repeatedly; yield its output."""
    roots = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    command = [sys.executable, str(PROGRAM), str(directory), *words]
    main = subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": roots}, text=True
    )
    assert main.stdout is not None
    try:
        yield {"main": main.pid, **json.loads(main.stdout.readline())}
    finally:
        main.kill()
        main.wait()
        main.stdout.close()


@pytest.mark.parametrize("word", ["alone", "fork", "exec"])
def test_when_main_is_killed_nothing_is_left(tmp_path: Path, word: str) -> None:
    """Main may have a child that lives on, with or without all that main had open."""
    with mortal(tmp_path, word) as said:
        pidfd = os.pidfd_open(said["monitor"])
        os.kill(said["main"], signal.SIGKILL)
        gone = ended(pidfd)
        os.close(pidfd)
        if "child" in said:
            os.kill(said["child"], signal.SIGKILL)
    assert gone, "the monitor lives on"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["fork", "exec"])
def test_children_of_main_do_not_disturb(tmp_path: Path, word: str) -> None:
    """A monitor's death is seen, and guest memory stays correct, though other processes have the monitor's descriptors."""
    with mortal(tmp_path, word) as said:
        pidfd = os.pidfd_open(said["monitor"])
        os.kill(said["monitor"], signal.SIGKILL)
        assert ended(pidfd)
        os.close(pidfd)
        os.kill(said["main"], signal.SIGUSR1)
        main = os.pidfd_open(said["main"])
        assert ended(main), "main does not come to its end"
        os.close(main)
        status = os.waitid(os.P_PID, said["main"], os.WEXITED | os.WNOWAIT)
        os.kill(said["child"], signal.SIGKILL)
    assert status is not None
    assert status.si_status == 0


def test_ten_machines_swap_at_once(tmp_path: Path) -> None:
    before = belongings()
    said: list[str] = []

    def live(host: Talk, seed: int) -> None:
        filled = host.ask(f"fill {seed}")
        for _ in range(3):
            go_out(host)
            if host.ask(f"check {seed}") == filled:
                said.append("right")
            come_back(host)

    with ExitStack() as stack:
        hosts = [stack.enter_context(machine(HERE, tmp_path, "stress")) for _ in range(10)]
        threads = [
            threading.Thread(target=live, args=pair)
            for pair in zip(hosts, range(1, 11), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert said == ["right"] * 30
    assert more_than(before) == []
