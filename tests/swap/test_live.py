"""A live snapshot is of one instant, though the guest runs on while it is written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from progress import until

from hfsched.snapshot.layer import LayerWriter
from hfsched.swap.protocol.messages import State

from .counting import Counting, check_instant, restored, snapshot, values_of
from .guestmemory import needs_userfault
from .swapping import on_every_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from talk import Target

pytestmark = needs_userfault


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], object]], None]:
    """Have a call made before pages are written, with how many calls there were, and let the guest run on."""

    def make(hook: Callable[[int], object]) -> None:
        real, real_zeros = LayerWriter.put, LayerWriter.put_zeros
        calls = [0]

        def put(self: LayerWriter, *arguments: Any) -> None:
            hook(calls[0])
            calls[0] += 1
            time.sleep(0.02)
            real(self, *arguments)

        def put_zeros(self: LayerWriter, *arguments: Any) -> None:
            hook(calls[0])
            calls[0] += 1
            real_zeros(self, *arguments)

        monkeypatch.setattr(LayerWriter, "put", put)
        monkeypatch.setattr(LayerWriter, "put_zeros", put_zeros)

    return make


@on_every_engine
@pytest.mark.parametrize("before", [State.READY, State.PENDING, State.ACTIVE])
def test_all_pages_are_of_one_instant(
    target: Target,
    before: State,
    tmp_path: Path,
    slowly: Callable[[Callable[[int], object]], None],
) -> None:
    with Counting(target, tmp_path) as made:
        if before is not State.READY:
            made.swap.enable()
        if before is State.ACTIVE:
            made.swap.swap_out()
            until(made.swap.status, lambda status: status.state is before)
        now: list[int] = []
        slowly(lambda _call: now.append(made.now()))
        for number in range(3):
            now.clear()
            where = tmp_path / f"{number}"
            written = snapshot(made.machine, where, incremental=number > 0)
            assert written.notices == ()
            assert (written.on is None) is (number == 0)
            assert len(now) > 1
            assert now[-1] > now[0], "the guest runs on"
            with restored(where) as again:
                values = values_of(again)
            check_instant(values)
            assert max(values) <= made.now()
            made.count()
        check_instant(values_of_suspended(made))


def values_of_suspended(made: Counting) -> list[int]:
    with made.machine.suspension.held("test", made.deadline()):
        return values_of(made.machine)
