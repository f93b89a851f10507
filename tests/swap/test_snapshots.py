"""A snapshot of a machine whose memory is out: it is read where it is, and swap waits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from progress import QUIET_NS

from hfsched.errors import SnapshotError
from hfsched.memory.ram import Ram
from hfsched.scheduler.outbox import Sent
from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.messages import State
from hfsched.swap.report.footprint import allocated
from hfsched.vmm import snapshotmemory, snapshotting
from hfsched.vmm.attempt import Wish

from .counting import restored, snapshot
from .guestmemory import PAGE, needs_userfault
from .swapping import HERE, come_back, go_out, kill, machine, on_every_engine, swap_of, wait_for

if TYPE_CHECKING:
    from talk import Talk, Target

    from hfsched.vmm.attempt import Written
    from hfsched.vmm.machine import Machine

pytestmark = needs_userfault


def take(host: Talk, where: Path, *, incremental: bool = False, live: bool = False) -> Written:
    return snapshot(host.machine, where, live=live, incremental=incremental)


def answer(made: Machine, text: str) -> str:
    """Return the answer of a restored machine's first guest."""
    runtime = made._runtime
    end = made.endpoint(made.vm_names()[0], 1)
    assert end.send(text.encode(), runtime.now() + QUIET_NS) is Sent.SENT
    message = end.recv(runtime.now() + QUIET_NS)
    assert message is not None
    return message.payload.decode()


@on_every_engine
def test_nothing_comes_in_and_all_is_in_the_snapshot(target: Target, tmp_path: Path) -> None:
    with machine(target, tmp_path, "stress", "echo") as host:
        filled = host.ask("fill 7")
        host.until_quiet()
        go_out(host)
        swap_of(host).status()
        before = swap_of(host).status().metrics
        assert min(before.file, before.compressed, before.zero) > 1
        take(host, tmp_path / "out")
        after = swap_of(host).status()
        assert after.state is State.ACTIVE
        assert after.metrics == before
        assert host.ask("check 7") == filled
        with restored(tmp_path / "out") as again:
            again.start()
            assert answer(again, "check 7") == filled
        come_back(host)
        assert host.ask("check 7") == filled
        take(host, tmp_path / "in")
        with restored(tmp_path / "in") as again:
            again.start()
            assert answer(again, "check 7") == filled


def test_swap_waits_and_names_the_snapshot(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        swap_of(host).enable()
        writing = snapshotting.Capture(host.machine, (-1, -1), Wish(name="monday", created=1))
        writing.prepare(host.deadline())
        for command in (
            swap_of(host).enable,
            swap_of(host).swap_out,
            swap_of(host).client.trim,
            swap_of(host).client.disable,
            lambda: swap_of(host).discard(host.machine.vm_names()[0], 0, 4096),
        ):
            with pytest.raises(SwapError, match=r"the snapshot monday is being taken: wait for"):
                command()
        assert swap_of(host).status().state is State.PENDING
        kill(host)
        assert swap_of(host).status().state is State.PENDING
        writing.close()
        swap_of(host).swap_out()
        wait_for(host, State.ACTIVE)
        assert host.ask("check 7") == filled


def test_a_monitor_that_dies_meanwhile_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        swap_of(host).enable()
        swap_of(host).swap_out()  # it is on its way
        real = snapshotting.Capture._take

        def kills(self: snapshotting.Capture, *arguments: Any) -> None:
            kill(host)
            real(self, *arguments)

        monkeypatch.setattr(snapshotting.Capture, "_take", kills)
        take(host, tmp_path / "layer")
        wait_for(host, State.ACTIVE)
        assert swap_of(host).client.supervisor.takeovers
        assert host.ask("check 7") == filled
        with restored(tmp_path / "layer") as again:
            again.start()
            assert answer(again, "check 7") == filled


def test_a_snapshot_that_fails_lets_swap_go_on(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        host.ask("fill 7")
        swap_of(host).enable()
        with open(os.devnull, "rb") as no_file, pytest.raises(SnapshotError):  # noqa: PTH123
            host.machine.snapshots.take(
                (no_file.fileno(), no_file.fileno()), Wish(name="bad", created=1), host.deadline()
            )
        swap_of(host).swap_out()
        wait_for(host, State.ACTIVE)


@on_every_engine
@pytest.mark.parametrize("before", [State.READY, State.PENDING, State.ACTIVE])
def test_a_live_one_leaves_swap_as_it_was(target: Target, before: State, tmp_path: Path) -> None:
    with machine(target, tmp_path, "stress", "echo") as host:
        filled = host.ask("fill 7")
        if before is State.PENDING:
            swap_of(host).enable()
        elif before is State.ACTIVE:
            go_out(host)
        for number in range(3):
            where = tmp_path / f"{number}"
            written = take(host, where, live=True, incremental=number == 1)
            assert (written.on is None) is (number != 1)
            assert swap_of(host).status().state is before
            with restored(where) as again:
                again.start()
                assert answer(again, "check 7") == filled
            assert host.ask("check 7") == filled
        aside = swap_of(host).backing.stores.aside
        assert aside is not None
        assert allocated(aside) <= PAGE, "of a byte for each page"


def test_what_is_mapped_is_read_there_and_the_rest_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        filled = host.ask("fill 7")
        go_out(host)
        assert host.ask("check 7") == filled  # a part comes back
        host.until_quiet()
        before = swap_of(host).status().metrics
        copied: list[int] = []
        real = Ram.copy_out

        def copy_out(self: Ram, offset: int, room: memoryview) -> None:
            copied.append(len(room) // PAGE)
            real(self, offset, room)

        monkeypatch.setattr(Ram, "copy_out", copy_out)
        monkeypatch.setattr(snapshotmemory, "READ_MAX", 1)
        take(host, tmp_path / "layer")
        monkeypatch.undo()
        assert swap_of(host).status().metrics == before
        assert sum(copied) <= before.resident
        assert copied
        with restored(tmp_path / "layer") as again:
            again.start()
            assert answer(again, "check 7") == filled
