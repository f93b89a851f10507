"""A monitor that gets invalid messages from main: it answers each once, and leaks no descriptor."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from progress import QUIET_NS

from hfsched.errors import HfschedError
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.core.guestpages import GuestPages
from hfsched.swap.core.resources import pack, unpack
from hfsched.swap.core.stores import Stores
from hfsched.swap.monitor import program
from hfsched.swap.pages.entries import Staging
from hfsched.swap.protocol.messages import (
    RESOURCES_MAX,
    Begin,
    Collected,
    Done,
    Exit,
    MonitorRequest,
    Refused,
    Region,
    Register,
    Status,
    decode_answer,
    encode,
    number_of,
)

from .guestmemory import PAGE, needs_userfault, userfault
from .test_messages import requests

pytestmark = needs_userfault

PAGES = 8
SECOND = 1_000_000_000
WORDS = (
    "table",
    "file-out",
    "file-in",
    "staging",
    "tier",
    "aside",
    "ram",
    "frames",
    "alarm",
    "layer",
)


def descriptors() -> dict[str, str]:
    found = {}
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[fd.name] = str(fd.readlink())
    return found


class World:
    """All kinds of descriptors that main may send, by a number."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.ram = Ram("guest", PAGES * PAGE)
        self._stack.callback(self.ram.close)
        self.stores = Stores.create(tempfile.gettempdir(), PAGES, Staging.MINOR, 4 * PAGE)
        self._stack.callback(self.stores.close)
        self.resources = pack(self.stores, [self.ram.fd])
        small = os.memfd_create("small")
        os.ftruncate(small, 100)
        reader, writer = os.pipe()
        self.uffd = userfault()
        others = (
            self.uffd,
            os.pidfd_open(os.getpid()),
            reader,
            writer,
            small,
            os.memfd_create("empty"),
            os.open("/", os.O_RDONLY),
            os.open("/dev/null", os.O_RDWR),
            os.open(f"/proc/self/fd/{self.stores.table}", os.O_RDONLY),
        )
        for fd in others:
            self._stack.callback(os.close, fd)
        self.kinds = (*self.resources.fds, *others)

    def pick(self, numbers: list[int]) -> list[int]:
        return [self.kinds[number % len(self.kinds)] for number in numbers]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "_detach", lambda: None)  # it is a thread here
        yield made
    made.close()


picks = st.lists(st.integers(0, 30), max_size=8)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=9), max_size=8), picks)
def test_any_resources_are_unpacked_or_refused(
    world: World, words: list[str], numbers: list[int]
) -> None:
    fds = world.pick(numbers)
    try:
        stores, regions, stored = unpack(words, fds)
    except (ValueError, OSError):
        return
    assert pack(stores, [region.fd for region in regions], stored).fds
    before = descriptors()
    with contextlib.suppress(HfschedError):
        GuestPages(stores, regions, stored=stored).close()
    assert descriptors() == before


@given(st.permutations(range(6)), st.integers(0, 6))
def test_resources_in_another_order_are_the_same_and_one_less_is_none(
    world: World, order: list[int], left: int
) -> None:
    words, fds = world.resources.words, world.resources.fds
    assert len(words) == 6
    made = unpack([words[at] for at in order], [fds[at] for at in order])
    assert made == unpack(words, fds)
    rest = [at for at in order if at != left]
    missing = left < 6 and words[left] not in ("tier", "aside")
    if missing:
        with pytest.raises(ValueError, match="resources"):
            unpack([words[at] for at in rest], [fds[at] for at in rest])


registers = st.builds(
    Register,
    member=st.integers(0, 3),
    dynamic=st.booleans(),
    zapped=st.booleans(),
    regions=st.lists(
        st.builds(
            Region,
            base=st.sampled_from([0, 1, PAGE, 1 << 40, (1 << 62) - PAGE]),
            offset=st.sampled_from([0, PAGE]),
            size=st.sampled_from([PAGES * PAGE, PAGE, 1]),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
)
messages: st.SearchStrategy[bytes | MonitorRequest] = (
    requests.filter(lambda request: not isinstance(request, Exit))
    | registers
    | st.binary(min_size=1, max_size=40)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(messages, picks), max_size=12), st.booleans())
def test_each_message_has_exactly_one_answer(
    world: World, given_: list[tuple[bytes | MonitorRequest, list[int]]], begun: bool
) -> None:
    before = descriptors()
    runtime = ThreadRuntime()
    end, theirs = runtime.channel("monitor")
    task = runtime.spawn("monitor", lambda: program.monitor(runtime, theirs))
    begin = Begin(fresh=True, resources=world.resources.words)
    said = [(begin, list(world.resources.fds))] if begun else []
    for number, (message, fds) in enumerate(
        [*said, *((message, world.pick(numbers)) for message, numbers in given_)], 1
    ):
        data = message if isinstance(message, bytes) else encode(number, message)
        end.send(data, fds)
        got = end.recv(runtime.now() + QUIET_NS)
        assert got is not None, f"no answer to {message!r}"
        answered, answer = decode_answer(got[0])
        assert answered == number_of(data)
        assert isinstance(answer, Done | Refused | Collected | Status)
        if begun and number == 1:
            assert answer == Done()
    end.close()
    assert task.join(runtime.now() + QUIET_NS)
    assert descriptors() == before


def test_a_begin_may_have_as_many_resources_as_there_can_be(world: World) -> None:
    rams = [world.ram.fd] * (RESOURCES_MAX - 5)
    packed = pack(world.stores, rams)
    assert len(unpack(packed.words, packed.fds)[1]) == len(rams)
