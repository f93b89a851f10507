"""Processes that map guest memory and that another such process has started."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes import stop
from progress import until

from hfsched.memory import writeprotect
from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.messages import ProtocolError
from hfsched.swap.protocol.newcomers import Newcomer, decode_newcomer, encode_newcomer

from .children import pid_of
from .guestmemory import needs_userfault
from .swapping import HERE, come_back, go_out, kill, machine, swap_of, swapped_all_the_while
from .test_processes import OWN, SECOND, Backends, filled, vm_names

if TYPE_CHECKING:
    from talk import Talk

pytestmark = needs_userfault

GOOD = "end", "pidfd of own", "pagemap of own"


@pytest.fixture
def start() -> Iterator[Backends]:
    made = Backends()
    yield made
    for each in made.made:
        each.close()


def members(host: Talk, number: int) -> None:
    """Wait until so many processes are served, with main."""
    until(lambda: swap_of(host).status().members, lambda found: found == number)


def held() -> Counter[str]:
    """Return what this process has open, and which memory files it has mapped."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text().splitlines()
    has = Counter(line.split()[5] for line in maps if "/memfd" in line)
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that reads the folder
            has[f"descriptor of {str(fd.readlink()).split(':[')[0]}"] += 1
    return has


def changes(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """Return how many more there are of each."""
    both = {key: after[key] - before[key] for key in {*before, *after}}
    return {key: number for key, number in both.items() if number}


def newcomer(
    name: str = "child", *, dynamic: bool = True, vms: tuple[str, ...] | None = None
) -> str:
    return encode_newcomer(Newcomer(name=name, dynamic=dynamic, vms=vms)).hex()


def test_a_child_of_a_process_shares_memory_through_it_all(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *place = filled(host)
        (vm,) = vm_names(host)
        parent = start(host, spares=1)
        child = parent.start("child")
        assert child.ask("check", 7, *place, vm) == 0
        members(host, 3)
        swap_of(host).enable()
        assert child.ask("check", 7, *place, vm) == 0
        child.ask("fill", 8, *place, vm)
        assert host.ask("check 8") == answer
        go_out(host)
        child.ask("fill", 9, *place, vm)  # over pages that are out
        assert parent.ask("check", 9, *place, vm) == 0
        go_out(host)
        assert child.ask("check", 9, *place, vm) == 0
        assert host.ask("check 9") == answer
        come_back(host)
        child.ask("fill", 10, *place, vm)
        assert host.ask("check 10") == answer


def test_a_child_that_came_while_memory_was_out_is_served(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        _, *place = filled(host)
        parent = start(host, spares=1)
        go_out(host)
        child = parent.start("child")
        assert child.ask("check", 7, *place, *vm_names(host)) == 0


def test_a_child_lives_on_when_its_parent_is_dead(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress", "echo") as host:
        answer, *place = filled(host)
        parent = start(host, spares=1)
        child = parent.start("child")
        child.ask("churn", *OWN, vm_names(host)[1])
        go_out(host)
        parent.kill()
        assert child.ask("check", 7, *place, vm_names(host)[0]) == 0
        assert go_out(host).members == 2
        kill(host)
        assert child.ask("check", 7, *place, vm_names(host)[0]) == 0
        assert child.ask("calm") == 0
        assert host.ask("check 7") == answer
        assert go_out(host).members == 2


def test_a_parent_may_die_before_its_child_is_taken_in(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        _, *place = filled(host)
        parent = start(host, spares=1)
        with host.machine.suspension.held("test", host.deadline(), frozen=True):
            child = parent.start("child")
            parent.kill()
        assert child.ask("check", 7, *place, *vm_names(host)) == 0
        assert go_out(host).members == 2


def test_a_child_of_a_child_lives_on_when_both_are_dead(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        _, *place = filled(host)
        parent = start(host, spares=2)
        child = parent.start("child", None, "deep")
        assert child.ask("names") == vm_names(host)  # it is served
        last = parent.started(child.ask("start", "last", None))
        assert last.ask("check", 7, *place, *vm_names(host)) == 0
        names = [process.name for process in host.machine.members.processes]
        assert names == ["backend", "backend/child", "backend/child/last"]
        parent.kill()
        child.kill()
        assert go_out(host).members == 2
        assert last.ask("check", 7, *place, *vm_names(host)) == 0


def test_a_child_that_has_died_is_removed_and_leaves_nothing_behind(
    tmp_path: Path, start: Backends
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *place = filled(host)
        parent = start(host, spares=2)
        before = held()
        for name in ("first", "second"):  # once the first has gone, all that is made once is there
            child = parent.start(name)
            assert child.ask("check", 7, *place, *vm_names(host)) == 0
            members(host, 3)
            go_out(host)
            child.kill()
            assert go_out(host).members == 2
            assert parent.ask("check", 7, *place, *vm_names(host)) == 0
            assert host.ask("check 7") == answer
            child.close()
            parent.children.clear()
            before, last = held(), before
        spare = {"descriptor of socket": -1}  # the channel of the test to the child
        assert changes(last, before) == spare


def test_children_that_may_die_do_so_at_any_moment(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress", "echo") as host:
        answer, *_ = filled(host)
        parent = start(host, spares=4)
        with swapped_all_the_while(host) as went:
            for number in range(4):
                child = parent.start(f"child.{number}")
                if number % 2:
                    child.post("churn", *OWN, vm_names(host)[1])
                    child.answer()
                child.kill()
        come_back(host)
        assert [text for text in went if "begins only when" not in text] == []
        assert go_out(host).members == 2
        assert host.ask("check 7") == answer


def test_without_a_child_that_must_live_there_is_no_enable(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *place = filled(host)
        parent = start(host, dynamic=False, spares=1)
        child = parent.start("child", None, "static")
        assert child.ask("check", 7, *place, *vm_names(host)) == 0
        go_out(host)
        child.kill()
        text = r"^process backend/child is dead, and is not allowed to die$"
        with pytest.raises(SwapError, match=text):
            swap_of(host).enable()
        come_back(host)
        assert host.ask("check 7") == answer


def test_a_process_that_may_die_has_no_child_that_must_live(
    tmp_path: Path, start: Backends
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        parent = start(host, spares=1)
        child = parent.start("child", None, "static")
        assert child.ended()
        assert go_out(host).members == 2


def test_a_child_has_no_more_memory_than_its_parent(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress", "echo", "echo") as host:
        first, *others = vm_names(host)
        parent = start(host, vms=others, spares=3)
        assert parent.start("all").ask("names") == sorted(others)
        assert parent.start("one", others[:1]).ask("names") == others[:1]
        assert parent.start("more", [first]).ended()
        members(host, 4)


# At any time.


def test_a_child_joins_during_an_enable(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *place = filled(host)
        parent = start(host, spares=1)
        monitor = pid_of(swap_of(host).client.supervisor._process)
        stop(monitor)
        enabling = threading.Thread(target=swap_of(host).enable, daemon=True)
        enabling.start()
        assert host.until(lambda: "swap" in host.machine.suspension.holders)
        child = parent.start("child")
        child.post("check", 7, *place, *vm_names(host))
        os.kill(monitor, signal.SIGCONT)
        enabling.join()
        assert child.answer() == 0
        assert host.ask("check 7") == answer
        assert go_out(host).members == 3


@pytest.mark.parametrize("frozen", [False, True])
def test_a_child_joins_during_a_suspension(tmp_path: Path, start: Backends, frozen: bool) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        _, *place = filled(host)
        parent = start(host, spares=1)
        with host.machine.suspension.held("test", host.deadline(), frozen=frozen):
            child = parent.start("child")
            if not frozen:
                members(host, 3)
            child.post("check", 7, *place, *vm_names(host))
        assert child.answer() == 0
        assert go_out(host).members == 3


def test_a_process_that_starts_a_child_while_it_accesses_memory_waits_for_nobody(
    tmp_path: Path, start: Backends
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        _, *place = filled(host)
        parent = start(host, spares=1)
        child = parent.started(parent.ask("start_inside", "child"))
        assert child.ask("check", 7, *place, *vm_names(host)) == 0


def test_a_child_ends_with_the_machine(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress", "echo") as host:
        filled(host)
        parent = start(host, spares=1)
        child = parent.start("child")
        child.ask("churn", *OWN, vm_names(host)[1])
        go_out(host)
    assert child.ended()


def test_a_machine_ends_while_a_child_does_not_answer(tmp_path: Path, start: Backends) -> None:
    """It is stopped, and has been given a channel."""
    with machine(HERE, tmp_path, "echo") as host:
        parent = start(host, spares=1)
        with host.machine.suspension.held("test", host.deadline(), frozen=True):
            child = parent.start("child")
            stop(child.pid)
        assert host.until(lambda: swap_of(host)._newcomers._under_way == 1)
        newcomers, began = swap_of(host)._newcomers, host.runtime.now()
    assert newcomers._under_way == 0
    assert host.runtime.now() - began < 5 * SECOND
    os.kill(child.pid, signal.SIGCONT)
    assert child.ended()


@pytest.mark.skipif(writeprotect.problem() is not None, reason=str(writeprotect.problem()))
def test_what_a_child_writes_is_dirty(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "echo") as host:
        (vm,) = vm_names(host)
        parent = start(host, spares=1)
        host.until_quiet()
        suspension, tracker = host.machine.suspension, host.machine.dirty
        with suspension.held("snapshot", host.deadline(), frozen=True):
            assert tracker.start() is None
        child = parent.start("child")
        child.ask("fill", 1, OWN[0], 3, vm)
        with suspension.held("snapshot", host.deadline(), frozen=True):
            found = tracker.collect()
        assert found.why_all is None
        assert (OWN[0], 3) in found.runs[vm]
        child.kill()
        with suspension.held("snapshot", host.deadline(), frozen=True):
            assert tracker.collect().why_all == (
                "process backend/child has ended, and what it wrote is unknown"
            )


# What no process in its right mind sends.


@pytest.mark.parametrize(
    ("data", "kinds", "text"),
    [
        ("ff" * 40, GOOD, "invalid newcomer: "),
        (newcomer().replace(b"newcomer".hex(), b"oldcomer".hex()), GOOD, "Invalid"),
        (newcomer(), (), "0 descriptors, expected 3"),
        (newcomer(), (*GOOD, "null"), "4 descriptors, expected 3"),
        (newcomer(), ("null", *GOOD[1:]), "the first descriptor is no channel"),
        (newcomer(), ("internet", *GOOD[1:]), "the first descriptor is no channel"),
        (newcomer(), ("end", "null", GOOD[2]), "the second descriptor is not its pidfd"),
        (newcomer(), ("end", "pidfd of main's", GOOD[2]), "the second descriptor is not its pidfd"),
        (newcomer(), (*GOOD[:2], "null"), "the third descriptor is not its pagemap"),
        (newcomer(), (*GOOD[:2], "pagemap of main's"), "the third descriptor is not its pagemap"),
    ],
)
def test_a_process_that_sends_nonsense_is_ended(
    tmp_path: Path, start: Backends, data: str, kinds: tuple[str, ...], text: str
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *place = filled(host)
        good, bad = start(host, spares=1), start(host)
        go_out(host)
        before = held()
        member = host.machine.members.processes[1]
        bad.post("announce", data, *kinds)
        assert bad.process.join(host.deadline())
        assert bad.process.exit_status == -signal.SIGKILL
        assert text in member._distrusted
        child = good.start("child")
        assert child.ask("check", 7, *place, *vm_names(host)) == 0
        assert host.ask("check 7") == answer
        assert go_out(host).members == 3
        child.close()
        good.children.clear()
        assert go_out(host).members == 2
        more = {key: number for key, number in changes(before, held()).items() if number > 0}
        assert more == {}


def test_a_process_that_must_live_is_ended_all_the_same(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *_ = filled(host)
        bad = start(host, dynamic=False)
        bad.post("announce", "00", "null")
        assert bad.process.join(host.deadline())
        for _ in range(2):
            with pytest.raises(SwapError, match=r"^process backend: invalid newcomer: "):
                swap_of(host).enable()
        assert host.ask("check 7") == answer


def test_a_flood_of_newcomers_ends(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        answer, *place = filled(host)
        good, bad = start(host, spares=1), start(host)
        before = held()
        bad.post("flood", newcomer(), 1 << 20, *GOOD)
        child = good.start("child")
        assert child.ask("check", 7, *place, *vm_names(host)) == 0
        assert bad.process.join(host.deadline())
        child.close()
        good.children.clear()
        assert go_out(host).members == 2
        assert host.ask("check 7") == answer
        assert swap_of(host)._newcomers._calm.wait(host.deadline())
        more = {key: number for key, number in changes(before, held()).items() if number > 0}
        more.pop("descriptor of anon_inode", None)  # an event that has been waited for
        assert more == {}


def test_descriptors_beyond_what_is_received_are_closed(tmp_path: Path, start: Backends) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        _, *place = filled(host)
        parent = start(host, spares=1)
        before = held()
        parent.ask("flood", newcomer(), 3, *["null"] * 30)
        assert parent.start("child").ask("check", 7, *place, *vm_names(host)) == 0
        members(host, 3)
        assert (held() - before)["descriptor of /dev/null"] == 0


def test_no_more_processes_are_taken_in_than_are_served(
    tmp_path: Path, start: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine(HERE, tmp_path, "stress") as host:
        monkeypatch.setattr(type(swap_of(host).backing), "members_max", staticmethod(lambda: 3))
        parent = start(host, spares=2)
        child = parent.start("child")
        assert child.ask("names") == vm_names(host)
        assert parent.start("child").ended()
        child.kill()
        assert go_out(host).members == 2


# Messages, and the process's own side.


@pytest.mark.parametrize(
    ("name", "vms"),
    [("", None), ("a b", None), ("a" * 33, None), ("a\n", None), ("a", ()), ("a", ("",))],
)
def test_what_a_newcomer_cannot_be(name: str, vms: tuple[str, ...] | None) -> None:
    with pytest.raises(ProtocolError, match=r"^invalid newcomer: "):
        decode_newcomer(bytes.fromhex(newcomer(name, vms=vms)))


def test_a_newcomer_is_what_was_sent() -> None:
    message = Newcomer(name="a-1.B_c", dynamic=False, vms=("one", "two"))
    assert decode_newcomer(encode_newcomer(message)) == message
