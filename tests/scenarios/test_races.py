"""The race pass over what ships: no data race, and no call without a rule, at small sizes and in walks."""

from __future__ import annotations

import pytest

from hfsched.explore.registry import find
from hfsched.explore.watch.racepass import race_pass
from hfsched.runtime.declared import UNORDERED

WALKS = 4  # `bench/explore.py races` has more
EXECUTIONS = 150
SAMPLES = 50  # executions of a machine whose interleavings are too many
COVERED = [  # small enough for every interleaving
    "mailbox,hosts=2",
    "mailbox,receiver=disabled,vcpus=2",
    "mailbox,receiver=wfi-echo,vcpus=2",
    "mailbox,guests=1",
    "events,event=death",
    "swap",
    "swap,beside=discard,child=lives",
    "swap,deaths=1,bugs=1",
    "swap,abort=true,spawner_dies=true",
    "images",
    "machine,guest=server,requests=2,suspenders=1,timers=true",
]
SAMPLED = [
    "swap,commands=live-out,deaths=1",
    "suspension,holders=2",
    "machine,guest=talker,listener=handler,queue=1",
    "mailbox,receiver=trusty,vcpus=2",
    "mailbox,receiver=reader-1,vcpus=2,hosts=2",
    "mailbox,runners=1",
    "events",
    "events,event=abort",
    "events,event=timer,receiver=ticking",
    "events,event=fault",
    "events,event=post",
    "programs",
    "images,guest=trusty",
    "images,guest=smp",
    "machine,vms=2,hosts=2,sends=try,suspenders=2",
    "machine,by_turns=true,vms=2,hosts=2,suspenders=1",
    "machine,by_turns=true,guest=counts,vcpus=2,hosts=0,suspenders=1,boot=true",
    "machine,clients=status-subscriber-asks",
    "machine,clients=suspender",
    "machine,guest=mortal,clients=asks-queries,stop=false",
    "machine,guest=smp,vcpus=2",
    "machine,guest=pokes,vcpus=2",
    "machine,guest=hibernator,hosts=0,asks=1,suspenders=1",
    "machine,guest=twins,vcpus=2,hosts=0",
]


@pytest.mark.parametrize("spec", [*COVERED, *SAMPLED])
def test_what_ships_has_no_data_race_on_plain_state(spec: str) -> None:
    most = EXECUTIONS if spec in COVERED else SAMPLES
    result = race_pass(find(spec), 1, walks=WALKS, executions=most, merging=True)
    assert result.failure is None, result.failure
    assert result.doubts == []
    assert result.walks == WALKS
    assert result.executions
    if spec in COVERED:
        assert result.covered


def test_whether_a_guest_offers_a_service_is_read_under_its_lock() -> None:
    """Who asks once more, while the guest is back from its hibernation, looks beside the vCPU that registers it."""
    spec = "machine,guest=hibernator,hosts=0,asks=2,suspenders=1,stop=false"
    result = race_pass(find(spec), 0, walks=4, executions=4)
    assert result.failure is None, result.failure


def test_no_field_of_ours_is_declared_unordered() -> None:
    assert UNORDERED == []
