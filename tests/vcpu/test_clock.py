"""A VM's counter: what is taken out of it."""

from __future__ import annotations

from hfsched.vcpu.clock import Clock


def test_a_frozen_clock_and_one_that_is_set_back() -> None:
    time = 1000
    clock = Clock(lambda: time)
    time = 1500
    clock.freeze()
    time = 1700
    assert clock.read() == 1500
    clock.set_back(300)
    assert clock.read() == 1200
    clock.thaw()
    assert clock.read() == 1200
    time = 1750
    assert clock.read() == 1250
