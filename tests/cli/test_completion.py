"""`hfsched completion`: what a shell offers is what the parsers take."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfsched.cli.completion import commands
from hfsched.cli.main import COMMANDS
from hfsched.vmm.guests import bundled_images

if TYPE_CHECKING:
    from conftest import Start

BASH = shutil.which("bash")
with_bash = pytest.mark.skipif(BASH is None, reason="there is no bash")
ASK = """
. ./script
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_hfsched 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(hfsched: Start, shell: str) -> str:
    made = hfsched("completion", shell)
    assert made.wait() == 0, made.err
    return made.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_option_of_every_command_is_offered(hfsched: Start, shell: str) -> None:
    text = script(hfsched, shell)
    for command in commands():
        assert command.name in text
        for names, _, value in command.options:
            for name in names:
                dashes = "-l " if name.startswith("--") else "-s "
                assert (dashes + name.lstrip("-") if shell == "fish" else name) in text
            for choice in value.choices if value else ():
                assert choice in text
    assert {each.name for each in commands()} == set(COMMANDS)


def offered(*words: str, **environment: str) -> list[str]:
    assert BASH is not None
    out = subprocess.run(
        [BASH, "-c", ASK, "bash", "hfsched", *words],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{Path('bin').absolute()}:{os.environ['PATH']}", **environment},
    )
    return sorted(out.stdout.split())


@with_bash
def test_what_bash_offers(hfsched: Start) -> None:
    Path("script").write_text(script(hfsched, "bash"))
    Path("guest.bin").touch()
    Path("folder").mkdir()
    assert offered("sw") == ["swap"]
    assert offered("su") == ["suspend"]
    assert offered("resume", "--w") == ["--within"]
    assert offered("run", "--eng") == ["--engine"]
    assert offered("run", "--engine", "u") == ["unicorn"]
    assert offered("run", "--quiet", "guest") == ["guest.bin", "guests.py"]
    assert offered("run", "--swap-dir", "") == ["folder"]
    assert offered("run", "--memory", "") == []
    assert offered("swap", "--within", "3", "st") == ["status"]
    assert offered("snapshot", "v") == ["verify"]
    assert offered("snapshot", "diff", "") == ["folder"]
    assert offered("snapshot", "merge", "folder", "fo") == ["folder"]
    assert offered("snapshot", "merge", "--codec", "z") == ["zstd"]
    assert offered("snapshot", "take", "--l") == ["--live"]
    assert offered("image", "--json", "gu") == ["guest.bin", "guests.py"]
    assert offered("completion", "f") == ["fish"]
    assert offered("fuzz", "mai") == ["mailbox"]
    assert offered("fuzz", "re") == ["replay", "restored"]
    assert offered("fuzz", "mailbox", "--variant", "up") == ["upstream"]
    assert offered("run", "--fdt", "ech") == []
    for bundled in {"trusty.bin", "echo.bin"} & {*bundled_images()}:
        assert offered("image", bundled[:3]) == [bundled]
    assert offered("fuzz", "--seed", "1", "e") == ["events", "explain"]
    assert offered("fuzz", "mailbox", "--strategy", "p") == ["pct", "portfolio", "pos"]


@with_bash
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["a", "=", "gue"], ["guest.bin", "guests.py"]),  # as bash splits it
        (["a=gue"], ["a=guest.bin", "a=guests.py"]),  # as zsh does
        (["a", "="], ["folder", "guest.bin", "guests.py", "script"]),
        (["--engine", "=", "u"], ["unicorn"]),
        (["--engine=u"], ["--engine=unicorn"]),
        (["a", "=", "x/guest.bin", "--memory", "4MiB", "x/b.elf", "--to", ""], ["a", "b"]),
        (
            ["a=guest.bin", "--guest", "c=b.elf", "--quiet", "d.py:main", "--to", ""],
            ["a", "c", "d"],
        ),
        (["machine.toml", "--to", ""], []),
    ],
)
def test_what_bash_offers_of_guests(hfsched: Start, words: list[str], names: list[str]) -> None:
    Path("script").write_text(script(hfsched, "bash"))
    Path("guest.bin").touch()
    Path("folder").mkdir()
    found = offered("run", *words)
    assert [each for each in found if each.rpartition("=")[2] not in bundled_images()] == names


@with_bash
def test_names_of_what_runs(hfsched: Start, run: Start, runtime_directory: Path) -> None:
    Path("script").write_text(script(hfsched, "bash"))
    Path("bin").mkdir()
    Path("bin/hfsched").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hfsched "$@"\n')
    Path("bin/hfsched").chmod(0o755)
    machine = run("a=guests.py:echo", "b=guests.py:echo", "--name", "completed")
    machine.type("hello\n")
    machine.until("hello")
    here = {
        "XDG_RUNTIME_DIR": str(runtime_directory),
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent.parent),
    }
    for command in ("events", "suspend", "resume"):
        assert offered(command, "comp", **here) == ["completed"]
    assert offered("swap", "status", "completed/", **here) == ["completed/a", "completed/b"]
    # Others of this user may run too.
    assert {"a", "b", "completed/a", "completed/b"} <= {*offered("swap", "out", "", **here)}
    assert machine.wait() == 0
