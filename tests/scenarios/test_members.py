"""Processes that come and die beside swap, under every interleaving; and with one mistake each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from proof_table import small
from slices import holds, sampled

from hfsched.errors import UserError
from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.choose import make
from hfsched.swap.client.newcomers import Newcomers
from hfsched.vmm.swapping import MachineSwap


@pytest.mark.parametrize(("spec", "bound"), small("members"))
def test_processes_are_served_whatever_the_order(spec: str, bound: int | None) -> None:
    holds(find(spec), bound)


@pytest.mark.parametrize(
    "spec",
    [
        "children=2,touches=2",
        "dies=2,commands=enable-out",
        "beside=collect,dies=2",
        "parents=2,commands=close",
        "commands=await-close,touches=0,children=2",
        "deadlines=true,commands=await-close,deaths=1",
        "deadlines=true,parents=2,commands=enable-close",
        "dies=2,commands=enable-close",
        "tracked=true,commands=status",
        "tracked=true,beside=enable-disable,deaths=1",
        "parents=2,children=0,dies=2,commands=enable-out",
        "parents=2,children=0,dies=1,fails=true,commands=enable-out,deaths=1",
        "dies=1,deaths=1,deadlines=true,commands=collect-enable,children=0",
        "deadlines=true,deaths=1,failing_starts=1,dies=1",
        "deadlines=true,commands=enable,beside=close,children=0,fails=true",
        "commands=collect,beside=close,dies=2",
        "deadlines=true,commands=collect-enable,beside=close,children=0,dies=1,deaths=1",
    ],
)
def test_larger_machines_are_sampled(spec: str) -> None:
    sampled(find(f"members,{spec}"), "portfolio", 150)


def _calm_first(self: Newcomers, deadline: int) -> bool:
    with self._lock:
        self._closing = True
        self._changed.set()
        self._closed.set()
        reader = self._reader
    ended = self._calm.wait(deadline) and (reader is None or reader.join(deadline))
    if ended:
        for event in (self._changed, self._dropped, self._closed, self._calm):
            event.close()
    return ended


def _forgotten_first(self: MachineSwap, deadline: int | None = None) -> None:
    dead = self._members.dead()
    for process in dead:
        self._newcomers.forget(process)
    self._members.remove(dead)
    self.client.collect(deadline)


@pytest.mark.parametrize(
    ("of", "name", "mistake", "spec", "text"),
    [
        (Newcomers, "close", _calm_first, "parents=2,commands=close", "used after close"),
        (
            MachineSwap,
            "_collect",
            _forgotten_first,
            "dies=1,deaths=1,deadlines=true,commands=collect-enable,children=0",
            "its descriptors are closed",
        ),
    ],
)
def test_a_mistake_is_found(
    of: type,
    name: str,
    mistake: Callable[..., object],
    spec: str,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(of, name, mistake)
    result = search(find(f"members,{spec}"), make("pos", 1), until=lambda r: r.executions >= 500)
    assert result.failure is not None
    assert text in str(result.failure.failure)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("commands=discard", "no command discard: known: enable, status"),
        ("parents=3", "parents=3: not in 1..2"),
        ("dies=3", "dies=3: not in 0..2"),
        ("commands=await-close,dies=1", "await: nobody may come"),
        ("failing_starts=1", "failing_starts=1: not in 0..0"),
    ],
)
def test_what_cannot_be_is_named(spec: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        find(f"members,{spec}")
