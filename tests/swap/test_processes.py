"""Processes beside main that have the memory of a running machine mapped."""

from __future__ import annotations

import os
import random
import secrets
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from machines import belongings
from processes import in_a_fault, stop
from progress import QUIET

from hfsched.runtime.base import End, Runtime
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.client.errors import SwapError
from hfsched.swap.core.pagemap import open_pagemap
from hfsched.swap.protocol.messages import State
from hfsched.vmm import swapping

from . import backends
from .backends import Backend, first_of
from .children import pid_of
from .guestmemory import MIB, PAGE, needs_userfault
from .swapping import (
    HERE,
    come_back,
    go_out,
    kill,
    machine,
    on_every_engine,
    swap_of,
    swapped_all_the_while,
    wait_for,
)

if TYPE_CHECKING:
    from talk import Talk, Target

pytestmark = needs_userfault

SECOND = 1_000_000_000
KILLS = int(os.environ.get("HFSCHED_SWAP_KILLS", "5"))
OWN = 48, 32  # pages of `echo`'s memory that no guest uses: first, number


def filled(host: Talk, seed: int = 7) -> tuple[str, int, int]:
    """Let `stress` fill its memory; return its answer, its first page and how many they are."""
    answer = host.ask(f"fill {seed}")
    return answer, first_of(host.vm().memory.regions[0].ram, seed), int(answer.split()[1])


def vm_names(host: Talk) -> list[str]:
    return host.machine.vm_names()


class Backends:
    """Makes processes, and ends them."""

    def __init__(self) -> None:
        self.made: list[Backend] = []

    def __call__(
        self, host: Talk, main: Any = backends.user_mode_backend, **arguments: Any
    ) -> Backend:
        self.made.append(Backend(swap_of(host), main, **arguments))
        return self.made[-1]

    def churning(self, host: Talk) -> Backend:
        """Return one that writes and checks pages of the second VM all the while."""
        made = self(host)
        made.ask("churn", *OWN, vm_names(host)[1])
        return made


@pytest.fixture
def start() -> Iterator[Backends]:
    made = Backends()
    yield made
    for each in made.made:
        each.close()


@on_every_engine
def test_a_process_and_a_guest_share_memory_through_it_all(
    target: Target, tmp_path: Path, start: Backends
) -> None:
    program = backends.user_mode_backend if target.engine == "unicorn" else backends.backend
    with machine(target, tmp_path, "stress") as host:
        answer, *place = filled(host)
        (vm,) = vm_names(host)
        child = start(host, program)
        assert child.ask("check", 7, *place, vm) == 0
        swap_of(host).enable()
        assert child.ask("check", 7, *place, vm) == 0
        events = swap_of(host).status().metrics.events
        assert events["from_staging"] >= place[1]  # it had been zapped, and was served
        child.ask("fill", 8, *place, vm)
        assert host.ask("check 8") == answer
        go_out(host)
        child.ask("fill", 9, *place, vm)  # over pages that are out
        assert host.ask("check 9") == answer
        assert host.ask("fill 10") == answer
        go_out(host)
        assert child.ask("check", 10, *place, vm) == 0
        assert swap_of(host).status().metrics.events["from_file"] > 0
        assert host.ask("check 10") == answer
        swap_of(host).enable()
        swap_of(host).client.trim()
        wait_for(host, State.PENDING)
        assert child.ask("check", 10, *place, vm) == 0
        come_back(host)
        child.ask("fill", 11, *place, vm)
        assert host.ask("check 11") == answer
        assert host.ask("fill 12") == answer
        assert child.ask("check", 12, *place, vm) == 0


