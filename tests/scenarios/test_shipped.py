"""The machine that ships, from its description to its end, under every interleaving."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from finals import finals
from proof_table import small
from slices import holds, sampled

from hfsched.errors import UserError
from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.watch.racepass import race_pass
from hfsched.mailbox.ports import PortMessage
from hfsched.scenarios.shipped.world import ShippedMachine
from hfsched.scheduler.driver import Driver
from hfsched.scheduler.userhold import UserHold
from hfsched.services.copying import FileCopy
from hfsched.services.host import GuestServices
from hfsched.vmm import machine
from hfsched.vmm.utilities import VmServices


@pytest.mark.parametrize(("spec", "bound"), small("machine", "subscribers"))
def test_a_machine_holds_whatever_the_order(spec: str, bound: int | None) -> None:
    holds(find(spec), bound)


def test_a_hub_that_clears_late_is_found() -> None:
    result = search(find("subscribers+clears-late,visitors=2"), Exhaustive())
    assert result.failure is not None
    assert "nothing follows swap" in str(result.failure.failure)


def test_a_server_that_does_not_tell_when_it_is_idle_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then main waits although the last message has been taken from a port's queue."""
    monkeypatch.setattr(ShippedMachine, "note_activity", lambda _self: None)
    result = search(find("machine,clients=stalls,hosts=0,quiet=true"), Exhaustive(0))
    assert result.failure is not None
    assert "main has not ended" in str(result.failure.failure)


def test_a_hold_that_does_not_tell_when_it_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then main, which finds nothing quiet while the user holds the machine, waits for ever."""

    def silent(runtime: Any, suspension: Any, _on_change: object) -> UserHold:
        return UserHold(runtime, suspension)

    monkeypatch.setattr(machine, "UserHold", silent)
    result = search(find("machine,clients=suspender,hosts=0,quiet=true"), Exhaustive(0))
    assert result.failure is not None
    assert "main has not ended" in str(result.failure.failure)


def test_a_hold_that_requests_change_at_the_same_time_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def begin(hold: UserHold, wanted: bool, _deadline: int | None) -> bool:
        with hold._lock:
            return hold._held is not wanted

    monkeypatch.setattr(UserHold, "_begin", begin)
    spec = "machine,clients=suspender-suspender,hosts=0,stop=false"
    result = search(find(spec), make("pos", 1), until=lambda r: r.executions >= 200)
    assert result.failure is not None


def test_services_that_are_made_twice_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody ends the tasks of the first ones."""

    def receive(services: VmServices, message: PortMessage) -> None:
        made = services.made
        if made is None:
            with services._lock:
                made = services._make()
            services._start(made)
        made.deliver(message.payload)

    monkeypatch.setattr(VmServices, "receive", receive)
    spec = "machine,guest=twins,vcpus=2,hosts=0,boot=true,stop=false"
    result = search(find(spec), make("pos", 1), until=lambda r: r.executions >= 200)
    assert result.failure is not None
    assert "goes on after the machine's end" in str(result.failure.failure)


def test_copies_that_begin_at_the_same_time_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(services: GuestServices, _name: str, size: int, mode: int) -> FileCopy:
        with services._lock:
            transfer = services._last_transfer = services._last_transfer + 1
        copy = FileCopy(partial(services.ask, "copy"), services._end_copy, transfer)
        copy.begin("name", size, mode, None)
        return copy

    monkeypatch.setattr(GuestServices, "begin_copy", begin)
    spec = "machine,guest=files,copies=2,hosts=0,stop=false"
    result = search(find(spec), make("pos", 1), until=lambda r: r.executions >= 100)
    assert result.failure is not None
    assert "NOT_FOUND" in str(result.failure.failure)


def test_there_is_no_data_race_in_copies() -> None:
    result = race_pass(find("machine,guest=files,copies=2,hosts=0"), 1, walks=8, executions=20)
    assert result.failure is None, result.failure


