"""Discard: pages become zero wherever they are, and their room is given back."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfsched.errors import UserError
from hfsched.swap.pages.entries import Staging
from hfsched.swap.pages.store import Phase, Progress
from hfsched.swap.protocol.messages import DISCARD_MAX, State

from .guestmemory import MIB, PAGE, World, needs_lz4, needs_userfault
from .swapping import HERE, come_back, go_out, in_memory, machine, on_every_engine, swap_of

if TYPE_CHECKING:
    from talk import Target

pytestmark = needs_userfault

both = pytest.mark.parametrize("staging", Staging)
tiers = pytest.mark.parametrize("tier", [0, pytest.param(MIB, marks=needs_lz4)])
STATES = ("off", "staged", "back", "out", "zero", "stale")


def discard(world: World, first: int, count: int) -> None:
    progress = world.swap.discard(first, count)
    assert (progress.done, progress.problem) == (True, None)
    for page in range(first, first + count):
        world.guest.versions[page] = 0  # zero


@both
@tiers
@pytest.mark.parametrize("state", STATES)
def test_pages_in_each_state_become_zero(
    tmp_path: Path, staging: Staging, tier: int, state: str
) -> None:
    with World(tmp_path, pages=1200, staging=staging, tier=tier) as world:
        if state != "off":
            world.enable()
        if state in ("out", "zero", "stale"):
            world.out()
        if state in ("back", "stale"):
            for page in range(100, 1150):
                world.guest.check(page)
        if state == "zero":
            discard(world, 100, 700)
            assert world.swap.discard(100, 700) == Progress(0, done=True)
        else:
            discard(world, 100, 700)
        if state != "off":
            assert world.swap.counts().zero >= 700
        world.guest.check_all()
        for page in range(100, 300):
            world.guest.write(page, 5)
        world.guest.check_all()
        world.disable()
        world.guest.check_all()
        assert world.swap.counts().phase is Phase.OFF


@both
@needs_lz4
def test_file_and_tier_give_the_room_back(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, pages=1024, staging=staging, tier=MIB) as world:
        file, tier = world.stores.swap_file.out, world.stores.tier
        assert tier is not None
        world.enable()
        world.out()
        before = os.fstat(file).st_blocks, os.fstat(tier).st_blocks
        counts = world.swap.counts()
        assert counts.file > 300
        assert counts.compressed > 100
        discard(world, 0, 512) if counts.zero == 0 else world.swap.discard(0, 512)
        world.swap.discard(512, 512)
        counts = world.swap.counts()
        assert (counts.file, counts.compressed, counts.stale, counts.tier_used) == (0, 0, 0, 0)
        after = os.fstat(file).st_blocks, os.fstat(tier).st_blocks
        assert after[0] < before[0] // 10
        assert after[1] == 0


@both
def test_guests_that_touch_other_pages_meanwhile_lose_nothing(
    tmp_path: Path, staging: Staging
) -> None:
    """Neighbours come with a fault, and slots are used again, while pages are discarded."""
    with World(tmp_path, pages=512, staging=staging, tier=0) as world:
        drawn = random.Random(3)
        with world.guest.running(2):
            for _ in range(25):
                world.enable()
                for _ in range(20):
                    world.swap.swap_out(16)
                    first = drawn.randrange(512)
                    with world.guest.frozen:
                        count = min(drawn.randrange(1, 40), 512 - first)
                        progress = world.swap.discard(first, count)
                        assert progress.done, progress
                        for page in range(first, first + count):
                            world.guest.versions[page] = 0
                world.disable()
        world.guest.check_all()


def test_a_range_beyond_the_table_is_refused(tmp_path: Path) -> None:
    with World(tmp_path, pages=64) as world:
        for first, count in ((64, 1), (0, 65), (63, 2), (1 << 62, 1 << 62)):
            with pytest.raises(Exception, match="Invalid argument"):
                world.swap.discard(first, count)
        world.guest.check_all()


@on_every_engine
def test_memory_of_a_machine(target: Target, tmp_path: Path) -> None:
    size = 2 * MIB if target.engine == "kvm" else 8 * MIB
    with machine(target, tmp_path, "echo", memory=size) as host:
        memory = host.vm().memory
        (region,) = memory.regions
        part, last = size // 4, region.end - size // 4
        for state in (State.READY, State.ACTIVE):
            memory.write(last, b"x" * part)
            if state is State.ACTIVE:
                go_out(host)
            host.until_quiet()
            before = in_memory(host)
            host.machine.discard(host.machine.vm_names()[0], last, part)
            if state is State.READY:
                assert in_memory(host) <= before - part // 2
            assert memory.read(last, part) == bytes(part)
            assert host.ask("hello") == "hello"
        assert swap_of(host).status().metrics.events["discarded"] == 2 * part // PAGE
        come_back(host)
        assert memory.read(last, part) == bytes(part)
        assert host.ask("hello") == "hello"


def test_what_cannot_be_discarded_is_named(tmp_path: Path) -> None:
    with machine(HERE, tmp_path, "echo", memory=MIB) as host:
        vm, (region,) = host.vm(), host.vm().memory.regions
        name = host.machine.vm_names()[0]
        assert host.ask("hello") == "hello"  # it has a mailbox
        rx, tx = vm.mailbox.rx, vm.mailbox.tx
        assert rx is not None
        assert tx is not None
        for ipa, length, text in (
            (rx, PAGE, f"its RX buffer is at {rx:#x}"),
            (tx - PAGE, 2 * PAGE, f"its TX buffer is at {tx:#x}"),
            (region.end - PAGE, 2 * PAGE, "outside of its memory, "),
            (region.ipa - PAGE, PAGE, "outside of its memory, "),
            (region.ipa + 1, PAGE, "not whole pages of 0x1000 bytes"),
            (region.ipa, PAGE + 1, "not whole pages of 0x1000 bytes"),
            (region.ipa, 0, "not whole pages of 0x1000 bytes"),
            (1 << 51, 1 << 51, "outside of its memory, "),
        ):
            with pytest.raises(UserError, match=rf"^vm {name}: \[.*\): {text}"):
                host.machine.discard(name, ipa, length)
        assert host.ask("hello") == "hello"


def test_more_than_one_request_has_room_for(tmp_path: Path) -> None:
    size = (DISCARD_MAX + 512) * PAGE
    with machine(HERE, tmp_path, "echo", memory=size) as host:
        memory = host.vm().memory
        (region,) = memory.regions
        first = region.ipa + MIB
        for ipa in (first, region.end - PAGE):
            memory.write(ipa, b"x")
        host.machine.discard(host.machine.vm_names()[0], first, region.end - first)
        assert memory.read(first, 1) == memory.read(region.end - PAGE, 1) == b"\0"
        assert host.ask("hello") == "hello"
