"""Utility services of a machine that is saved and restored, whatever is under way."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from life import (
    PLACES,
    Life,
    S,
    again,
    life_on,
    saved_by,
)

from hfsched.mailbox.mailbox import RxState
from hfsched.services.host import GuestServices
from hfsched.services.transaction import State
from hfsched.services.wire import ServiceId
from hfsched.vmm.records import MachineRecord


@pytest.fixture(params=["script", "unicorn", "kvm"])
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    with life_on(request.param) as made:
        yield made


def outboxes(services: GuestServices) -> int:
    """Return how many messages wait to be sent."""
    return sum(len(each.save().outbox) for each in services.services.values())


def is_asleep_with(record: MachineRecord) -> bool:
    """Return whether one request is in RX, and one in the outbox."""
    (vm,) = record.vms
    assert vm.services is not None
    waiting = sum(len(each.outbox) for each in vm.services.services)
    return waiting == 1 and vm.state.mailbox.state == RxState.RECEIVED.value


@pytest.mark.parametrize("place", PLACES)
def test_requests_of_a_process_that_is_gone_are_stale_in_the_next(life: Life, place: str) -> None:
    """One is in RX, buffered or half answered, one in the outbox, others in the channel."""
    services = life.ready()
    saved = None
    for nap in (100, 400, 1600, 6400):  # until it is saved before the guest is awake
        assert life.say(f"nap {place} {nap}") == "armed"
        asked = [life.asked(lambda: services.get("os"))]
        life.until_logged(b"utility: asleep")
        asked.append(life.asked(lambda: services.ping(2)))  # in RX unless the first is there
        life.until(lambda: services.services[ServiceId.HEARTBEAT].state is not State.READY)
        asked.append(life.asked(partial(services.set_time, nap)))
        asked.append(life.asked(lambda: services.ping(4)))
        life.until(lambda: outboxes(services) == 1 or b"utility: awake" in life.lines)
        saved = saved_by(life)
        assert [type(each.wait()) for each in asked] == [bytes, int, type(None), int]
        if is_asleep_with(saved[0]):
            break
        life.lines.clear()
    assert saved is not None
    stale = 1 if place == "rx" else 2
    for _ in range(2):
        with again(life, saved) as copy:
            fresh = copy.asked(lambda: copy.services.get("os"))
            assert type(copy.asked(lambda: copy.services.ping(5)).wait()) is int
            assert fresh.wait() == b"utility"
            # Those that the guest had, or will read from RX, are answered to nobody.
            time = copy.state()["time"]
            assert time != nap, "a request that was in the outbox has been sent"
            copy.until_state(
                {"ready": 6, "frozen": 0, "stale": stale, "dropped": 0, "mute": 0, "time": time}
            )


def test_a_restored_guest_is_thawed_and_has_no_half_a_file(life: Life) -> None:
    services = life.ready()
    copy = services.begin_copy("file", 100, deadline=life.by)
    copy.write(b"x" * 50, life.by)
    life.machine.services.freeze("u", 60_000, life.by)
    saved = saved_by(life)
    life.machine.services.thaw("u", life.by)
    copy.write(b"x" * 50, life.by)
    copy.finish(life.by)
    assert life.say("files").startswith("file 100 ")
    with again(life, saved) as other:
        other.services.copy("next", 1, [b"y"])  # after the cancel that the restore has begun
        assert other.state()["frozen"] == 0
        assert other.say("files").startswith("next 1 ")
        other.services.put("a", b"b", other.by)


def test_what_the_host_keeps_for_a_guest_is_kept(life: Life) -> None:
    life.ready()
    assert life.say("set role db") == "ok "
    with again(life, saved_by(life)) as copy:
        assert copy.say("get role") == "ok db"
        assert copy.services.get("os", copy.by) == b"utility"


def test_a_restore_of_a_restore_of_a_hibernating_guest(life: Life) -> None:
    life.ready()
    assert life.say("hibernate now 80") == "armed"
    life.until_logged(b"utility: asleep")
    waiting = life.asked(lambda: life.services.get("os"))
    life.until(lambda: life.services.services[ServiceId.KVP].save().requests == 1)
    first = again(life, saved_by(life))
    with first:
        second = again(first, saved_by(first))
    with second:
        assert second.services.get("os", second.by) == b"utility"
        second.until_logged(b"utility: awake")
    assert waiting.wait() == b"utility"


def test_a_guest_is_told_the_time_after_a_restore_and_a_long_pause(life: Life) -> None:
    life.ready()
    saved = saved_by(life)
    other = again(life, saved)
    other.machine.services.wall_clock = lambda: 1234
    with other:
        other.until(lambda: other.state()["time"] == 1234)
        other.machine.services.wall_clock = lambda: 5678
        with other.machine.suspension.held("test", other.by):
            pass
        assert other.state()["time"] == 1234
        with other.machine.suspension.held("test", other.by):
            other.runtime.sleep_until(other.runtime.now() + S)
        other.until(lambda: other.state()["time"] == 5678)
