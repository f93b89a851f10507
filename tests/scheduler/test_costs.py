"""What a message costs in spurious RUNs, and that any order of steps loses none."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import pytest

from hfsched.explore.stepwise import Stepwise
from hfsched.mailbox.mirror import Mirror, VcpuActivity

from .guests import (
    reader,
    sink,
    talker,
    waiter,
    with_second,
)
from .harness import Harness, send_all

if TYPE_CHECKING:
    from collections.abc import Hashable


class Checked(Mirror):
    """A world asks for the key whenever the lock is taken or let go: a place to look."""

    def key(self) -> Hashable:
        waiting = any(slot.activity is VcpuActivity.WFM for slot in self._slots)
        assert not (self.unread and waiting), "believed unread, and a vCPU sleeps waiting for it"
        return super().key()


def test_a_message_for_a_parked_vcpu_costs_no_spurious_run() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.settle()
        for number in range(10):
            guest.outbox.send(b"%d" % number)
            world.settle()
        assert len(guest.notes) == 10
        assert guest.vm.spurious == 0
        assert harness.runs(guest) == 11


def test_a_message_in_the_window_costs_no_spurious_run() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        for number in range(10):
            world.go("g.0", "ran 2.0 WaitForMessage")
            guest.outbox.send(b"%d" % number)
        world.settle()
        assert len(guest.notes) == 10
        assert guest.vm.spurious == 0


def test_a_message_read_before_its_delivery_costs_one_spurious_run() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.go("g.0", "ran 2.0 WaitForMessage")
        world.spawn("host", partial(send_all, guest, [b"one"]))
        world.go("host", "sent 2 SENT")
        guest.mirror.wake(0)
        world.go("g.0", "ran 2.0 WaitForMessage")
        world.settle()
        assert guest.notes == [b"one"]
        assert guest.vm.spurious <= 1


def test_a_wake_up_without_a_cause_costs_one_spurious_run() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.settle()
        for expected in range(1, 6):
            guest.mirror.wake(0)
            world.settle()
            assert guest.vm.spurious == expected


@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_steps_loses_nothing_and_stays_cheap(seed: int, vcpus: int) -> None:
    """Two host senders and a guest sender; the task changes at any point."""
    order = random.Random(seed)
    world = Stepwise()
    with Harness(world) as harness:
        program = sink if vcpus == 1 else with_second(sink, waiter)
        guest = harness.vm("g", program, vcpus=vcpus, raw=True, mirror=Checked)
        harness.vm("sender", talker(3, 2, b"g1", b"g2", b"g3"))
        harness.start()
        for name in ("a", "b"):
            texts = [f"{name}{number}".encode() for number in range(3)]
            world.spawn(name, partial(send_all, guest, texts))
        world.shuffle(order)
        got = guest.notes
        assert sorted(got) == [
            *sorted(f"{name}{n}".encode() for name in "ab" for n in range(3)),
            b"g1",
            b"g2",
            b"g3",
        ]
        for prefix in (b"a", b"b", b"g") if vcpus == 1 else ():
            mine = [text for text in got if text.startswith(prefix)]
            assert mine == sorted(mine)
        assert guest.vm.spurious <= 2 * len(got) + guest.mirror.wake_ups
        assert set(world.asleep()) == {f"g.{index}" for index in range(vcpus)} | {"sender.0"}


@pytest.mark.parametrize("seed", range(40))
def test_an_interrupt_driven_reader_in_any_order(seed: int) -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", reader, mirror=Checked)
        end = harness.connect(guest)
        harness.start()
        texts = [b"%d" % number for number in range(4)]

        def host() -> None:
            for text in texts:
                end.send(text)

        world.spawn("host", host)
        world.shuffle(random.Random(seed))
        assert [got.payload for _ in texts if (got := end.recv(0))] == texts
