"""A live snapshot is of one instant, though the guest runs on while it is written."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from progress import until
from talk import Talk

from hfsched.errors import SnapshotError
from hfsched.memory import writeprotect
from hfsched.snapshot.directory import open_chain
from hfsched.snapshot.layer import LayerWriter
from hfsched.swap.client.errors import SwapError
from hfsched.swap.client.mainmember import MainMember
from hfsched.swap.protocol.messages import State
from hfsched.swap.report.footprint import allocated
from hfsched.vmm.attempt import Written
from hfsched.vmm.lazy import LazyMemory
from hfsched.vmm.livememory import LiveMemory
from hfsched.vmm.machine import Machine
from hfsched.vmm.saving import spec_of
from hfsched.vmm.snapshotting import record_of, restore

from . import backends
from .backends import Backend, first_of, stress_page
from .counting import Counting, check_instant, restored, snapshot, values_of
from .guestmemory import MIB, PAGE, needs_userfault
from .swapping import HERE, machine, on_every_engine, swap_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from talk import Target

    from hfsched.vmm.records import MachineRecord

pytestmark = needs_userfault


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], object]], None]:
    """Have a call made before pages are written, with how many calls there were, and let the guest run on."""

    def make(hook: Callable[[int], object]) -> None:
        real, real_zeros = LayerWriter.put, LayerWriter.put_zeros
        calls = [0]

        def put(self: LayerWriter, *arguments: Any) -> None:
            hook(calls[0])
            calls[0] += 1
            time.sleep(0.02)
            real(self, *arguments)

        def put_zeros(self: LayerWriter, *arguments: Any) -> None:
            hook(calls[0])
            calls[0] += 1
            real_zeros(self, *arguments)

        monkeypatch.setattr(LayerWriter, "put", put)
        monkeypatch.setattr(LayerWriter, "put_zeros", put_zeros)

    return make


@on_every_engine
@pytest.mark.parametrize("before", [State.READY, State.PENDING, State.ACTIVE])
@pytest.mark.parametrize("live", [True, False], ids=["live", "incremental"])
def test_all_pages_are_of_one_instant(
    target: Target,
    live: bool,
    before: State,
    tmp_path: Path,
    slowly: Callable[[Callable[[int], object]], None],
) -> None:
    with Counting(target, tmp_path) as made:
        bring_to(made, before)
        now: list[int] = []
        slowly(lambda _call: now.append(made.now()))
        for number in range(3):
            now.clear()
            where = tmp_path / f"{number}"
            first = number == 0
            written = snapshot(made.machine, where, live=live or first, incremental=not first)
            tracked = first or writeprotect.problem() is None
            if number > 0 and writeprotect.problem() is not None:  # not every kernel tracks writes
                assert [f"{number} is a full snapshot: " in text for text in written.notices] == [
                    True
                ]
            else:
                assert written.notices == ()
                assert (written.on is None) is (number == 0)
            assert len(now) > 1
            assert now[-1] > now[0] or not (live or tracked), "the guest runs on"
            with restored(where) as again:
                values = values_of(again)
            check_instant(values)
            assert max(values) <= made.now()
            made.count()
        check_instant(values_of_suspended(made))


BEFORE = (State.READY, State.PENDING, State.ACTIVE)
PHASES = ("hold", "a round", "between the rounds and the instant", "the instant", "writing")


class Phases:
    """Calls `hook` in one phase of a live snapshot, each time."""

    def __init__(
        self,
        made: Counting,
        phase: str,
        hook: Callable[[], object],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.calls = 0
        client = made.swap.client

        def before(owner: object, name: str, applies: Callable[..., bool]) -> None:
            real = getattr(owner, name)

            def call(*arguments: Any, **options: Any) -> Any:
                if applies(*arguments, **options):
                    self.calls += 1
                    hook()
                return real(*arguments, **options)

            monkeypatch.setattr(owner, name, call)

        if phase == "hold":
            before(client, "hold", lambda *_, **_more: True)
        elif phase == "a round":
            before(client.enabling, "stage_running", lambda *_, **_more: True)
            before(client.enabling, "serve", lambda *_, **_more: True)
        elif phase == "between the rounds and the instant":
            before(LiveMemory, "keep", lambda *_, **_more: True)
        elif phase == "the instant":
            before(MainMember, "zap_mapped", lambda *_, **_more: True)
        else:
            before(LayerWriter, "put", lambda *_, **_more: True)


def bring_to(made: Counting, state: State) -> None:
    if state is not State.READY:
        made.swap.enable()
    if state is State.ACTIVE:
        made.swap.swap_out()
        until(made.swap.status, lambda status: status.state is state)


def values_in(where: Path) -> list[int]:
    with restored(where) as again:
        return values_of(again)


def take(made: Counting, where: Path, *, live: bool) -> Written:
    """Take a live snapshot, or else an incremental one, which needs the snapshot `base`."""
    return snapshot(made.machine, where, live=live, incremental=not live)


def cases(phases: Sequence[str], *states: State) -> list[tuple[bool, State, str]]:
    """Return {live, state of swap before, phase}; an incremental one has no rounds, but may have to enable faults."""
    return [
        (live, state, phase)
        for live in ((True, False) if writeprotect.problem() is None else (True,))
        for state in states
        for phase in phases
        if live or phase != "a round" or state is State.READY
    ]


@pytest.mark.parametrize(("live", "before", "phase"), cases(PHASES, State.READY, State.ACTIVE))
def test_a_monitor_may_die_in_each_phase(
    live: bool, before: State, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Counting(HERE, tmp_path) as made:
        bring_to(made, before)
        snapshot(made.machine, tmp_path / "base")
        made.count()
        killed: list[int] = []

        def die() -> None:
            process = made.swap.client.supervisor._process
            if phases.calls in (1, 3, 4) and process is not None:  # else one is being started
                process.kill()
                killed.append(phases.calls)

        phases = Phases(made, phase, die, monkeypatch)
        written = take(made, tmp_path / "layer", live=live)
        assert killed[0] == 1
        assert written.notices == ()
        check_instant(values_in(tmp_path / "layer"))
        assert until(made.swap.status, lambda status: status.state is before)
        made.count()
        check_instant(values_of_suspended(made))


@pytest.mark.parametrize(("live", "before", "phase"), cases(PHASES[1:], *BEFORE))
def test_it_is_cancelled_in_each_phase(
    live: bool, before: State, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Counting(HERE, tmp_path) as made:
        bring_to(made, before)
        snapshot(made.machine, tmp_path / "base")
        before = made.swap.status().state
        made.count()
        with monkeypatch.context() as patched:
            Phases(made, phase, made.machine.snapshots.cancel, patched)
            with pytest.raises(SnapshotError, match=r"^cut: cancelled$"):
                take(made, tmp_path / "cut", live=live)
        assert not (tmp_path / "cut").exists()
        state = made.swap.status().state
        assert state is before or (before, state) == (State.PENDING, State.ACTIVE)
        aside = made.swap.backing.stores.aside
        assert aside is not None
        assert allocated(aside) <= PAGE
        made.count()
        check_instant(values_of_suspended(made))
        take(made, tmp_path / "layer", live=live)
        check_instant(values_in(tmp_path / "layer"))


def test_swap_commands_are_refused_by_name_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Counting(HERE, tmp_path) as made:
        swap = made.swap
        refused: list[str] = []

        def command() -> None:
            for each in (
                swap.enable,
                swap.swap_out,
                swap.client.trim,
                swap.client.disable,
                lambda: swap.discard("counting", MIB, 16 * PAGE),
            ):
                with pytest.raises(SwapError) as caught:
                    each()
                refused.append(str(caught.value))

        Phases(made, "writing", command, monkeypatch)
        snapshot(made.machine, tmp_path / "monday")
        assert len(refused) >= 5
        assert all("the snapshot monday is being taken" in text for text in refused)
        check_instant(values_in(tmp_path / "monday"))
        swap.enable()
        assert swap.status().state is State.PENDING


def test_a_machine_without_swap_is_copied_and_a_line_says_so(tmp_path: Path) -> None:
    with Counting(HERE, tmp_path, swap=False) as made:
        written = snapshot(made.machine, tmp_path / "layer")
        (notice,) = written.notices
        assert notice.startswith(
            "layer: the machine is suspended while it is copied: it was started"
        )
        assert notice.endswith(" without --swap-dir, so nothing serves page faults")
        check_instant(values_in(tmp_path / "layer"))


def test_while_pages_are_moved_it_is_copied_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Counting(HERE, tmp_path) as made:
        real = made.swap.status
        monkeypatch.setattr(
            made.swap, "status", lambda deadline: replace(real(deadline), state=State.SWAPPING_OUT)
        )
        written = snapshot(made.machine, tmp_path / "layer")
        assert written.notices == (
            "layer: the machine is suspended while it is copied: swap is swap-out-in-progress",
        )
        check_instant(values_in(tmp_path / "layer"))


def test_where_memory_cannot_be_staged_it_is_copied_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Counting(HERE, tmp_path) as made:

        def zap(_member: MainMember) -> None:
            raise PermissionError(1, "not here")

        with monkeypatch.context() as patched:
            patched.setattr(MainMember, "zap", zap)
            written = snapshot(made.machine, tmp_path / "layer")
        (notice,) = written.notices
        assert notice.endswith("copied: stage: member 0: [Errno 1] not here")
        assert made.swap.status().state is State.READY
        check_instant(values_in(tmp_path / "layer"))
        snapshot(made.machine, tmp_path / "next")


@on_every_engine
@pytest.mark.parametrize("fill", [False, True])
def test_memory_that_is_still_in_a_snapshot_is_of_one_instant_too(
    target: Target,
    tmp_path: Path,
    slowly: Callable[[Callable[[int], object]], None],
    *,
    fill: bool,
) -> None:
    with Counting(target, tmp_path) as made:
        snapshot(made.machine, tmp_path / "first")
        runtime = made.runtime

        def make(record: MachineRecord, memory: LazyMemory | None) -> Machine:
            return Machine(
                spec_of(record), runtime, log=lambda _vm, _line: None, saved=record, lazy=memory
            )

        chain = open_chain(tmp_path / "first")
        record = record_of(chain)
        lazily = LazyMemory(chain, record, fill=fill)
        with restore(chain, record, make, name="first", lazy=lazily) as again:
            again.start()
            slowly(lambda _call: None)
            for number in range(2):
                where = tmp_path / f"{number}"
                written = snapshot(again, where, incremental=number > 0)
                assert (written.on is None) is (number == 0)
                check_instant(values_in(where))
            with again.suspension.held("test", made.deadline()):
                check_instant(values_of(again))


def test_a_process_beside_it_writes_all_the_while(
    tmp_path: Path, slowly: Callable[[Callable[[int], object]], None]
) -> None:
    with machine(HERE, tmp_path, "stress", memory=4 * MIB) as host:
        program = backends.backend if HERE.engine == "kvm" else backends.user_mode_backend
        filled = host.ask("fill 7")
        first = first_of(host.vm().memory.regions[0].ram, 7)
        place = first, int(filled.split()[1]), host.machine.vm_names()[0]
        with closing(Backend(swap_of(host), program)) as process:
            calls: list[int] = []

            def fill(call: int) -> None:
                if call == 0:
                    process.ask("fill", 9, *place)
                calls.append(call)

            slowly(fill)
            snapshot(host.machine, tmp_path / "layer")
            assert calls
            assert host.ask("check 9") == filled
            assert process.ask("check", 9, *place) == 0
        with restored(tmp_path / "layer") as again:
            ram = again.rams[place[2]]
            for page in range(place[1]):
                assert ram.read((first + page) * PAGE, PAGE) == stress_page(7, page)


def test_a_machine_with_a_monitor_and_no_directory(tmp_path: Path) -> None:
    with Talk(HERE, "stress", memory=4 * MIB, monitor=True) as host:
        filled = host.ask("fill 7")
        assert snapshot(host.machine, tmp_path / "layer").notices == ()
        assert swap_of(host).status().state is State.READY
        assert host.ask("check 7") == filled
        with restored(tmp_path / "layer") as again:
            again.start()
            assert again.rams.keys() == host.machine.rams.keys()
            ram, before = (next(iter(each.rams.values())) for each in (again, host.machine))
            first = first_of(before, 7)
            for page in range(int(filled.split()[1])):
                assert ram.read((first + page) * PAGE, PAGE) == stress_page(7, page)


@pytest.mark.parametrize("live", [True, False], ids=["live", "incremental"])
def test_a_process_that_keeps_memory_mapped_is_named_and_nothing_is_taken(
    live: bool, tmp_path: Path
) -> None:
    if not live and (why_not := writeprotect.problem()) is not None:
        pytest.skip(why_not)
    with machine(HERE, tmp_path, "stress") as host:
        snapshot(host.machine, tmp_path / "base")
        filled = host.ask("fill 7")
        first = first_of(host.vm().memory.regions[0].ram, 7)
        with closing(Backend(swap_of(host), backends.liar)) as process:
            process.ask("check", 7, first, 8, host.machine.vm_names()[0])
            with pytest.raises(
                SnapshotError, match=r"^layer: swap: stage: member 1: it has unmapped"
            ):
                snapshot(host.machine, tmp_path / "layer", live=live, incremental=not live)
            assert swap_of(host).status().state is State.READY
            assert host.ask("check 7") == filled


def values_of_suspended(made: Counting) -> list[int]:
    with made.machine.suspension.held("test", made.deadline()):
        return values_of(made.machine)
