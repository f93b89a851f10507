"""Machines of guests that can swap, and what tests do with them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from progress import until
from talk import TARGETS, UNICORN, Talk, Target

from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.messages import State, Status
from hfsched.vmm.swapping import MachineSwap

from .guestmemory import MIB

on_every_engine = pytest.mark.parametrize(
    "target", TARGETS, ids=lambda target: str(target).replace(" ", "-")
)


# For what is the same on every engine: one that is there.
HERE = next((target for target in TARGETS if target.why_not() is None), UNICORN)


def machine(target: Target, directory: Path, *guests: str, memory: int = MIB // 2) -> Talk:
    """Return a machine that can swap, or skip the test with the reason."""
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(f"{target}: {why_not}")
    return Talk(target, *guests, memory=memory, swap=str(directory))


def swap_of(host: Talk) -> MachineSwap:
    assert host.machine.swap is not None
    return host.machine.swap


def wait_for(host: Talk, *states: State) -> Status:
    return until(swap_of(host).status, lambda status: status.state in states)


def in_memory(host: Talk, vm: int = 0) -> int:
    """Return how many bytes of a VM's memory are in its memfd."""
    return os.fstat(host.vm(vm).memory.regions[0].ram.fd).st_blocks * 512


def go_out(host: Talk) -> Status:
    swap_of(host).enable()
    swap_of(host).client.swap_out()
    return wait_for(host, State.ACTIVE)


def come_back(host: Talk) -> None:
    swap_of(host).client.disable()
    wait_for(host, State.READY)


def kill(host: Talk) -> None:
    """Kill the monitor that there is now."""
    process = swap_of(host).client.supervisor._process
    if process is not None:
        process.kill()


@contextmanager
def swapped_all_the_while(host: Talk) -> Iterator[list[str]]:
    """Enable, swap out and disable in a loop inside the ``with``; the list has what was refused."""
    swapping = swap_of(host)
    end = threading.Event()
    went: list[str] = []

    def swap() -> None:
        while not end.is_set():
            for command in (swapping.enable, swapping.client.swap_out, swapping.client.disable):
                try:
                    command()
                except SwapError as exc:
                    went.append(str(exc))

    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    try:
        yield went
    finally:
        end.set()
        thread.join()
