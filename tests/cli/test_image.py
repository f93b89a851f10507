"""`hfsched image`: what it prints, and its exit status."""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from hfsched.cli.image import add_parser
from hfsched.vmm.guests import bundled_images

if TYPE_CHECKING:
    from pathlib import Path

Command = Callable[..., tuple[int, str, str]]

RAW = struct.pack("<IIQQQQQQ4sI", 0x14000010, 0, 0x1000, 0x2000, 0, 0, 0, 0, b"ARMd", 0)


def elf(machine: int = 62, kind: int = 2, flags: int = 5) -> bytes:
    """A one-segment ELF64 at 1 MiB."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, kind, machine, 1, 0x100000, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    program = struct.pack("<IIQQQQQQ", 1, flags, 120, 0x100000, 0x100000, 4, 0x30, 0x1000)
    return header + program + b"\xf4\xf4\xf4\xf4"


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command on a file with the content given; return (status, output, path)."""

    def run(content: bytes | None, *options: str, name: str = "guest") -> tuple[int, str, str]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        parser = argparse.ArgumentParser()
        add_parser(parser.add_subparsers())
        args = parser.parse_args(["image", str(path), *options])
        status = args.run(args)
        return status, capfd.readouterr().out, str(path)

    return run


def test_a_raw_image(command: Command) -> None:
    status, out, path = command(RAW)
    assert status == 0
    assert out == (
        f"{path}: arm64 Linux image for aarch64, position independent\n"
        "  entry        0x0 from the base\n"
        "  memory       8192 bytes (0x2000) from the base\n"
        "  alignment    0x1000\n"
        "  text_offset  0x1000\n"
        "  relocations  unknown: a flat image does not list them\n"
        "  boots        yes: unicorn on any host, kvm on an arm64 host\n"
        "\n"
        "  address  file  memory  access\n"
        "  0x0      0x40  0x2000  rwx\n"
    )


def test_a_flat_x86_image(command: Command) -> None:
    status, out, path = command(RAW.replace(b"ARMd", b"HFXd"))
    assert status == 0
    assert out.startswith(f"{path}: x86-64 flat image for x86_64, position independent\n")
    assert "  text_offset  0x1000\n  relocations  unknown: a flat image" in out
    assert "  boots        yes: kvm on an x86-64 host\n" in out


def test_a_fixed_elf(command: Command) -> None:
    status, out, path = command(elf())
    assert status == 0
    assert out == (
        f"{path}: ELF64 image for x86_64, fixed at 0x100000\n"
        "  entry        0x100000\n"
        "  memory       48 bytes (0x30)\n"
        "  alignment    0x1000\n"
        "  relocations  none\n"
        "  boots        yes: kvm on an x86-64 host\n"
        "\n"
        "  address   file  memory  access\n"
        "  0x100000  0x4   0x30    r-x\n"
    )


def test_an_aarch64_elf_runs_on_both_engines(command: Command) -> None:
    assert "yes: unicorn on any host, kvm on an arm64 host" in command(elf(machine=183))[1]


def test_an_image_that_would_not_boot_is_described_all_the_same(command: Command) -> None:
    status, out, _ = command(elf(flags=4))
    assert status == 1
    assert "boots        no: the entry 0x100000 is in no executable segment\n" in out
    assert "  0x100000  0x4   0x30    r--\n" in out


def test_a_malformed_elf(command: Command) -> None:
    status, out, path = command(elf()[:-1])
    assert status == 1
    assert out == (
        f"{path}: ELF64 image\n"
        "  size        123 bytes\n"
        "  looks like  a 64-bit little-endian ELF file\n"
        "  boots       no: truncated: PT_LOAD (program header 0) ends at 0x7c of a file of"
        " 0x7b bytes\n"
    )


def test_an_unknown_file(command: Command) -> None:
    status, out, path = command(b"\x1f\x8b\x08")
    assert status == 1
    assert out.startswith(f"{path}: unknown kind\n  size        3 bytes\n  looks like  gzip data")


def test_an_unreadable_file(
    command: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["image", str(tmp_path / "absent")])
    assert args.run(args) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"hfsched: error: {tmp_path}/absent: cannot be read: No such file or directory\n"
    )


def test_json_of_an_image(command: Command) -> None:
    status, out, path = command(elf(machine=183), "--json")
    assert status == 0
    assert json.loads(out) == {
        "name": path,
        "kind": "elf64",
        "file_size": 124,
        "looks_like": "a 64-bit little-endian ELF file",
        "machine": "aarch64",
        "entry": 0x100000,
        "fixed_base": 0x100000,
        "memory_size": 0x30,
        "alignment": 0x1000,
        "text_offset": 0,
        "relocations": {},
        "segments": [
            {"address": 0x100000, "file_size": 4, "memory_size": 0x30, "permissions": "rx"}
        ],
        "boots": True,
        "problem": None,
        "engines": [
            {"engine": "unicorn", "host": "any host"},
            {"engine": "kvm", "host": "an arm64 host"},
        ],
    }


def test_json_of_an_unknown_file(command: Command) -> None:
    status, out, path = command(b"", "--json")
    assert status == 1
    assert json.loads(out) == {
        "name": path,
        "kind": "unknown",
        "file_size": 0,
        "looks_like": "an empty file",
        "boots": False,
        "problem": "neither an arm64 Linux image, an x86-64 flat image nor an ELF64 file (0 bytes):"
        " an empty file",
        "engines": [],
    }


def test_a_hostile_name_does_not_reach_the_terminal(command: Command) -> None:
    _, out, _ = command(RAW, name="a\x1b[31m\nb")
    assert "\x1b" not in out
    assert "a\\x1b[31m\\nb: arm64 Linux image" in out


@pytest.mark.skipif("echo.bin" not in bundled_images(), reason="the bundled guests are not built")
def test_a_bundled_guest_has_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["image", "x86_64/echo.bin"])
    assert args.run(args) == 0
    assert "x86-64 flat image for x86_64" in capfd.readouterr().out


def test_what_is_no_image_is_called_as_run_calls_it(command: Command) -> None:
    status, out, _ = command(b"#include <stdio.h>\n", name="hello.c")
    assert status == 1
    assert "  looks like  text\n" in out
    assert "--raw-image" not in out
    status, out, path = command(b'[[vm]]\nimage = "x"\n', name="m.toml")
    assert status == 1
    assert "  looks like  a machine's manifest\n" in out
    assert f"  boots       no: a machine's manifest, not an image: hfsched run {path}\n" in out


def test_a_python_guest_is_said_to_be_one(command: Command) -> None:
    status, out, path = command(b"def guest(cpu):\n    yield\n", name="hello.py")
    assert status == 1
    assert f"boots       no: no image: a guest written in Python: hfsched run {path}" in out
