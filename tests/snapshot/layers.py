"""Layers in memory and in directories, and what they must hold, for the tests of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Self

from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.chain import Chain
from hfsched.snapshot.index import Component, MachineIdentity, Parent
from hfsched.snapshot.layer import Layer, LayerWriter, Subject, Vm, read_layer

MACHINE = MachineIdentity("aarch64", 62_500_000)
ZERO_PAGE = bytes(PAGE_SIZE)
Memory = dict[tuple[int, int], bytes]  # {VM, page}: contents


def vms(*pages: int) -> tuple[Vm, ...]:
    """Return VMs a, b, ... with so many pages."""
    return tuple(
        Vm(chr(ord("a") + number), "ffa-1.0", 0x4000_0000, size * PAGE_SIZE)
        for number, size in enumerate(pages)
    )


def subject(*pages: int, parent: Parent | None = None, created: int = 1) -> Subject:
    return Subject("0.1.0", created, MACHINE, vms(*pages), parent)


def page(seed: int) -> bytes:
    """Return a page: 0 is zero, odd ones can be compressed, others cannot."""
    if not seed:
        return ZERO_PAGE
    random = Random(seed)
    return (
        bytes([random.randrange(256)] * 8 + [seed % 251] * 8) * (PAGE_SIZE // 16)
        if seed % 2
        else random.randbytes(PAGE_SIZE)
    )


def write(
    made: Subject,
    pages: Memory,
    *,
    state: Mapping[str, Component] | None = None,
    hot: Sequence[tuple[int, int, int]] = (),
    codec: str = "lz4",
) -> tuple[bytes, bytes]:
    """Write a layer, a page at a time; return the files `index` and `pages`."""
    with MemoryFile() as index, MemoryFile() as file:
        writer = LayerWriter("made", file.fd, index.fd, made, codec=codec)
        for (vm, number), data in pages.items():
            writer.put(vm, number, data)
        writer.finish(state or {}, hot)
        return index.read(), file.read()


class MemoryFile:
    """A file without a name."""

    def __init__(self, data: bytes = b"") -> None:
        self.fd = os.memfd_create("layer")
        if data:
            assert os.write(self.fd, data) == len(data)

    def read(self) -> bytes:
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def read(index: bytes, pages: bytes, name: str = "layer") -> Layer:
    """Read a layer from its files' bytes."""
    with MemoryFile(index) as file:
        return read_layer(name, file.fd, MemoryFile(pages).fd)


def contents(chain: Chain) -> Memory:
    """Return all pages of a chain."""
    return {
        (number, page): bytes(chain.read_page(number, page))
        for number, vm in enumerate(chain.index.vms)
        for page in range(vm.size // PAGE_SIZE)
    }


def save(directory: Path, files: tuple[bytes, bytes]) -> Path:
    """Put a layer into a directory."""
    directory.mkdir(mode=0o700)
    for name, data in zip(("index", "pages"), files, strict=True):
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o600)
    return directory
