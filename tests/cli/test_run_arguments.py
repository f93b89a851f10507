"""Any command line and any manifest: a machine's description, or one line of error."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.cli.run import _spec, add_parser
from hfsched.errors import UserError
from hfsched.memory.image import is_image
from hfsched.vmm.manifest import MachineSpec
from hfsched.vmm.sizes import MEMORY_MAX, VCPUS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def described(arguments: list[str]) -> MachineSpec | None:
    """Return what a command line asks for, None when it was refused in good order."""
    parser = argparse.ArgumentParser(prog="hfsched")
    add_parser(parser.add_subparsers())
    said = io.StringIO()
    code: object = None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            return _spec(parser.parse_args(["run", *arguments]))
        except UserError as error:
            said.write(f"error: {error}")
        except SystemExit as end:
            code = end.code
    assert code in (None, 0, 2), "0: the help was asked for"
    assert code == 0 or "error: " in said.getvalue()
    return None


def usable(spec: MachineSpec) -> None:
    """Check all that the machine relies on."""
    assert spec.vm
    names = [vm.name for vm in spec.vm]
    assert len(set(names)) == len(names)
    for vm in spec.vm:
        assert NAME.fullmatch(vm.name)
        assert vm.image
        assert 0 < vm.memory_bytes <= MEMORY_MAX
        assert vm.memory_bytes % 4096 == 0
        assert 0 <= vm.text_port < 1 << 32
    assert spec.engine in ("auto", "unicorn", "kvm", "script")
    assert spec.name is None or NAME.fullmatch(spec.name)


OPTIONS = [
    *("--guest", "--memory", "--vcpus", "--dialect", "--fdt", "--framing", "--engine", "--name"),
    *("--to", "--linger", "--json", "--quiet", "--no-stdin", "--no-sockets", "--help", "--", "-"),
    "--escape",
]
VALUES = [
    *("echo.bin", "a=echo.bin", "guests.py:echo", "=", "a=", "=b", "16MiB", "4096", "0", "-1", "1"),
    *("ffa-1.0", "raw", "ports", "script", "auto", "demo", "1e9", "nan", "\x1b[31m", "\udcff", ""),
]
WORDS = st.one_of(
    st.sampled_from(OPTIONS),
    st.sampled_from(VALUES),
    st.text(st.characters(exclude_characters="\0"), max_size=8),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=10))
def test_any_words(words: list[str]) -> None:
    spec = described(words)
    if spec is not None:
        usable(spec)


GUESTS = st.one_of(
    st.sampled_from(["echo.bin", "a=echo.bin", "b=x.py:fn", "module:fn", "a/b.bin"]),
    st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=12).filter(
        lambda word: not word.startswith("-")
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(GUESTS, min_size=1, max_size=5), st.integers(-10, 1 << 40))
def test_any_guests_and_memory(guests: list[str], memory: int) -> None:
    words = [word for guest in guests for word in ("--guest", guest)]
    spec = described([*words, f"--memory={memory}"])
    if spec is not None:
        usable(spec)
        assert len(spec.vm) == len(guests)
        assert {vm.memory_bytes for vm in spec.vm} == {memory}


@settings(max_examples=50, deadline=None)
@given(st.integers(-10, 100))
def test_any_number_of_vcpus(number: int) -> None:
    spec = described(["--guest", "echo.bin", f"--vcpus={number}"])
    assert (spec is not None) == (1 <= number <= VCPUS_MAX)


# Manifests.


@pytest.fixture(scope="module")
def manifest() -> Iterator[Path]:
    """A file to write manifests into."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "m.toml"


def scalars() -> st.SearchStrategy[str]:
    """Return TOML values."""
    return st.one_of(
        st.integers(-(2**70), 2**70).map(str),
        st.sampled_from(["true", "1.5", "inf", "nan", "[]", "{}", "[[1]]", "1979-05-27", "{a=1}"]),
        st.text(st.characters(categories=["L", "N", "P"]), max_size=8).map(quoted),
        st.sampled_from(['"echo.bin"', '"16MiB"', '"ffa-1.0"', '"raw"', '"script"', "1", "4096"]),
    )


def quoted(text: str) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else "x" for c in text) + '"'


KEYS = st.sampled_from(
    [
        *("image", "name", "memory", "vcpus", "dialect", "fdt", "framing", "ports", "base", "uuid"),
        "bootargs",
        *("engine", "vm", "unknown", "a.b", '""'),
    ]
)
TABLES = st.dictionaries(KEYS, scalars(), max_size=5)


@settings(max_examples=300, deadline=None)
@given(top=TABLES, vms=st.lists(TABLES, max_size=3), image=st.booleans())
def test_any_manifest(
    manifest: Path, top: dict[str, str], vms: list[dict[str, str]], image: bool
) -> None:
    lines = [f"{key} = {value}" for key, value in top.items()]
    for vm in vms:
        table = {"image": '"echo.bin"', **vm} if image else vm
        lines += ["[[vm]]", *(f"{key} = {value}" for key, value in table.items())]
    manifest.write_text("\n".join(lines))
    spec = described([str(manifest)])
    if spec is not None:
        usable(spec)
        assert len(spec.vm) == len(vms)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_as_a_manifest(manifest: Path, data: bytes) -> None:
    manifest.write_bytes(data)
    assert described([str(manifest)]) is None or is_image(data), "the content decides"


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["--memory=4096", "--vcpus=1", "--fdt=x", "--framing=raw"]), st.booleans())
def test_a_manifest_and_an_option_for_guests_do_not_go_together(
    manifest: Path, option: str, first: bool
) -> None:
    manifest.write_text('[[vm]]\nimage = "echo.bin"\n')
    words = [option, str(manifest)] if first else [str(manifest), option]
    assert described(words) is None
    assert described([str(manifest)]) is not None
