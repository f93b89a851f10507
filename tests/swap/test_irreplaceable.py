"""The process that starts monitors dies, where main may exec, and where it may not."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes import stop

from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.client.errors import LostError, SwapError
from hfsched.swap.protocol.messages import State

from .children import pid_of
from .guestmemory import needs_userfault
from .swapping import HERE, come_back, go_out, kill, machine, swap_of, wait_for

if TYPE_CHECKING:
    from talk import Talk

    from hfsched.runtime.base import End, Runtime

pytestmark = needs_userfault

KILLS = 5
NO_ENABLE = "^enable: swap stays off: if the monitor died, no other one could be started$"
LOST = (
    "swap: there is no monitor: the process that starts others has ended, and this one may not start"
    " another"
)


def spawner_of(host: Talk) -> int:
    assert host.until(lambda: host.runtime.spawner_pid is not None)
    assert host.runtime.spawner_pid is not None
    return host.runtime.spawner_pid


def monitor_of(host: Talk) -> int:
    return pid_of(swap_of(host).client.supervisor._process)


def lose_spawner(host: Talk) -> None:
    """Kill it where main may start no other; return when main knows."""
    host.runtime.forbid_exec()
    os.kill(spawner_of(host), signal.SIGKILL)
    assert host.runtime.select([host.runtime.spawner_lost], host.deadline())


def test_a_spawner_that_dies_with_its_monitor_is_replaced_too(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        go_out(host)
        for number in range(KILLS):
            os.kill(spawner_of(host), signal.SIGKILL)
            os.kill(monitor_of(host), signal.SIGKILL)
            assert host.ask("check 7") == filled
            go_out(host)
            assert swap_of(host).client.supervisor.takeovers == number + 1
        come_back(host)


@pytest.mark.parametrize("state", [State.READY, State.PENDING, State.ACTIVE])
def test_without_a_spawner_everything_comes_in_and_swap_stays_off(
    tmp_path: Path, state: State
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        swapping = swap_of(host)
        if state is State.PENDING:
            swapping.enable()
        elif state is State.ACTIVE:
            go_out(host)
        lose_spawner(host)
        wait_for(host, State.READY)
        assert swapping.status().metrics.resident == swapping.sizes[host.machine.vm_names()[0]]
        with pytest.raises(SwapError, match=NO_ENABLE):
            swapping.enable()
        assert host.ask("check 7") == filled
        kill(host)  # no memory is out: the run goes on without a monitor
        assert host.until(lambda: swapping.status().state is State.FAILED)
        assert swapping.status().error == LOST
        with pytest.raises(LostError, match=LOST):
            swapping.client.trim()
        assert host.ask("check 7") == filled


def test_a_monitor_that_dies_before_all_is_in_ends_the_run(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        host.ask("fill 7")
        go_out(host)
        host.until_quiet()  # its guest has answered, and may run on into a fault
        stop(monitor_of(host))
        lose_spawner(host)
        os.kill(monitor_of(host), signal.SIGKILL)
        assert host.until(lambda: bool(host._failures))
        (failure,) = host._failures
        assert f"{LOST}: guests that access memory that is out will not continue" in failure
        host._failures.clear()


def test_a_monitor_that_dies_in_the_middle_of_enable_ends_the_run(tmp_path: Path) -> None:
    """Memory may be registered then, though nothing is staged."""
    with machine(HERE, tmp_path, "stress") as host:
        host.ask("fill 7")
        host.until_quiet()
        stop(monitor_of(host))
        end = host.runtime.spawn("kills", lambda: kill_later(host))
        with pytest.raises(LostError, match=LOST):
            swap_of(host).enable()
        assert end.join(host.deadline())
        assert host.until(lambda: bool(host._failures))
        host._failures.clear()


def kill_later(host: Talk) -> None:
    """Kill the spawner, then the monitor, once Enable has been sent."""
    supervisor = swap_of(host).client.supervisor
    while not supervisor.half_enabled:
        host.runtime.checkpoint("until Enable has been sent")
    lose_spawner(host)
    os.kill(monitor_of(host), signal.SIGKILL)


# Main may really not exec.

_CALLS = {"x86_64": (0xC000003E, 59, 322), "aarch64": (0xC00000B7, 221, 281)}


def give_up_exec() -> None:
    """Have every exec of this process fail with EPERM, by seccomp, in all its threads."""
    architecture, execve, execveat = _CALLS[platform.machine()]
    load, equal, answer = 0x20, 0x15, 0x06
    program = [
        (load, 0, 0, 4),
        (equal, 0, 4, architecture),
        (load, 0, 0, 0),
        (equal, 1, 0, execve),
        (equal, 0, 1, execveat),
        (answer, 0, 0, 0x00050001),
        (answer, 0, 0, 0x7FFF0000),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    call = {"x86_64": 317, "aarch64": 277}[platform.machine()]
    assert libc.syscall(call, 1, 1, filter_) == 0, ctypes.get_errno()  # all threads


def confined(_: Runtime, end: End) -> None:
    """Be a main that may not exec, whose monitors die."""
    got = end.recv()
    assert got is not None
    with machine(HERE, Path(got[0].decode()), "stress") as host:
        filled = host.ask("fill 7")
        give_up_exec()
        host.runtime.forbid_exec()
        with pytest.raises(PermissionError):
            subprocess.run([sys.executable, "-c", ""], check=False)
        for _number in range(KILLS):
            go_out(host)
            kill(host)
            assert host.ask("check 7") == filled
        assert swap_of(host).client.supervisor.takeovers == KILLS
        go_out(host)
        lose_spawner(host)
        wait_for(host, State.READY)
        assert host.ask("check 7") == filled
    end.send(b"good")


def test_a_main_that_may_not_exec_has_dead_monitors_replaced(tmp_path: Path) -> None:
    runtime = ThreadRuntime()
    end, theirs = runtime.channel("main")
    process = runtime.process("main", confined, [theirs])
    end.send(str(tmp_path).encode())
    assert end.recv(runtime.now() + 60_000_000_000) == (b"good", [])
    assert process.join(runtime.now() + 60_000_000_000)
    assert process.exit_status == 0
    end.close()
    runtime.close()
