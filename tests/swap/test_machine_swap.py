"""The memory of running machines goes out and comes back, and the guests notice nothing."""

from __future__ import annotations

import os
import random
import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from machines import belongings
from progress import QUIET

from hfsched.errors import UserError
from hfsched.swap.client.errors import SwapError
from hfsched.swap.core import guestpages, userfault
from hfsched.swap.protocol.messages import State

from .guestmemory import MIB, needs_userfault
from .swapping import (
    HERE,
    come_back,
    go_out,
    in_memory,
    kill,
    machine,
    on_every_engine,
    swap_of,
    swapped_all_the_while,
    wait_for,
)

if TYPE_CHECKING:
    from talk import Target

pytestmark = needs_userfault

SECOND = 1_000_000_000
KILLS = int(os.environ.get("HFSCHED_SWAP_KILLS", "5"))


@on_every_engine
def test_a_guests_memory_is_as_it_was_through_it_all(target: Target, tmp_path: Path) -> None:
    with machine(target, tmp_path, "stress", "echo") as host:
        filled = host.ask("fill 7")
        before = in_memory(host)
        metrics = go_out(host).metrics
        assert metrics.file + metrics.compressed + metrics.zero > 80
        assert in_memory(host) < before / 2
        assert host.ask("hello", 1) == "hello"
        assert host.ask("check 7") == filled
        swap_of(host).enable()
        touched = swap_of(host).status().metrics.events["from_staging"]
        assert host.ask("check 7") == filled
        touched = swap_of(host).status().metrics.events["from_staging"] - touched
        assert touched > 80  # staged pages were unmapped
        swap_of(host).client.trim()
        wait_for(host, State.PENDING)
        come_back(host)
        assert host.ask("check 7") == filled
        assert in_memory(host) > before * 3 / 4  # zero pages stay away


@on_every_engine
def test_disable_without_out_leaves_a_guest_as_it_was(target: Target, tmp_path: Path) -> None:
    with machine(target, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        swap_of(host).enable()
        come_back(host)
        assert host.ask("check 7") == filled


@on_every_engine
def test_messages_come_and_go_meanwhile(target: Target, tmp_path: Path) -> None:
    with machine(target, tmp_path, "relay", "echo") as host:
        texts = [f"message {number}" for number in range(100)]
        got: list[str] = []
        host.end()  # one connection for both threads
        began = threading.Event()

        def talk() -> None:
            for text in texts:
                host.send(text.encode())
                got.append(host.receive().decode())
                began.set()

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        assert began.wait(QUIET)
        rounds = 0
        while thread.is_alive() or rounds < 3:
            go_out(host)
            come_back(host)
            rounds += 1
        thread.join()
        assert got == texts


@on_every_engine
def test_monitors_that_die_take_nothing_along(target: Target, tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    choose = random.Random(seed)
    with machine(target, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        with swapped_all_the_while(host) as went:
            for _ in range((KILLS + 1) // 2):
                host.send(b"check 7")
                for _ in range(2):
                    moment = round(choose.random() ** 3 * SECOND / 5)
                    host.runtime.sleep_until(host.runtime.now() + moment)
                    kill(host)
                assert host.receive().decode() == filled, f"seed {seed}"
        come_back(host)
        assert host.ask("check 7") == filled, f"seed {seed}"
        assert swap_of(host).client.supervisor.takeovers >= 1
        assert all("refuse" not in text for text in went)


def test_a_machine_may_end_while_its_memory_is_out(tmp_path: Path) -> None:
    more = []
    for _ in range(4):
        before = belongings()
        with machine(HERE, tmp_path, "stress") as host:
            host.ask("fill 7")
            go_out(host)
            process = swap_of(host).client.supervisor._process
            assert process is not None
        assert process.exit_status == 0
        more.append(belongings() - before)
    # The first one imports modules, and the allocator takes a mapping now and then; what a machine
    # leaves is left each time.
    del more[0]
    assert all(each.keys() <= {"mapping of no file"} for each in more), more
    assert {} in more, more


def test_commands_in_the_wrong_state_are_refused_and_the_guest_runs_on(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "echo") as host:
        with pytest.raises(SwapError, match=r"^out: nothing is staged"):
            swap_of(host).client.swap_out()
        assert host.ask("hello") == "hello"


def test_the_pictures_say_where_memory_is(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "stress", "echo", memory=4 * MIB) as host:
        host.ask("fill 7")
        assert swap_of(host).pictures() == {"stress": "..", "echo": ".-"}
        swap_of(host).enable()
        assert swap_of(host).pictures()["stress"] == "ss"
        swap_of(host).client.swap_out()
        wait_for(host, State.ACTIVE)
        assert swap_of(host).pictures()["stress"] == "FF"


def test_many_vms_are_swapped_and_taken_over(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, *["echo"] * 38, "stress", "stress", memory=MIB // 4) as host:
        filled = {vm: host.ask("fill 7", vm) for vm in (38, 39)}
        go_out(host)
        kill(host)
        for vm, answer in filled.items():
            assert host.ask("check 7", vm) == answer
        assert host.ask("hello", 37) == "hello"
        come_back(host)
        for vm, answer in filled.items():
            assert host.ask("check 7", vm) == answer
        assert swap_of(host).client.supervisor.takeovers == 1


# What a machine may lack.


@pytest.mark.parametrize("where", ["nowhere", "/proc"])
def test_an_unusable_directory_is_reported_in_a_line(tmp_path: Path, where: str) -> None:
    with machine(HERE, tmp_path, "echo"):
        pass  # the engine's library keeps some memory once it has been loaded
    before = belongings()
    with pytest.raises(UserError, match=r"^swap file in \S+: .*directory$"):
        machine(HERE, tmp_path / where, "echo")
    assert belongings() - before == {}


def without_privileges(*, user_mode_only: bool = False) -> int:
    """Replace `open_userfault` for a user without permission."""
    if not user_mode_only:
        raise UserError("userfaultfd: Operation not permitted: as root: sysctl")
    return guestpages.open_userfault(user_mode_only=True)


@on_every_engine
def test_without_privileges_unicorn_swaps_and_kvm_is_refused(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(userfault, "open_userfault", without_privileges)
    if target.engine == "kvm":
        with pytest.raises(UserError, match=r"^swap: for guests under KVM: .*as root: sysctl"):
            machine(target, tmp_path, "stress")
        return
    with machine(target, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        go_out(host)
        assert host.ask("check 7") == filled


def test_a_machine_without_userfaults_cannot_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*, user_mode_only: bool = False) -> int:
        raise UserError("userfaultfd: Function not implemented")

    monkeypatch.setattr(userfault, "open_userfault", none)
    with pytest.raises(
        UserError, match=r"^swap: (for guests under KVM: )?userfaultfd: Function not implemented$"
    ):
        machine(HERE, tmp_path, "echo")
