"""A machine saved at every point and restored: each message arrives once, in order, whatever the interleaving."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from proof_table import small
from slices import holds

from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.watch.racepass import race_pass
from hfsched.mailbox.ports import Ports
from hfsched.mailbox.records import PortsRecord


@pytest.mark.parametrize(("spec", "bound"), small("restored"))
def test_a_snapshot_at_every_point_loses_and_doubles_nothing(spec: str, bound: int | None) -> None:
    holds(find(spec), bound)


def test_a_message_that_is_in_a_thread_alone_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    saves = Ports.save

    def without_the_waiting(self: Ports) -> PortsRecord:
        record = saves(self)
        waiting = sum(len(entry.waiting) for entry in self._vms.values())
        vms = {
            vm: replace(saved, messages=saved.messages[: len(saved.messages) - waiting])
            for vm, saved in record.vms.items()
        }
        return replace(record, vms=vms)

    monkeypatch.setattr(Ports, "save", without_the_waiting)
    result = search(find("restored,guest=burst,queue=1"), Exhaustive())
    assert result.failure is not None
    assert "does not come to its end" in str(result.failure.failure)


def test_it_has_no_data_race_on_plain_state() -> None:
    result = race_pass(find("restored"), 1, walks=4, executions=40, merging=True)
    assert result.failure is None, result.failure
    assert result.doubts == []
