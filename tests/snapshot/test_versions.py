"""Layers of former versions stay readable: their bytes are in `versions/`, each made once.

`python -m tests.snapshot.test_versions DIRECTORY` makes those of the present version.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from hfsched.snapshot.chain import Chain
from hfsched.snapshot.directory import open_chain
from hfsched.snapshot.index import VERSION, Component, Parent
from hfsched.snapshot.report import verify

from .layers import Memory, contents, page, read, save, subject, write

VERSIONS = Path(__file__).parent / "versions"
SEEDS = [1, 0, 3, 2, 0, 0, 5]
STATE = {"mailbox.a": Component(1, b"\x81\xa1a\x01"), "clock": Component(2, b"")}


def first() -> Memory:
    """Return what the full layer holds: 35 pages of VM a, 3 of VM b."""
    places = [(vm, number) for vm, size in ((0, 35), (1, 3)) for number in range(size)]
    # At most one page that cannot be compressed, so that the files are small.
    return {at: page(SEEDS[n % 7] if n < 7 else SEEDS[n % 7] % 2) for n, at in enumerate(places)}


CHANGES = {(0, 34): page(7), (0, 0): page(0), (1, 1): page(9)}


def make(directory: Path) -> None:
    """Write a chain: full (lz4), next (zstd), last (uncompressed)."""
    directory.mkdir(parents=True)
    full = write(subject(35, 3), first(), state=STATE, hot=[(1, 0, 2), (0, 3, 1)])
    save(directory / "full", full)
    changes = [("next", CHANGES, "zstd"), ("last", {(1, 2): page(11)}, "raw")]
    below, files = "full", full
    for name, pages, codec in changes:
        layer = read(*files)
        layer.close()
        made = subject(35, 3, parent=Parent(below, layer.hash), created=2)
        files = write(made, pages, state=STATE, codec=codec)
        save(directory / name, files)
        below = name


def opened(version: int, tmp_path: Path) -> Chain:
    """Return a version's chain, from a copy with the modes that a checkout does not keep."""
    for layer in (VERSIONS / str(version)).iterdir():
        save(
            tmp_path / layer.name, ((layer / "index").read_bytes(), (layer / "pages").read_bytes())
        )
    return open_chain(tmp_path / "last")


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_a_former_version_stays_readable(version: int, tmp_path: Path) -> None:
    chain = opened(version, tmp_path)
    assert contents(chain) == first() | CHANGES | {(1, 2): page(11)}
    assert chain.state == STATE
    assert chain.layers[0].layout.hot() == [(1, 0, 2), (0, 3, 1)]
    assert {kind for layer in chain.layers for kind in layer.layout.kinds} == {0, 1, 2}
    assert [verify(layer) for layer in chain.layers] == [[], [], []]
    chain.close()


HASHES = {1: "6cd62f24eca6c674"}


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_its_bytes_have_not_changed(version: int) -> None:
    digest = hashlib.sha256()
    for file in sorted((VERSIONS / str(version)).rglob("*")):
        digest.update(file.read_bytes() if file.is_file() else file.name.encode())
    assert digest.hexdigest()[:16] == HASHES[version]


def test_the_script_makes_what_is_read(tmp_path: Path) -> None:
    make(tmp_path / "made")
    chain = open_chain(tmp_path / "made" / "last")
    assert contents(chain) == first() | CHANGES | {(1, 2): page(11)}
    chain.close()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
