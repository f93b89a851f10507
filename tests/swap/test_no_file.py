"""The monitor without a swap directory: memory is staged and shared with a process, none is moved out."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise

import pytest
from talk import Talk, Target

from hfsched.swap.client.errors import SwapError
from hfsched.swap.core.resources import pack, unpack
from hfsched.swap.core.stores import Stores
from hfsched.swap.pages.entries import Staging
from hfsched.swap.protocol.messages import State

from . import backends
from .backends import Backend, first_of
from .guestmemory import MIB, needs_userfault
from .swapping import come_back, kill, on_every_engine, swap_of, wait_for

pytestmark = needs_userfault


@on_every_engine
def test_memory_is_staged_served_and_taken_back(target: Target) -> None:
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(f"{target}: {why_not}")
    program = backends.user_mode_backend if target.engine == "unicorn" else backends.backend
    with ExitStack() as stack:
        host = stack.enter_context(Talk(target, "stress", memory=MIB // 2, monitor=True))
        swap = swap_of(host)
        answer = host.ask("fill 7")
        first = first_of(host.vm().memory.regions[0].ram, 7)
        place = first, int(answer.split()[1]), host.machine.vm_names()[0]
        process = Backend(swap, program)
        stack.callback(process.close)
        for seed, following in pairwise((7, 8, 9)):
            swap.enable()
            with pytest.raises(SwapError, match=r"^out: there is no swap file: the machine"):
                swap.swap_out()
            assert swap.status().state is State.PENDING
            kill(host)  # the next monitor has no file either
            assert process.ask("check", seed, *place) == 0
            assert host.ask(f"check {seed}") == answer
            assert swap.status().metrics.events["from_staging"] >= place[1]
            process.ask("fill", following, *place)
            swap.client.trim()
            wait_for(host, State.PENDING)
            come_back(host)
            assert host.ask(f"check {following}") == answer


def test_its_resources_have_no_file_and_no_tier() -> None:
    stores = Stores.create(None, 8, Staging.MINOR, tier_size=1 << 20)
    try:
        assert stores.file is None
        assert stores.tier is None
        packed = pack(stores, [stores.table])
        assert packed.words == ("table", "aside", "ram")
        assert len(stores.descriptors()) == 2
        with pytest.raises(ValueError, match=r"^resources table, file-in, ram$"):
            unpack(("table", "file-in", "ram"), (stores.table,) * 3)
    finally:
        stores.close()
