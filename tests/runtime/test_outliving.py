"""Processes that outlive the one that has started them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from hfsched.runtime.threads import ThreadRuntime

from . import children
from .offspring import answered, descriptors, ended
from .times import later

if TYPE_CHECKING:
    from hfsched.runtime.base import End


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
def test_a_child_lives_on_when_its_parent_has_ended(
    spawning_rt: ThreadRuntime, killed: bool
) -> None:
    mine, theirs = spawning_rt.channel("parent")
    direct, for_child = spawning_rt.channel("child")
    parent = spawning_rt.process("parent", children.bereave, [theirs, for_child])
    got = mine.recv(later(spawning_rt))
    assert got is not None
    pidfd = os.pidfd_open(int(got[0]))
    assert answered(spawning_rt, direct)
    if killed:
        parent.kill()
    mine.close()
    assert parent.join(later(spawning_rt))
    assert parent.exit_status == (-9 if killed else 7)
    assert answered(spawning_rt, direct)
    direct.close()
    assert ended(pidfd)
    os.close(pidfd)


def lasting(runtime: ThreadRuntime) -> End:
    """Start one, and forget it."""
    mine, theirs = runtime.channel("c")
    runtime.process("echo", children.echo, [theirs], outlives=True)
    return mine


def test_a_runtime_ends_without_those_that_outlive_it(rt: ThreadRuntime) -> None:
    before = descriptors()
    runtime = ThreadRuntime()
    end = lasting(runtime)
    assert answered(runtime, end)
    runtime.close()
    assert answered(rt, end)
    end.close()
    assert descriptors() == before
