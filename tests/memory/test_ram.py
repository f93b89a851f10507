"""RAM is as long as it was made, whatever a process does that is given its memfd."""

from __future__ import annotations

import fcntl
import os

import pytest

from hfsched.memory.ram import PAGE_SIZE, Ram


def test_nobody_cuts_or_lengthens_it() -> None:
    ram = Ram("guest", 4 * PAGE_SIZE)
    for size in (0, 5 * PAGE_SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(ram.fd, size)
    ram.write(3 * PAGE_SIZE, b"still there")
    assert ram.read(3 * PAGE_SIZE, 11) == b"still there"
    ram.close()


def test_nobody_makes_it_read_only() -> None:
    ram = Ram("guest", PAGE_SIZE)
    with pytest.raises(PermissionError):
        fcntl.fcntl(ram.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    ram.close()
