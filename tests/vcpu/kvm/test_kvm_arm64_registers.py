"""Registers by name on arm64 under KVM: the tests of every arm64 engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from arm64_guest import Guest, needs_kvm
from arm64_registers import *  # noqa: F403 - its tests

from hfsched.vcpu.engine import Vcpu

if TYPE_CHECKING:
    import a64
    from arm64_registers import Start

pytestmark = needs_kvm


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as guests:

        def begin(*items: a64.Item | list[a64.Item]) -> Vcpu:
            flat = [each for item in items for each in (item if isinstance(item, list) else [item])]
            return guests.enter_context(Guest(*flat)).cpu

        yield begin