def test_a_process_that_came_while_memory_was_out_is_served(
    tmp_path: Path, start: Backends
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        _, *place = filled(host)
        go_out(host)
        child = start(host)
        assert child.ask("check", 7, *place, *vm_names(host)) == 0


def test_a_process_may_have_the_memory_of_some_vms_alone(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress", "echo") as host:
        one, other = vm_names(host)
        child = start(host, vms=[other])
        assert child.ask("names") == [other]
        child.ask("fill", 1, *OWN, other)
        answer, *_ = filled(host)
        go_out(host)
        assert child.ask("check", 1, *OWN, other) == 0
        assert host.ask("check 7") == answer
        assert one != other


@on_every_engine
def test_concurrent_writes_of_a_process_are_kept(
    target: Target, tmp_path: Path, start: Backends
) -> None:
    with machine(target, tmp_path, "stress", "echo") as host:
        answer, *_ = filled(host)
        child = start.churning(host)
        for _ in range(4):
            go_out(host)
            assert host.ask("check 7") == answer
            swap_of(host).enable()
            swap_of(host).client.trim()
            wait_for(host, State.PENDING)
            come_back(host)
        assert child.ask("calm") == 0


def test_processes_that_may_die_do_so_at_any_moment(tmp_path: Path, start: Backends) -> None:
    seed = secrets.randbits(32)
    choose = random.Random(seed)
    with machine(HERE, tmp_path, "stress", "echo") as host:
        answer, *_ = filled(host)
        with swapped_all_the_while(host) as went:
            for _ in range(KILLS):
                child = start.churning(host)
                moment = round(choose.random() * SECOND / 5)
                host.runtime.sleep_until(host.runtime.now() + moment)
                child.close()
        come_back(host)
        swap_of(host).collect()
        before = belongings()
        assert swap_of(host).status().members == 1, f"seed {seed}"
        assert host.ask("check 7") == answer, f"seed {seed}"
        go_out(host)
        assert host.ask("check 7") == answer, f"seed {seed}"
        assert [text for text in went if "begins only when" not in text] == [], f"seed {seed}"
        child = start.churning(host)
        child.close()
        swap_of(host).collect()
        assert belongings() - before == {}


def test_many_dead_processes_are_removed_together(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *place = filled(host)
        children = [start(host) for _ in range(5)]
        go_out(host)
        for child in children[:2] + children[3:]:
            child.kill()
        swap_of(host).enable()
        assert swap_of(host).status().members == 2
        assert children[2].ask("check", 7, *place, *vm_names(host)) == 0
        start(host)  # with the number of one that is dead
        assert swap_of(host).status().members == 3
        assert host.ask("check 7") == answer


def test_a_process_that_dies_in_a_fault_is_removed(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, first, pages = filled(host)
        child = start(host)
        go_out(host)
        monitor = pid_of(swap_of(host).client.supervisor._process)
        stop(monitor)
        child.post("check", 7, first, pages, *vm_names(host))
        assert host.until(lambda: in_a_fault(child.pid))
        child.kill()
        os.kill(monitor, signal.SIGCONT)
        assert host.ask("check 7") == answer
        go_out(host)
        assert swap_of(host).status().members == 1
        assert host.ask("check 7") == answer


def test_a_process_that_is_registered_too_late_holds_nothing_up(
    tmp_path: Path, start: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor has a member then that main has given up, and that never zaps."""
    with machine(HERE, tmp_path, "stress") as host:
        answer, *place = filled(host)
        monitor = pid_of(swap_of(host).client.supervisor._process)
        stop(monitor)
        with monkeypatch.context() as patch:
            patch.setattr(swapping, "_ENABLE_WITHIN", 2 * SECOND)
            with pytest.raises(SwapError, match=r"^register: the monitor did not answer in time$"):
                start(host)
        os.kill(monitor, signal.SIGCONT)
        assert go_out(host).members == 1
        child = start(host)
        assert child.ask("check", 7, *place, *vm_names(host)) == 0
        assert go_out(host).members == 2
        assert host.ask("check 7") == answer


@pytest.mark.parametrize("after", ["nothing", "a monitor's death"])
def test_without_a_process_that_must_live_there_is_no_enable(
    tmp_path: Path, start: Backends, after: str
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *_ = filled(host)
        child = start(host, dynamic=False)
        go_out(host)
        child.kill()
        if after != "nothing":
            kill(host)
        for _ in range(2):
            with pytest.raises(
                SwapError, match=r"^process backend is dead, and is not allowed to die$"
            ):
                swap_of(host).enable()
        assert host.ask("check 7") == answer
        come_back(host)
        assert host.ask("check 7") == answer


def test_a_process_that_does_not_zap_undoes_the_enable(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *_ = filled(host)
        child = start(host, backends.stubborn)
        text = r"^enable: member 1: process backend: zap: it did not answer in time$"
        with pytest.raises(SwapError, match=text):
            swap_of(host).enable()
        wait_for(host, State.READY)
        assert host.ask("check 7") == answer
        child.kill()
        go_out(host)
        assert host.ask("check 7") == answer


def test_a_process_that_still_maps_memory_undoes_the_enable(
    tmp_path: Path, start: Backends
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *place = filled(host)
        child = start(host, backends.liar)
        swap_of(host).enable()  # it has touched nothing so far
        come_back(host)
        assert child.ask("check", 7, *place, *vm_names(host)) == 0
        text = (
            r"^enable: member 1: it has unmapped guest memory, as it says, and maps 0x[0-9a-f]+000$"
        )
        with pytest.raises(SwapError, match=text):
            swap_of(host).enable()
        wait_for(host, State.READY)
        assert host.ask("check 7") == answer
        child.kill()
        go_out(host)
        assert host.ask("check 7") == answer


def test_a_process_that_does_not_suspend_makes_enable_fail_without_effect(
    tmp_path: Path, start: Backends
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *_ = filled(host)
        child = start(host)
        child.ask("hold")
        with pytest.raises(SwapError, match=r"^process backend: suspend: it did not "):
            swap_of(host).enable()
        assert swap_of(host).status().state is State.READY
        assert host.ask("check 7") == answer
        child.kill()


def test_a_process_that_was_away_for_a_while_is_a_member_again(
    tmp_path: Path, start: Backends
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *place = filled(host)
        child = start(host)
        stop(child.pid)
        for what in ("(suspend|an earlier request)", "an earlier request"):
            text = rf"^process backend: {what}: it did not answer in time$"
            with pytest.raises(SwapError, match=text):
                swap_of(host).enable()
        assert host.ask("check 7") == answer
        os.kill(child.pid, signal.SIGCONT)
        go_out(host)
        assert child.ask("check", 7, *place, *vm_names(host)) == 0


def test_a_monitors_death_is_no_harm_to_other_processes(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress", "echo") as host:
        answer, *place = filled(host)
        child = start(host)
        busy = start.churning(host)
        for _ in range(KILLS):
            go_out(host)
            kill(host)
            assert child.ask("check", 7, *place, vm_names(host)[0]) == 0
        assert busy.ask("calm") == 0
        assert swap_of(host).status().members == 3
        assert host.ask("check 7") == answer
        assert swap_of(host).client.supervisor.takeovers == KILLS


def test_a_process_ends_with_the_machine_though_memory_is_out(
    tmp_path: Path, start: Backends
) -> None:
    with machine(HERE, tmp_path, "stress", "echo") as host:
        filled(host)
        child = start.churning(host)
        go_out(host)
    assert child.process.join(host.deadline())
    assert child.process.exit_status == 0


def doomed(_: Runtime, end: End) -> None:
    """Be main: a machine whose memory is out, and a process that has it mapped."""
    got = end.recv()
    assert got is not None
    with machine(HERE, Path(got[0].decode()), "stress", "echo") as host:
        filled(host)
        child = Backends().churning(host)
        go_out(host)
        monitor = pid_of(swap_of(host).client.supervisor._process)
        end.send(f"{monitor} {child.pid}".encode())
        end.recv()


def test_when_main_is_killed_its_processes_end(tmp_path: Path) -> None:
    runtime = ThreadRuntime()
    end, theirs = runtime.channel("main")
    main = runtime.process("main", doomed, [theirs])
    end.send(str(tmp_path).encode())
    got = end.recv()
    assert got is not None
    pidfds = [os.pidfd_open(int(pid)) for pid in got[0].split()]
    main.kill()
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], QUIET)[0], "it lives on"
        os.close(pidfd)
    assert main.join()
    end.close()


def test_a_program_that_is_no_member_is_refused(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "echo", memory=MIB) as host:
        before = belongings()
        here, there = host.runtime.channel("backend")
        there.close()
        with pytest.raises(SwapError, match=r"^process closed: it has closed its channel$"):
            swap_of(host).add_process("closed", here, open_pagemap())
        assert belongings() - before == {}
        assert host.ask("hello") == "hello"
        assert host.vm().memory.regions[0].ram.size // PAGE == 256
