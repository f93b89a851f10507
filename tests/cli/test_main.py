"""`hfsched`: commands, help, and the report of an error."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfsched import __version__
from hfsched.cli.main import COMMANDS
from hfsched.vcpu.kvm import device

if TYPE_CHECKING:
    from conftest import Start


def test_the_version(hfsched: Start) -> None:
    version = hfsched("--version")
    assert version.wait() == 0
    hfsched_line, unicorn, kvm = version.out.splitlines()
    assert hfsched_line == f"hfsched {__version__}"
    assert re.fullmatch(
        r"unicorn \d+\.\d+\S*|no unicorn: pip install 'hfsched\[emulator\]'", unicorn
    )
    why_not = device.problem()
    assert kvm == (
        f"KVM API 12, {device.MACHINE} guests" if why_not is None else f"no KVM: {why_not}"
    )


def test_help_names_every_command(hfsched: Start) -> None:
    told = hfsched("--help")
    assert told.wait() == 0
    for command, (_, text) in COMMANDS.items():
        assert re.search(rf"^ +{command}\s+{re.escape(text)}$", told.out, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(hfsched: Start, command: str) -> None:
    told = hfsched(command, "--help")
    assert told.wait() == 0
    assert told.out.startswith(f"usage: hfsched {command}")


def test_help_is_plain_ascii_and_fits_a_terminal(hfsched: Start) -> None:
    told = hfsched("run", "--help", environment={"COLUMNS": "100"})
    assert told.wait() == 0
    assert told.out.isascii()
    assert max(map(len, told.out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "required: COMMAND"),
        (["fly"], "no command 'fly': run, swap,"),
        (["ruin"], "no command 'ruin': did you mean `hfsched run`?"),
        (["trusty.bin"], "did you mean `hfsched run trusty.bin`?"),
        (
            ["run", "--gest", "a"],
            "no option --gest: did you mean '--guest'? (see hfsched run --help)",
        ),
        (["image", "a", "b"], "'b': one word too many (see hfsched image --help)"),
        (["--fly", "run"], "--fly"),
        (["image"], "required: FILE"),
    ],
)
def test_misuse(hfsched: Start, arguments: list[str], why: str) -> None:
    misuse = hfsched(*arguments)
    assert misuse.wait() == 2
    assert misuse.out == ""
    assert why in misuse.err.splitlines()[-1]


def test_a_word_after_an_option_is_not_taken_for_a_command(hfsched: Start) -> None:
    echo = hfsched("run", "--guest", "image=guests.py:echo")
    assert echo.wait() == 0
    assert echo.out == "[image] up\n"


def test_a_missing_file_is_one_line(hfsched: Start) -> None:
    image = hfsched("image", "away/absent")
    assert image.wait() == 2
    assert image.err == "hfsched: error: away/absent: cannot be read: No such file or directory\n"


def test_standard_output_is_closed(hfsched: Start) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    image = hfsched("image", "guests.py", stdout=writer)
    os.close(writer)
    assert image.wait() == 1
    assert image.err == ""


def test_standard_output_is_full(hfsched: Start) -> None:
    with Path("/dev/full").open("wb") as full:
        image = hfsched("image", "guests.py", stdout=full)
        assert image.wait() == 1
    assert "No space left on device" in image.err
