"""What `hfsched run` refuses: one line that names the thing, status 1 or 2, and at once."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from memory.elf_writer import ET_EXEC, Load, build, linux_header, patch

if TYPE_CHECKING:
    from conftest import Start

SPIN = b"\0\0\0\x14"  # b .


def refusal(run: Start, *arguments: str, status: int = 1) -> str:
    """Return the one line that a command line is refused with."""
    refused = run(*arguments, memory=4 << 30)
    assert refused.wait() == status, refused.err
    assert refused.out == ""
    (line,) = (line for line in refused.err.splitlines() if not line.startswith("hfsched: engine"))
    assert line.startswith("hfsched: error: ")
    assert line.isprintable()
    return line.removeprefix("hfsched: error: ")


def write(name: str, data: bytes | str) -> None:
    Path(name).write_bytes(data.encode() if isinstance(data, str) else data)


# Images.

TWO = build(Load(0, SPIN, 0x1000), Load(0x1000, SPIN, 0x1000))

IMAGES = {
    "empty": (b"", "an empty file"),
    "text": (
        b"hello\n" * 100,
        "neither an arm64 Linux image, an x86-64 flat image nor an ELF64 file",
    ),
    "zeros": (bytes(4096), "zeros"),
    "gzip": (b"\x1f\x8b" + bytes(100), "gunzip it first"),
    "script": (b"#!/bin/sh\n", "a script"),
    "half-elf-header": (TWO[:40], "truncated"),
    "half-elf-segment": (TWO[:-2], "truncated"),
    "half-linux-header": (linux_header()[:60], ""),
    "riscv": (patch(TWO, "machine", 243), "RISCV"),
    "elf32": (patch(TWO, "class", 1), "32"),
    "big-endian": (patch(TWO, "data", 2), "big-endian"),
    "overlap": (patch(TWO, "p_memsz", 0x1001), "overlap"),
    "overlap-by-address": (patch(TWO, "p_vaddr", 0x800, program=1), "overlap"),
    "beyond-the-file": (patch(TWO, "p_filesz", 0x100000), ""),
    "beyond-all-addresses": (patch(TWO, "p_vaddr", 2**64 - 0x1000, program=1), ""),
    "memory-of-2-to-the-63": (patch(TWO, "p_memsz", 2**63, program=1), ""),
    "no-segment": (build(), ""),
    "entry-outside": (patch(TWO, "entry", 0x800000), "the entry 0x800000"),
    "larger-than-memory": (build(Load(0, SPIN, 17 << 20)), "the VM has 0x1000000"),
    "larger-than-everything": (build(Load(0, SPIN, 1 << 39)), "0x8000000000"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_cannot_be_booted(run: Start, name: str) -> None:
    data, why = IMAGES[name]
    write(name, data)
    line = refusal(run, "--guest", name)
    assert name in line
    assert why in line


def test_an_image_of_an_architecture_that_the_engine_has_not(run: Start) -> None:
    write("other.elf", build(Load(0, SPIN, 0x1000), machine="x86_64"))
    line = refusal(run, "--guest", "other.elf", "--engine", "unicorn")
    assert line.startswith("vm other: --engine unicorn runs aarch64 images only")


def test_an_image_that_is_linked_above_all_addresses(run: Start) -> None:
    write("high.elf", build(Load(1 << 45, SPIN, 0x1000), kind=ET_EXEC))
    assert "high.elf" in refusal(run, "--guest", "high.elf")


def test_an_image_that_is_not_there_names_those_that_are(run: Start) -> None:
    line = refusal(run, "--guest", "absent.bin")
    assert line.startswith("vm absent: image absent.bin: no such file, and no bundled guest (")


def test_an_image_in_a_directory_that_is_not_there(run: Start) -> None:
    assert "nowhere/absent.bin: cannot be read: No such file" in refusal(
        run, "--guest", "nowhere/absent.bin"
    )


def test_things_that_are_no_files(run: Start) -> None:
    Path("folder").mkdir()
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    assert "folder: a directory" in refusal(run, "--guest", "folder")
    assert "fifo: not a regular file" in refusal(run, "--guest", "fifo")
    assert "/dev/zero: not a regular file" in refusal(run, "--guest", "/dev/zero")
    assert "loop" in refusal(run, "--guest", "loop")
    assert "/proc/self/mem: " in refusal(run, "--guest", "/proc/self/mem")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_image_that_must_not_be_read(run: Start) -> None:
    write("secret.bin", TWO)
    Path("secret.bin").chmod(0)
    assert "secret.bin: cannot be read: Permission denied" in refusal(run, "--guest", "secret.bin")


def test_one_bad_guest_among_good_ones(run: Start) -> None:
    line = refusal(run, "--guest", "guests.py:echo", "--guest", "bad=absent.bin")
    assert line.startswith("vm bad: ")


def test_a_name_that_a_terminal_would_obey_is_escaped(run: Start) -> None:
    assert "x1b[31m" in refusal(run, "--guest", "a\x1b[31m\nb")


@pytest.mark.parametrize("name", ["folder", "fifo", "/dev/zero", "absent.dtb", "text.dtb"])
def test_a_device_tree_that_is_none(run: Start, name: str) -> None:
    Path("folder").mkdir()
    os.mkfifo("fifo")
    write("text.dtb", "text")
    line = refusal(run, "--guest", "guests.py:echo", "--fdt", name)
    assert line.startswith(f"vm guests: fdt {name}: ")


# Engines.


def test_an_engine_that_does_not_fit(run: Start) -> None:
    write("guest.elf", TWO)
    assert "guest.elf" in refusal(run, "--engine", "script", "--guest", "guest.elf")
    for engine in ("unicorn", "kvm"):
        line = refusal(run, "--engine", engine, "--guest", "guests.py:echo")
        assert line == f"vm guests: engine {engine} cannot run a Python guest: use script"


# The command line.


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "name a guest, such as trusty.bin, or a machine's manifest"),
        (["machine.toml", "--guest", "echo"], "machine.toml, echo: either a manifest or guests"),
        (["--guest", "guests.py:echo", "--to", "nobody"], "--to nobody: no such VM: .* guests$"),
        (["--guest", "a=guests.py:echo", "--guest", "a=guests.py:echo"], "two VMs are called 'a'"),
        (["--guest", "a b=guests.py:echo"], "VM name 'a b'"),
        (["--guest", ""], "image is empty"),
        (["--guest", "a="], "image is empty"),
        (["--guest", "guests.py:echo", "--memory", "4097"], "memory '4097'"),
        (["--guest", "guests.py:echo", "--memory", "65GiB"], "memory '65GiB'"),
        (["--guest", "guests.py:echo", "--memory", ""], "memory ''"),
        (["--guest", "guests.py:echo", "--name", "a/b"], "machine name 'a/b'"),
        (["--guest", "guests.py:echo", "--linger", "-1"], "--linger '-1': a time"),
        (["--guest", "guests.py:echo", "--linger", "nan"], "--linger 'nan': a time"),
        (["--guest", "guests.py:echo", "--linger", "inf"], "--linger 'inf': a time"),
        (
            ["machine.toml", "--vcpus", "2"],
            "--vcpus: write it into the manifest machine.toml instead",
        ),
    ],
)
def test_a_command_line_that_cannot_be_used(run: Start, arguments: list[str], why: str) -> None:
    assert re.search(why, refusal(run, *arguments, status=2))


@pytest.mark.parametrize(
    "arguments",
    [["--vcpus", "x"], ["--linger", "soon"], ["--engine", "qemu"], ["--dialect", "french"], ["-x"]],
)
def test_misuse_is_status_2(run: Start, arguments: list[str]) -> None:
    misuse = run("--guest", "guests.py:echo", *arguments)
    assert misuse.wait() == 2
    (line,) = misuse.err.splitlines()
    assert line.startswith("hfsched: error: ")
    assert arguments[0] in line


@pytest.mark.parametrize("number", ["0", "-1", "33", "1e3", "999999", "x", "", "9" * 5000])
def test_a_number_of_vcpus_that_no_vm_has(run: Start, number: str) -> None:
    line = refusal(run, "--guest", "guests.py:echo", "--vcpus", number, status=2)
    assert line == f"--vcpus {number[:80]!r}: a number from 1 to 32"


def test_memory_that_this_host_does_not_have(run: Start) -> None:
    line = refusal(run, "--guest", "guests.py:echo", "--memory", "64GiB")
    assert line == (
        "a limit of 4194304 KiB of addresses (ulimit -v): at least 67321856 KiB are needed"
    )


# Manifests.

GOOD = '[[vm]]\nname = "a"\nimage = "guests.py:echo"\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", ""),
        ("vm = []", "no VM"),
        (GOOD + "colour = 1\n", "colour"),
        ("speed = 9\n" + GOOD, "speed"),
        (GOOD + GOOD, "two VMs are called 'a'"),
        (GOOD + "memory = '1 byte'\n", "memory '1 byte'"),
        (GOOD + "vcpus = 0\n", "vcpus"),
        (GOOD + "vcpus = 'two'\n", "vcpus"),
        (GOOD + "dialect = 'french'\n", "french"),
        (GOOD + "ports = { text = -1 }\n", "port text = -1"),
        (GOOD + "image = 'twice'\n", ""),
        (GOOD + "base = 4095\n", "base"),
        ("[[vm]]\nname = 'a'\n", "image"),
        ("[[vm]\n", ""),
        (b"\xff\xfe\x00", ""),
        ("[" * 5000, ""),
        ("a." * 5000 + "b = 1", ""),
        ("[[vm]]\nimage = 'absent.bin'\n", "absent.bin"),
        pytest.param('[[vm]]\nimage = "a\\u0000b"\n', ""),
        (GOOD.replace("guests.py:echo", "guests.py:absent"), "no function 'absent'"),
    ],
)
def test_a_manifest_that_cannot_be_used(run: Start, text: str | bytes, why: str) -> None:
    write("m.toml", text)
    assert why in refusal(run, "m.toml")


def test_two_vms_that_want_the_same_memory(run: Start) -> None:
    write(
        "m.toml", (GOOD + "base = 0x40000000\n") + GOOD.replace('"a"', '"b"') + "base = 0x40fff000"
    )
    assert "vm b: memory [0x40fff000, 0x41fff000) overlaps that of a" in refusal(run, "m.toml")


def test_a_manifest_that_is_not_there(run: Start) -> None:
    assert refusal(run, "absent.toml") == "manifest absent.toml: No such file or directory"


def test_a_manifest_that_is_a_directory(run: Start) -> None:
    assert refusal(run, ".") == ".: a directory: name a guest image or a manifest in it"
    Path("m.toml").mkdir()
    assert refusal(run, "m.toml") == "m.toml: a directory: name a guest image or a manifest in it"


@pytest.mark.parametrize("name", ["fifo", "/dev/zero"])
def test_a_manifest_that_is_no_file(run: Start, name: str) -> None:
    os.mkfifo("fifo")
    assert name in refusal(run, name)


# Python guests.


@pytest.mark.parametrize(
    ("guest", "why"),
    [
        ("absent.py", "No such file or directory"),
        ("absent_module:fn", "no module 'absent_module': write FILE.py:fn"),
        ("guests.py:absent", "no function 'absent'"),
        ("guests.py:", "no function 'guest'"),
        ("guests.py:GUESTS", "no function 'GUESTS'"),
        ("guests.py:Intid.UNKNOWN", "no function"),
        ("syntax.py", "SyntaxError"),
        ("raises.py", "ZeroDivisionError: division by zero"),
        ("folder.py", "folder.py"),
        (":fn", ""),
        ("..:fn", ""),
    ],
)
def test_a_python_guest_that_cannot_be_had(run: Start, guest: str, why: str) -> None:
    write("syntax.py", "def guest(:\n")
    write("raises.py", "1 / 0\n")
    Path("folder.py").mkdir()
    line = refusal(run, "--guest", f"g={guest}")
    assert line.startswith(f"vm g: script guest {guest}: ")
    assert why in line


def test_a_python_file_that_exits(run: Start) -> None:
    write("exits.py", "import sys\nsys.exit(0)\n")
    assert "exits.py" in refusal(run, "--guest", "exits.py")


def test_an_unknown_bundled_program_names_those_there_are(run: Start) -> None:
    line = refusal(run, "--engine", "script", "--guest", "absent")
    assert "there are echo, reader, relay, utility" in line


def test_json_is_always_escaped(run: Start) -> None:
    refused = run("guests.py:echo", "--json", "--escape", "never")
    assert refused.wait() == 2
    why = "--escape and --json: choose one: JSON is always escaped"
    assert refused.err == f"hfsched: error: {why}\n"
    assert json.loads(refused.out) == {"event": "error", "text": why}
