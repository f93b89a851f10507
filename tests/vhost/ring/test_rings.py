"""Both rings against a driver: each chain is taken out once, in order, and given back as it was."""

from __future__ import annotations

import random
import struct

import pytest
from heap import INDIRECT, NEXT, WRITE, PackedDriver, SplitDriver, shared
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.vhost.errors import ChainError, MemoryFaultError, RingError
from hfsched.vhost.ring.chain import Chain

DRIVERS = [SplitDriver, PackedDriver]
DATA = 0x1000 + 0x8000  # guest address of buffers
Driver = SplitDriver | PackedDriver


def made(kind: type[Driver], size: int = 8, *, event_idx: bool = False) -> Driver:
    memory, mapping = shared()
    return kind(memory, mapping, size, event_idx)


def buffers(count: int, at: int = 0) -> list[tuple[int, int, bool]]:
    return [(DATA + 0x100 * (at + n), 16 + n, n >= count // 2) for n in range(count)]


@pytest.mark.parametrize("kind", DRIVERS)
@given(seed=st.integers(0, 1 << 32), event_idx=st.booleans(), size=st.sampled_from([4, 7, 8]))
@settings(max_examples=60, deadline=None)
def test_each_chain_is_taken_out_once_and_in_order(
    kind: type[Driver], seed: int, event_idx: bool, size: int
) -> None:
    if kind is SplitDriver and size & (size - 1):
        size = 8  # a power of two
    drawn = random.Random(seed)
    driver = made(kind, size, event_idx=event_idx)
    ring = driver.ring()
    added: list[int] = []
    out: list[Chain] = []
    back: list[tuple[int, int]] = []
    expected: list[tuple[int, int]] = []
    for _ in range(300):
        match drawn.randrange(4):
            case 0:
                room = len(driver.free) if isinstance(driver, SplitDriver) else driver.room
                if room and driver.free:
                    added.append(driver.add(buffers(drawn.randint(1, min(room, 3)))))
            case 1:
                chain = ring.pop()
                if chain is None:
                    assert not added
                else:
                    assert chain.head == added.pop(0)
                    out.append(chain)
            case 2 if out:
                chain = out.pop(drawn.randrange(len(out)))
                expected.append((chain.head, drawn.randrange(100)))
                ring.push(chain, expected[-1][1])
                ring.publish()
            case _:
                back += driver.take()
                ring = driver.ring(ring.base()) if not out else ring  # a backend that goes on
    back += driver.take()
    assert back == expected


@pytest.mark.parametrize("kind", DRIVERS)
def test_what_is_put_back_is_taken_out_again(kind: type[Driver]) -> None:
    driver = made(kind)
    ring = driver.ring()
    for _ in range(20):
        first, second = driver.add(buffers(3)), driver.add(buffers(2))
        one, two = ring.pop(), ring.pop()
        assert one is not None
        assert two is not None
        ring.unpop(two)
        ring.unpop(one)
        for expected in (first, second):
            chain = ring.pop()
            assert chain is not None
            assert chain.head == expected
            ring.push(chain, 1)
        ring.publish()
        assert driver.take() == [(first, 1), (second, 1)]


@pytest.mark.parametrize("kind", DRIVERS)
def test_what_a_chain_has(kind: type[Driver]) -> None:
    driver = made(kind)
    driver.add([(DATA, 10, False), (DATA + 16, 0, False), (DATA + 32, 5, True)])
    chain = driver.ring().pop()
    assert chain is not None
    assert [(each.address, each.size) for each in chain.readable] == [(DATA, 10)]
    assert [(each.address, each.size) for each in chain.writable] == [(DATA + 32, 5)]
    assert (chain.read_size, chain.write_size) == (10, 5)


@pytest.mark.parametrize("kind", DRIVERS)
def test_an_indirect_table(kind: type[Driver]) -> None:
    driver = made(kind)
    table = [(DATA, 10, NEXT, 1), (DATA + 16, 20, NEXT | WRITE, 2), (DATA + 64, 30, WRITE, 0)]
    if kind is PackedDriver:
        table = [(address, size, 0, flags & WRITE) for address, size, flags, _ in table]
    raw = b"".join(struct.pack("<QIHH", *each) for each in table)
    driver.memory.write(DATA + 0x800, raw)
    if isinstance(driver, SplitDriver):
        driver.put(3, DATA + 0x800, len(raw), INDIRECT)
        driver.announce(3)
    else:
        entry = struct.pack("<QIHH", DATA + 0x800, len(raw), 5, INDIRECT | 1 << 7)
        driver.mapping.write(0, entry)
    chain = driver.ring().pop()
    assert chain is not None
    assert chain.read_size == 10
    assert [each.size for each in chain.writable] == [20, 30]
    assert chain.descriptors == 1


CHAINS = {
    "a cycle": [(0, 0x10, NEXT, 1), (0, 0x10, NEXT, 0)],
    "next": [(0, 0x10, NEXT, 99)],
    "to be read after one to be written": [(0, 8, WRITE | NEXT, 1), (0, 8, 0, 0)],
    "in no region": [(1 << 40, 8, 0, 0)],
    "indirect descriptor with a next": [(0, 16, INDIRECT | NEXT, 1)],
    "an indirect table of": [(0, 17, INDIRECT, 0)],
    "its indirect table": [(1 << 40, 16, INDIRECT, 0)],
    "bytes": [(0, (1 << 32) - 1, NEXT, 1), (0, (1 << 32) - 1, 0, 0)],
}


@pytest.mark.parametrize("why", CHAINS)
def test_a_chain_that_makes_no_sense_is_told_by_its_head_and_the_next_one_is_got(why: str) -> None:
    memory, mapping = shared(1 << 16)
    driver = SplitDriver(memory, mapping, 8)
    ring = driver.ring()
    for at, (offset, size, flags, following) in enumerate(CHAINS[why]):
        driver.put(at, DATA + offset, size, flags, following)
    driver.announce(0)
    driver.put(5, DATA, 4, 0)
    driver.announce(5)
    with pytest.raises(ChainError, match="region" if why == "bytes" else why) as caught:
        ring.pop()
    assert caught.value.head == 0
    chain = ring.pop()
    assert chain is not None
    assert chain.head == 5


@pytest.mark.parametrize(("index", "head"), [(9, 0), (1, 8), (0xFFFF, 0)])
def test_a_split_ring_that_makes_no_sense_is_broken(index: int, head: int) -> None:
    driver = made(SplitDriver)
    assert isinstance(driver, SplitDriver)
    driver.set16(driver.available + 4, head)
    driver.set16(driver.available + 2, index)
    with pytest.raises(RingError):
        driver.ring().pop()


def test_a_packed_chain_without_an_end_breaks_its_ring() -> None:
    driver = made(PackedDriver)
    for at in range(8):
        driver.mapping.write(16 * at, struct.pack("<QIHH", DATA, 8, 0, NEXT | 1 << 7))
    with pytest.raises(RingError, match="does not end"):
        driver.ring().pop()


@pytest.mark.parametrize("kind", DRIVERS)
@given(
    data=st.binary(min_size=400, max_size=400),
    event_idx=st.booleans(),
    base=st.integers(0, 1 << 33),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_in_a_ring_end_in_an_error_of_its_own(
    kind: type[Driver], data: bytes, event_idx: bool, base: int
) -> None:
    driver = made(kind, event_idx=event_idx)
    driver.mapping.write(0, data)
    try:
        ring = driver.ring(base)
        for _ in range(40):
            try:
                chain = ring.pop()
            except ChainError as exc:
                chain = Chain(exc.head, descriptors=exc.descriptors)
            if chain is not None:
                ring.push(chain, 1)
            ring.publish()
            ring.await_kick()
    except (RingError, MemoryFaultError):
        pass


# Notifications.


@given(steps=st.lists(st.integers(0, 3), max_size=60), ask=st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_with_event_idx_the_driver_is_notified_when_its_index_is_passed(
    steps: list[int], ask: int
) -> None:
    driver = made(SplitDriver, event_idx=True)
    assert isinstance(driver, SplitDriver)
    ring = driver.ring()
    driver.ask_after(ask)
    given_back, told = 0, ring.publish()  # once, for what was there before
    for count in steps:
        for _ in range(count):
            driver.add(buffers(1))
            chain = ring.pop()
            assert chain is not None
            ring.push(chain, 0)
        before, given_back = given_back, given_back + count
        assert ring.publish() is (before <= ask < given_back)
        driver.take()
    assert told


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize("event_idx", [True, False])
def test_a_chain_that_comes_while_a_kick_is_asked_for_is_seen(
    kind: type[Driver], event_idx: bool
) -> None:
    driver = made(kind, event_idx=event_idx)
    ring = driver.ring()
    assert ring.pop() is None
    driver.add(buffers(1))
    assert ring.await_kick()
    assert ring.pop() is not None
    assert not ring.await_kick()


def test_without_event_idx_flags_say_who_wants_what() -> None:
    driver = made(SplitDriver)
    assert isinstance(driver, SplitDriver)
    ring = driver.ring()
    assert not ring.await_kick()
    assert driver.wants_kick(0)
    ring.ignore_kicks()
    assert not driver.wants_kick(0)
    driver.add(buffers(1))
    chain = ring.pop()
    assert chain is not None
    ring.push(chain, 0)
    assert ring.publish()
    driver.set16(driver.available, 1)
    driver.add(buffers(1))
    chain = ring.pop()
    assert chain is not None
    ring.push(chain, 0)
    assert not ring.publish()
