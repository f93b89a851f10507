"""Requests for snapshots of a machine, beside others that cancel them: production's turns, with a model of the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from hfsched.errors import SnapshotError
from hfsched.explore.registry import check_ranges, spec_of
from hfsched.explore.scenario import World
from hfsched.scheduler.suspension import Step, Suspension
from hfsched.vmm.attempt import Base, Watch, Wish
from hfsched.vmm.snapshots import Snapshots

if TYPE_CHECKING:
    from hfsched.explore.registry import Variant
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.runtime.base import Waitable

__all__ = ["SnapshotsScenario"]

_ENDINGS = ("confirms", "drops", "ends", "fails")


class _Changes:
    """What the guests have changed: all of it, and what is in no snapshot since tracking began."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        self._lock = runtime.lock("changes", state=self.key)
        self._all: frozenset[str] = frozenset()
        self._open: frozenset[str] = frozenset()
        self._started = False

    def key(self) -> object:
        """Return all that the lock guards."""
        return (sorted(self._all), sorted(self._open), self._started)

    @property
    def started(self) -> bool:
        """See `hfsched.memory.dirty.Dirty`, of which this is the part that is used."""
        with self._lock:
            return self._started

    def start(self) -> None:
        """Track changes from here on."""
        with self._lock:
            self._open, self._started = frozenset(), True

    def collect(self) -> SimpleNamespace:
        """Return what has changed, and track from here on."""
        with self._lock:
            found, self._open = self._open, frozenset()
        return SimpleNamespace(why_all=None, changes=found, pages=lambda: len(found))

    def give_back(self, found: Any) -> None:
        """Note that what was collected is in no snapshot."""
        with self._lock:
            self._open |= found.changes

    def note(self, change: str) -> None:
        """Note a change."""
        with self._lock:
            self._all |= {change}
            self._open |= {change}

    def so_far(self) -> frozenset[str]:
        """Return all."""
        with self._lock:
            return self._all

    def peek(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return {all, those in no snapshot}, for oracles."""
        return self._all, self._open


class _Machine:
    """What `Snapshots` uses of a machine; it counts what is begun and not ended."""

    def __init__(self, runtime: ExploreRuntime, vms: int) -> None:
        self.runtime = runtime
        self.rams = {"vm": SimpleNamespace(size=1)}
        self.paused: list[str] = []
        self.dirty = _Changes(runtime)
        self.suspension = Suspension(runtime, [Step("guests", self._pause, self.paused.clear)])
        self.names = [f"vm.{number}" for number in range(vms)]
        self.held: list[str] = []  # ports
        self.kept: list[str] = []  # the user's hold
        self.frozen: list[str] = []
        self.out_of_time: list[str] = []  # tasks that have waited for a guest as long as they may
        self.cancelled: list[str] = []  # snapshots that somebody has cancelled, and knows it
        self.contents: dict[str, frozenset[str]] = {}  # of snapshots that were written
        self.writing: list[str] = []
        self.ports = SimpleNamespace(hold=self._hold, release=self._release)
        self.user_hold = SimpleNamespace(
            keep=lambda: self.kept.append("kept"), let_go=lambda: self.kept.remove("kept")
        )
        self.services = self
        runtime.declare_records(
            *(self.paused, self.held, self.kept, self.frozen, self.cancelled, self.contents),
            *(self.writing, self.out_of_time),
            reason="what the oracles compare",
        )

    def _pause(self, _deadline: int | None) -> bool:
        assert not self.paused, "it is paused twice"
        self.paused.append("paused")
        return True

    def _hold(self) -> None:
        assert not self.held, "ports are held twice"
        self.held.append("ports")

    def _release(self) -> None:
        self.held.remove("ports")

    def suspended_by(self) -> Sequence[str]:
        """See `Machine`."""
        return ()

    def vm_names(self) -> Sequence[str]:
        """See `Machine`."""
        return self.names

    def begin_freeze(
        self, vm: str, _milliseconds: int, _deadline: int | None
    ) -> Callable[[Sequence[Waitable]], None]:
        """Ask a guest, which answers unless the snapshot is cancelled by then: then only `stop` ends the wait."""

        def finish(stop: Sequence[Waitable]) -> None:
            task = self.runtime.current
            if task is not None and task.name in self.cancelled:
                self.runtime.select(stop)
            self.frozen.append(vm)

        self.runtime.checkpoint("asks the guest")
        return finish

    def begin_thaw(self, vm: str, _deadline: int) -> Callable[[Sequence[Waitable]], None]:
        """Ask a guest to thaw, while there is time; its answer then takes all of that."""
        task = self.runtime.current
        name = "" if task is None else task.name
        if name not in self.out_of_time:
            self.frozen.remove(vm)
        return lambda _stop: self.out_of_time.append(name)


class _Writing:
    """Writes what has changed, as `hfsched.vmm.snapshotting.Capture` writes memory."""

    def __init__(
        self, machine: Any, _files: object, wish: Wish, _expected: int | None, watch: Watch
    ) -> None:
        assert not machine.writing, f"{wish.name} is written beside {machine.writing}"
        machine.writing.append(wish.name)
        self._machine = machine
        self._wish = wish
        self._watch = watch

    def prepare(self, _deadline: int | None) -> tuple[str, ...]:
        """See `Writing`."""
        return ()

    def copy(self, _deadline: int | None, base: Base | None, dirty: Any) -> None:
        """See `Writing`."""
        machine = self._machine
        assert machine.paused, f"{self._wish.name} is copied while the guests run"
        if self._watch.cancelled():
            raise SnapshotError(f"{self._wish.name}: cancelled")
        if self._wish.codec == "raw":
            raise SnapshotError(f"{self._wish.name}: no space left on device")
        self._watch.progress(1)
        if base is not None and dirty is not None:
            found = machine.contents[base.name] | dirty.changes
        else:
            found = machine.dirty.so_far()
        machine.contents[self._wish.name] = found

    def finish(self) -> tuple[bytes, tuple[str, ...]]:
        """See `Writing`."""
        self._machine.runtime.checkpoint("writes")
        return self._wish.name.encode(), ()

    def close(self) -> None:
        """See `Writing`."""
        self._machine.writing.remove(self._wish.name)


@dataclass(frozen=True)
class SnapshotsScenario:
    """Some `takers` have a snapshot written each, incremental where that can be, and its end is as `endings` say, joined by `-`.

    One `confirms` it, `drops` it (its client has gone), `ends` the machine by it, or `fails` to write it; of a single word, all.
    Beside them some cancel what is under way (`cancels`), once each; a guest of the `vms` that is being frozen then answers no more.

    What was cancelled is no snapshot; at last everything goes on, unless the machine has ended; and each change is in the newest
    snapshot, or will be in the next.
    """

    takers: int = 2
    endings: str = "confirms"
    cancels: int = 1
    vms: int = 1
    variant: str = ""

    variants: ClassVar[Mapping[str, Variant]] = {}

    values: ClassVar[Mapping[str, Sequence[str]]] = {"endings": _ENDINGS}

    def __post_init__(self) -> None:
        check_ranges(self, ("takers", 1, 4), ("cancels", 0, 4), ("vms", 0, 2))
        words = self.endings.split("-")
        if {*words} - {*_ENDINGS} or len(words) not in (1, self.takers):
            raise ValueError(
                f"endings={self.endings}: one for all takers or one for each, joined by -, of {', '.join(_ENDINGS)}"
            )

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("snapshots", self)

    def small(self) -> SnapshotsScenario:
        """Return the size whose every interleaving a race pass runs."""
        return replace(
            self,
            takers=1,
            endings=self.endings.partition("-")[0],
            cancels=min(self.cancels, 1),
            vms=min(self.vms, 1),
        )

    def build(self, runtime: ExploreRuntime) -> World:
        """Create the machine, its snapshots, and the requests."""
        machine = _Machine(runtime, self.vms)
        changes: list[str] = []  # events that tell of `hibernated`
        outcomes: dict[str, str] = {}
        runtime.declare_records(changes, outcomes, reason="what the oracles compare")
        snapshots = Snapshots(runtime, machine, lambda: changes.append("ended"), _Writing)  # type: ignore[arg-type]
        endings = self.endings.split("-") * self.takers

        def take(name: str, ending: str) -> None:
            machine.dirty.note(name)
            wish = Wish(
                name=name,
                created=0,
                held=ending == "ends",
                codec="raw" if ending == "fails" else "lz4",
                incremental=True,
                parent=snapshots.base,
            )
            try:
                attempt, _written = snapshots.take((0, 1), wish)
                if ending == "drops":
                    snapshots.drop(attempt)
                else:
                    snapshots.confirm(attempt, end=ending == "ends")
            except SnapshotError as exc:
                outcomes[name] = str(exc).partition(": ")[2]
            else:
                outcomes[name] = ending

        def cancel(name: str) -> None:
            there = snapshots.cancel()
            if there is not None:
                machine.cancelled.append(there.name)
            outcomes[name] = "" if there is None else there.name

        takers = [f"taker.{number}" for number in range(self.takers)]
        for taker, ending in zip(takers, endings, strict=False):
            runtime.spawn(taker, partial(take, taker, ending))
        for number in range(self.cancels):
            runtime.spawn(f"canceller.{number}", partial(cancel, f"canceller.{number}"))

        def check() -> None:
            assert len(outcomes) == self.takers + self.cancels, f"only {outcomes} have ended"
            ended = [name for name in takers if outcomes[name] == "ends"]
            assert snapshots.peek() is bool(ended), f"it has hibernated or not: {outcomes}"
            assert changes == ["ended"] * len(ended), "whoever waits for the end is not told"
            for name in machine.cancelled:
                assert outcomes[name] not in ("confirms", "fails"), (
                    f"{name} was cancelled, but {outcomes[name]}"
                )
            for name in takers:
                told = outcomes[name] == "cancelled"
                assert not told or name in machine.cancelled, (
                    f"{name} ends, and nobody cancelled it"
                )
            for left in (machine.paused, machine.held, machine.kept):
                assert len(left) == len(ended), f"{left} at the end, with {outcomes}"
            assert ended or not machine.frozen, "a guest stays frozen"
            assert not machine.writing, "it is still written"
            _check_contents(snapshots.base, machine, outcomes)

        return World(check, final=lambda: tuple(sorted(outcomes.items())), timers=False)


def _check_contents(base: Base | None, machine: _Machine, outcomes: Mapping[str, str]) -> None:
    """Raise if a change is neither in the newest snapshot nor in what the next one has."""
    every, still_open = machine.dirty.peek()
    if base is not None:
        assert outcomes[base.name] in ("confirms", "ends"), (
            f"{base.name} is none, but the next is based on it"
        )
        lost = every - still_open - machine.contents[base.name]
        assert not lost, f"changes {sorted(lost)} are in no snapshot"