@pytest.mark.parametrize(
    "spec",
    [
        "by_turns=true,vms=2,hosts=2,suspenders=1",
        "by_turns=true,guest=smp,vcpus=2,suspenders=1,rounds=2,stop=false",
        "by_turns=true,guest=counts,vcpus=2,hosts=0,suspenders=1,boot=true,stop=false",
        "guest=stir,vcpus=2,suspenders=1",
        "by_turns=true,guest=chimes,vcpus=2,suspenders=1,stop=false",
        "guest=burst,vms=2,queue=1,hosts=2,patient=true,stop=false",
        "guest=writer,vms=2,hosts=3,stop=false",
        "guest=server,requests=3,stop=false",
        "guest=server,requests=1,requesters=2,hosts=0,timers=true,stop=false",
        "guest=mortal,clients=asks-asks,hosts=0,stop=false",
        "probes=1,suspenders=2,hosts=0,stop=false",
        "clients=drops,queue=1,messages=5,stop=false",
        "clients=slow,suspenders=1,hosts=0,stop=false",
        "clients=retrier-canceller,hosts=0,stop=false",
        "clients=suspender-status,hosts=0,places=1,stop=false",
        "guest=doomed,vcpus=2,requests=1,reports=1,stop=false",
        "guest=doomed,vcpus=2,requests=2,hosts=0,stop=false",
        "guest=chimes,vcpus=2,messages=2,stop=false",
        "guest=polls,vcpus=2,messages=2,suspenders=1,stop=false",
        "guest=fatal,vcpus=2,stop=false",
        "guest=twice,vcpus=2,stop=false",
        "guest=rivals,vcpus=3,messages=2,stop=false",
        "guest=pokes,vcpus=2,stop=false",
        "guest=lists,hosts=2,messages=2,stop=false",
        "guest=bell,rings=2,messages=2,stop=false",
        "guest=talker,listener=late,queue=1,probes=1,stop=false",
        "guest=mortal,clients=asks-queries,hosts=0,stop=false",
        "guest=talker,listener=reader,queue=1,probes=1,suspenders=1,stop=false",
        "guest=utility,asks=2,suspenders=1,hosts=0",
        "guest=utility,asks=1,suspenders=1,hosts=0,boot=true,timers=true,stop=false",
        "guest=hibernator,asks=2,suspenders=1,hosts=0,stop=false",
        "guest=twins,vcpus=2,asks=2,suspenders=1,hosts=0,boot=true",
        "guest=files,copies=3,suspenders=1,hosts=0,stop=false",
        "guest=files,copies=2,hosts=0,boot=true,timers=true",
        "clients=suspender-suspender,suspenders=1,stop=false",
        "clients=suspender-asks,hosts=0,quiet=true",
        "clients=snapshotter-hibernator,hosts=0",
        "clients=snapshotter-canceller,hosts=0",
        "clients=hibernator-canceller,hosts=0",
        "clients=suspender-follower,guest=smp,vcpus=2,swap=enable-out-disable,timers=true",
        "clients=silent-asks,hosts=0,places=1",
        "clients=status-status,hosts=0,places=1",
        "clients=status-status,hosts=0,places=1,stop=false",
        "boot=true,stop=false",
        "guest=mortal,clients=listens-listens,stop=false",
        "guest=files,clients=copier-copier,hosts=0,stop=false",
        "guest=bells,rings=2,messages=2,stop=false",
        "clients=stalls,hosts=0,messages=3,timers=true,stop=false",
    ],
)
def test_a_larger_machine_holds_in_random_orders(spec: str) -> None:
    sampled(find(f"machine,{spec}"), "pos", 40)


def test_a_subscriber_that_reads_too_little_before_the_end_is_told_what_it_has_missed() -> None:
    spec = (
        "machine,clients=suspender-follower,guest=smp,vcpus=2,swap=enable-out-disable,timers=true"
    )
    result = search(find(spec), make("pos", 3), until=lambda so_far: so_far.executions >= 40)
    assert result.failure is None


@pytest.mark.parametrize("strategy", ["random", "pct"])
@pytest.mark.parametrize(
    "spec",
    [
        "messages=2,clients=asks-goes-deaf,swap=enable-out-disable,deaths=1,suspenders=1,timers=true",
        "swap=enable-out,deaths=2,failing_starts=2,suspenders=1,messages=2,timers=true",
        "swap=enable-out,spawner_dies=true,suspenders=1,messages=2,clients=asks",
        "idle=true,deaths=1,suspenders=1,messages=2,timers=true",
        "guest=smp,vcpus=2,hosts=2,messages=2,sends=deadline,suspenders=1,timers=true",
    ],
)
def test_everything_at_once(spec: str, strategy: str) -> None:
    sampled(find(f"machine,{spec}"), strategy, 50)


def test_a_machine_that_is_stopped_at_any_point_ends_as_others_do_or_earlier() -> None:
    ends = finals("machine,stop=false", Exhaustive(), forgetting=True)
    assert finals("machine", Exhaustive(), forgetting=True) > ends


@pytest.mark.parametrize("spec", ["stop=false", "clients=status,hosts=0"])
def test_what_spares_states_changes_no_end(spec: str) -> None:
    """The second is stopped at any point."""
    ends = finals(f"machine,{spec}", Exhaustive(), forgetting=True)
    assert ends == finals(f"machine,{spec}", Exhaustive(), forgetting=False)
    if spec == "stop=false":
        assert ends == finals(f"machine,{spec}", Exhaustive(cache=False), forgetting=False)


def test_a_stop_that_does_not_wait_for_senders_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a message may be in a mailbox and not in the summary."""
    monkeypatch.setattr(Driver, "wait_quiesced", lambda _self, _deadline=None: True)
    result = search(find("machine"), make("bounded", 0))
    assert result.failure is not None


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("guest=nobody", "guest"),
        ("sends=late", "sends"),
        ("listener=nobody", "listener"),
        ("listener=reader", "listener"),
        ("requests=1", "requests"),
        ("clients=asks-nobody", "clients"),
        ("swap=enable-eat", "swap"),
        ("deaths=1", "deaths"),
        ("idle=true", "idle"),
        ("vms=0", "vms"),
        ("guest=smp", "vcpus"),
        ("hosts=9", "hosts"),
        ("quiet=true", "quiet"),
        ("guest=stir,vcpus=2,messages=2", "messages"),
        ("messages=0", "messages"),
        ("rings=1,stop=false", "rings"),
        ("guest=bell,rings=1", "rings"),
        ("asks=1", "asks"),
        ("copies=1", "copies"),
        ("guest=utility", "hosts"),
    ],
)
def test_sizes_that_cannot_be_are_named(spec: str, name: str) -> None:
    with pytest.raises(UserError, match=f"scenario machine: {name}="):
        find(f"machine,{spec}")
