"""The utility services of a machine, with the guest `utility`: the script one, and that in C."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest
from life import (
    MS,
    PLACES,
    Life,
    life_on,
    refusal,
)

from hfsched.services.host import GuestServices
from hfsched.services.transaction import State, Status
from hfsched.services.wire import ServiceId


@pytest.fixture(params=["script", "unicorn", "kvm"])
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    with life_on(request.param) as made:
        yield made


def test_what_a_host_can_ask_for(life: Life) -> None:
    services = life.ready()
    assert services.get("os", life.by) == b"utility"
    services.put("role", b"db" * 400, life.by)
    assert services.get("role", life.by) == b"db" * 400
    services.delete("role", life.by)
    assert refusal(lambda: services.get("role", life.by)) == "vm u: get role: not found"
    assert services.ping(7, life.by) > 0
    services.set_time(1_700_000_000_000_000_000, life.by)
    assert life.state()["time"] == 1_700_000_000_000_000_000
    data = bytes(range(256)) * 20
    services.copy("file", len(data), [data[:100], data[100:]], 0o600)
    assert life.say("files") == f"file {len(data)} {zlib.crc32(data):x}"
    services.copy("file", 3, [b"new"])
    services.copy("other", 0, [])
    assert life.say("files") == f"file 3 {zlib.crc32(b'new'):x}\nother 0 0"
    assert "not what was sent" in refusal(lambda: services.copy("short", 4, [b"abc"]))
    services.shut_down(deadline=life.by)
    life.until_logged(b"utility: down")
    assert refusal(lambda: life.services) == "vm u: its guest offers no key-value exchange"


def test_what_a_guest_can_ask_for(life: Life) -> None:
    life.ready()
    assert life.say("get vm") == "ok u"
    assert life.say("set role db master") == "ok "
    assert life.say("get role") == "ok db master"
    assert life.say("get none") == "status 2"
    assert life.services.keys.all()["role"] == b"db master"


def test_a_freeze_ends_by_a_thaw_or_at_its_time_out(life: Life) -> None:
    services = life.ready()
    assert life.machine.services.freeze("u", 60_000, life.by)
    assert life.state()["frozen"] == 1
    assert "frozen" in refusal(lambda: services.put("a", b"b", life.by))
    life.machine.services.thaw("u", life.by)
    assert life.state()["frozen"] == 0
    assert life.machine.services.freeze("u", 50, life.by)
    life.until(lambda: life.state()["frozen"] == 0)
    services.put("a", b"b", life.by)


@pytest.mark.parametrize("place", PLACES)
def test_a_hibernation_fails_what_is_under_way_and_nothing_later(life: Life, place: str) -> None:
    services = life.ready()
    after = life.state()
    for number in range(3):
        before = after
        assert life.say(f"hibernate {place} 30") == "armed"
        first = life.asked(lambda: services.get("os", life.by))
        assert first.wait() is Status.HIBERNATED
        life.until_logged(b"utility: asleep", number + 1)
        later = life.asked(lambda: services.get("os", life.by))  # waits for its return
        other = life.asked(partial(services.ping, number, life.by))
        assert later.wait() == b"utility"
        assert type(other.wait()) is int
        late = "stale" if place == "half" else "dropped"
        after = {**before, late: before[late] + 1}
        life.until_state(after)


def test_a_hibernation_removes_the_part_of_a_copy_and_thaws(life: Life) -> None:
    services = life.ready()
    copy = services.begin_copy("file", 100, deadline=life.by)
    copy.write(b"x" * 50, life.by)
    life.machine.services.freeze("u", 60_000, life.by)
    assert life.say("hibernate now 10") == "armed"
    life.until_logged(b"utility: awake")
    life.until(lambda: life.state()["ready"] == 6)
    assert "no such transfer" in refusal(lambda: copy.write(b"x" * 50, life.by))
    assert life.state()["frozen"] == 0
    assert life.say("files") == "no files"
    services.copy("file", 1, [b"y"])


def test_a_daemon_that_never_answers_costs_one_time_out(life: Life) -> None:
    services = life.ready()
    assert life.say("mute 1") == "mute"
    assert (
        refusal(lambda: services.ping(1, life.runtime.now() + 50 * MS)) == "vm u: ping: timed out"
    )
    services.ping(2, life.by)
    life.until(life.machine.quiet)


def test_a_daemon_that_crashes_registers_again(life: Life) -> None:
    services = life.ready()
    assert life.say("mute 1") == "mute"
    lost = life.asked(lambda: services.get("os", life.by))
    life.until(lambda: life.services.services[ServiceId.KVP].state is State.REQ)
    life.until(lambda: life.state()["ready"] == 6)  # the request has been read
    assert life.say("crash") == "crashed"
    assert lost.wait() is Status.DAEMON_GONE
    life.until(lambda: life.state()["ready"] == 6)
    assert services.get("os", life.by) == b"utility"


def paused(services: GuestServices) -> set[bool]:
    """Return which services keep their deadlines and send nothing."""
    return {each.paused for each in services.services.values()}


@pytest.mark.parametrize("place", PLACES)
def test_a_pause_changes_nothing_but_that_deadlines_stop(life: Life, place: str) -> None:
    services = life.ready()
    assert life.say(f"nap {place} 60") == "armed"
    first = life.asked(lambda: services.get("os"))
    second = life.asked(lambda: services.ping(2))
    life.until_logged(b"utility: asleep")
    life.until(lambda: second.done or services.services[ServiceId.HEARTBEAT].state is State.REQ)
    assert paused(services) == {False}
    with life.machine.suspension.held("test", life.by):
        assert paused(services) == {True}
        before = [each.save() for each in services.services.values()]
        third = life.asked(lambda: services.ping(3))  # is taken from the channel later
        gives_up = life.asked(lambda: services.ping(4, life.runtime.now() + 30 * MS))
        assert gives_up.wait() is Status.TIMED_OUT
        life.until(lambda: services.services[ServiceId.HEARTBEAT].save().requests == 2)
        after = [each.save() for each in services.services.values()]
        assert [msgspec.structs.replace(each, requests=0) for each in before] == [
            msgspec.structs.replace(each, requests=0) for each in after
        ]
    assert paused(services) == {False}
    assert first.wait() == b"utility"
    assert type(second.wait()) is int
    assert type(third.wait()) is int
    found = life.state()
    assert (found["stale"], found["dropped"]) == (0, 0)
