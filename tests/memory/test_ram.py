"""RAM keeps its size, whichever calls a process with its memfd makes."""

from __future__ import annotations

import fcntl
import os

import pytest

from hfsched.memory.ram import PAGE_SIZE, Ram


def test_it_cannot_be_truncated_or_extended() -> None:
    ram = Ram("guest", 4 * PAGE_SIZE)
    for size in (0, 5 * PAGE_SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(ram.fd, size)
    ram.write(3 * PAGE_SIZE, b"still there")
    assert ram.read(3 * PAGE_SIZE, 11) == b"still there"
    ram.close()


def test_it_cannot_be_made_read_only() -> None:
    ram = Ram("guest", PAGE_SIZE)
    with pytest.raises(PermissionError):
        fcntl.fcntl(ram.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    ram.close()
