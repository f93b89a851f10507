"""The code that ships, under every interleaving of small machines; and the code as it was."""

from __future__ import annotations

import pytest
from finals import finals
from proof_table import small
from slices import holds

from hfsched.errors import UserError
from hfsched.explore.execution import search
from hfsched.explore.registry import find, variants_of
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.scenarios.mailbox import MailboxScenario


@pytest.mark.parametrize(("spec", "bound"), small("mailbox"))
def test_every_message_is_read_whatever_the_order(spec: str, bound: int | None) -> None:
    holds(find(spec), bound)


@pytest.mark.parametrize(
    "spec",
    ["mailbox", "mailbox,receiver=trusty,messages=1,boot=true", "events,event=timer,messages=1"],
)
def test_what_spares_states_changes_no_end(spec: str) -> None:
    """With `retain_only` and opaque calls, or without; with the cache, or without."""
    ends = finals(spec, Exhaustive(), forgetting=True)
    assert ends == finals(spec, Exhaustive(), forgetting=False)
    assert ends == finals(spec, Exhaustive(cache=False), forgetting=False)


@pytest.mark.parametrize("variant", sorted(variants_of(MailboxScenario)))
def test_every_mistake_of_the_past_is_found(variant: str) -> None:
    result = search(find("mailbox", variant), make("portfolio", 1))
    assert result.failure is not None


@pytest.mark.parametrize("variant", ["uninitialised", "upstream"])
def test_both_faults_of_the_driver_lose_a_message_where_only_vcpu_0_reads(variant: str) -> None:
    spec = "mailbox,receiver=trusty-0,vcpus=2,messages=1,boot=true"
    result = search(find(spec, variant), Exhaustive())
    assert result.failure is not None
    assert "lost wake-up" in str(result.failure.failure)


def test_a_flag_that_is_not_initialised_loses_a_message_without_the_driver_s_other_fault() -> None:
    """Trusty has enabled its interrupt by the second message, so the driver's window loses none."""
    spec = "mailbox,receiver=trusty-0,vcpus=2,messages=2,boot=false"
    assert search(find(spec, "uninitialised"), Exhaustive()).failure is not None
    upstream = search(find(spec, "upstream"), Exhaustive())
    assert upstream.complete
    assert upstream.failure is None


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("receiver=nobody", "receiver"),
        ("vcpus=0", "vcpus"),
        ("vcpus=5", "vcpus"),
        ("receiver=reader-1,vcpus=1", "vcpus"),
        ("messages=0", "messages"),
        ("hosts=-1", "hosts"),
        ("runners=9", "runners"),
    ],
)
def test_sizes_that_cannot_be_are_named(spec: str, name: str) -> None:
    with pytest.raises(UserError, match=f"scenario mailbox: {name}="):
        find(f"mailbox,{spec}")
